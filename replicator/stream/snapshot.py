"""The guest at one checkpoint of a stream: its memory, its registers and devices, what a stream says of it once.

`SnapshotBuilder` takes the items of a decoder. Up to the first CHECKPOINT they count at once, as in a receiver:
there is nothing to fall back to. From then on the records of a round are kept apart until the round is whole,
so a stream that breaks off leaves its last whole checkpoint. Of records that come again the newest counts,
of HVM parameters and xenstore keys the newest of each.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace

from replicator.errors import RecordTooLarge, TruncatedStream
from replicator.limits import GUEST_STATE_BYTES_MAX
from replicator.stream.image import GuestImage
from replicator.units import PAGE_SIZE
from replicator.wire import layout
from replicator.wire.layout import LibxcType, LibxlType
from replicator.wire.records import (
    CheckpointEnd,
    CheckpointRecord,
    CpuidPolicy,
    DomainHeader,
    EmulatorContext,
    EmulatorXenstoreData,
    End,
    Handshake,
    HvmContext,
    HvmParam,
    HvmParams,
    Item,
    LibxcContext,
    LibxlEnd,
    LibxlHeader,
    MsrPolicy,
    P2mFrames,
    PageRun,
    PageTable,
    PvInfo,
    Record,
    SharedInfo,
    TscInfo,
    VcpuBasic,
    VcpuExtended,
    VcpuMsrs,
    VcpuXsave,
    Verify,
    XlHeader,
    record_name,
)

#: The order in which the records of a tail are written; those of a vcpu stay together.
_TAIL_ORDER = {
    kind: place
    for place, kind in enumerate(
        (LibxcType.X86_TSC_INFO, LibxcType.SHARED_INFO, LibxcType.HVM_PARAMS, LibxcType.HVM_CONTEXT)
    )
}
_VCPU_ORDER = {
    LibxcType.X86_PV_VCPU_BASIC: 0,
    LibxcType.X86_PV_VCPU_EXTENDED: 1,
    LibxcType.X86_PV_VCPU_XSAVE: 2,
    LibxcType.X86_PV_VCPU_MSRS: 3,
}

#: What ends a round.
TailRecord = TscInfo | SharedInfo | HvmParams | HvmContext | VcpuBasic | VcpuExtended | VcpuXsave | VcpuMsrs
#: What tells two records of a state apart: type and, of a vcpu's, its number.
Key = tuple[LibxcType, int]


@dataclass(slots=True)
class GuestState:
    """All of a guest but its memory."""

    xl_header: XlHeader | None = None
    libxl_header: LibxlHeader = field(default_factory=LibxlHeader)
    domain: DomainHeader | None = None
    #: X86_PV_INFO and the policies, in the order of the stream.
    static: dict[LibxcType, Record] = field(default_factory=dict)
    #: All frames of the p2m list that were named, from pfn 0 on.
    p2m: P2mFrames | None = None
    #: Registers, clocks and what else ends a round.
    tail: dict[Key, Record] = field(default_factory=dict)
    #: EMULATOR_XENSTORE_DATA and EMULATOR_CONTEXT.
    device_model: dict[LibxlType, EmulatorXenstoreData | EmulatorContext] = field(default_factory=dict)
    # Bytes of the records in `tail` and `device_model`.
    _held: int = 0

    def take(self, record: Record | XlHeader) -> None:
        """Take one record; those that carry no state are passed over. RecordTooLarge when all of them together
        exceed GUEST_STATE_BYTES_MAX."""
        match record:
            case XlHeader():
                self.xl_header = record
            case LibxlHeader():
                self.libxl_header = record
            case DomainHeader():
                self.domain = record
            case PvInfo() | CpuidPolicy() | MsrPolicy():
                self.static[record.TYPE] = record
            case P2mFrames():
                self.p2m = record if self.p2m is None else self._grow_p2m(self.p2m, record)
            case EmulatorXenstoreData():
                self._put_device_model(_add_entries(self.device_model.get(record.TYPE), record))
            case EmulatorContext():
                self._put_device_model(record)
            case HvmParams():
                self._put_tail(_add_params(self.tail.get((record.TYPE, 0)), record), 0)
            case VcpuBasic() | VcpuExtended() | VcpuXsave() if not record.blob:
                pass  # senders of Xen 4.6 to 4.8 wrote such records; they say nothing
            case VcpuBasic() | VcpuExtended() | VcpuXsave() | VcpuMsrs():
                self._put_tail(record, record.vcpu_id)
            case TscInfo() | SharedInfo() | HvmContext():
                self._put_tail(record, 0)

    def _put_tail(self, record: TailRecord, number: int) -> None:
        key = record.TYPE, number
        self._count(record, self.tail.get(key))
        self.tail[key] = record

    def _put_device_model(self, record: EmulatorXenstoreData | EmulatorContext) -> None:
        self._count(record, self.device_model.get(record.TYPE))
        self.device_model[record.TYPE] = record

    def merge(self, later: GuestState) -> None:
        """Take what `later` has."""
        for record in (*later.static.values(), *later.tail.values(), *later.device_model.values()):
            self.take(record)
        if later.p2m is not None:
            self.take(later.p2m)

    def ordered_tail(self) -> list[Record]:
        """The records of the tail as a correct sender writes them."""
        return [self.tail[key] for key in sorted(self.tail, key=_tail_place)]

    def _count(self, record: Record, replaced: Record | None) -> None:
        """Count the bytes of `record`, which takes the place of `replaced`."""
        self._held += _blob_bytes(record) - (_blob_bytes(replaced) if replaced else 0)
        if self._held > GUEST_STATE_BYTES_MAX:
            raise RecordTooLarge(
                f"{self._held} bytes of state together, at most {GUEST_STATE_BYTES_MAX} are allowed",
                record=record_name(record),
            )

    def _grow_p2m(self, known: P2mFrames, record: P2mFrames) -> P2mFrames:
        """Both lists as one, with `record` written over `known`."""
        info = self.static[LibxcType.X86_PV_INFO]
        per_page = PAGE_SIZE // (info.guest_width if isinstance(info, PvInfo) else layout.U64_BYTES)
        start, end = min(known.start_pfn, record.start_pfn), max(known.end_pfn, record.end_pfn)
        first = start // per_page
        frames = array("Q", bytes((end // per_page - first + 1) * layout.U64_BYTES))
        for part in (known, record):
            at = part.start_pfn // per_page - first
            frames[at : at + len(part.frames)] = part.frames
        return P2mFrames(start, end, frames)


def _add_params(known: Record | None, record: HvmParams) -> HvmParams:
    """Parameters count one by one, so a record need not have all of them: Xen's converter writes two."""
    params = known.params if isinstance(known, HvmParams) else ()
    return HvmParams(tuple(map(HvmParam._make, {**dict(params), **dict(record.params)}.items())))


def _add_entries(known: object, record: EmulatorXenstoreData) -> EmulatorXenstoreData:
    """So do the keys of xenstore."""
    entries = known.entries if isinstance(known, EmulatorXenstoreData) else ()
    return replace(record, entries=tuple({**dict(entries), **dict(record.entries)}.items()))


def _blob_bytes(record: Record) -> int:
    match record:
        case VcpuMsrs():
            return len(record.msrs) * layout.VCPU_MSR.size
        case HvmParams():
            return len(record.params) * layout.HVM_PARAM.size
        case EmulatorXenstoreData():
            return sum(len(key) + len(value) for key, value in record.entries)
        case HvmContext() | EmulatorContext() | VcpuBasic() | VcpuExtended() | VcpuXsave():
            return len(record.blob)
        case _:
            return 0


def _tail_place(key: Key) -> tuple[int, int, int]:
    kind, vcpu_id = key
    if kind in _TAIL_ORDER:
        return 0, 0, _TAIL_ORDER[kind]
    return 1, vcpu_id, _VCPU_ORDER[kind]


class SnapshotBuilder:
    """Builds the guest as it is at a checkpoint. `image` None: without its memory. `checkpoint` None: the last
    whole one, or END."""

    def __init__(self, image: GuestImage | None, checkpoint: int | None = None) -> None:
        self.image = image
        self.state = GuestState()
        self._wanted = checkpoint
        #: Whole checkpoints so far; the state is that of the newest one.
        self.checkpoints = 0
        #: The stream's last record was read.
        self.is_complete = False
        # What the records of a round say that is not whole yet.
        self._round = GuestState()
        # Behind VERIFY pages are compared, not stored.
        self._is_verifying = False
        # Behind a checkpoint, END throws away what came after it.
        self._is_discarding = False
        self._inside_libxl = False

    @property
    def reached(self) -> bool:
        """The wanted checkpoint, or the end: what follows changes nothing."""
        return self.is_complete or (self._wanted is not None and self.checkpoints >= self._wanted)

    def take(self, item: Item) -> None:
        """Take the next item of the stream."""
        match item:
            case PageTable() | PageRun():
                if self.image is not None and not self._is_verifying:
                    self._take_pages(self.image, item)
            case Verify():
                self._is_verifying = True
            case LibxcContext():
                self._inside_libxl = True
            case CheckpointEnd():
                self._commit()
            case CheckpointRecord():
                if not self._inside_libxl:
                    self._commit()
            case End():
                self._is_discarding = self.checkpoints > 0
                self.is_complete = not self._inside_libxl
            case LibxlEnd():
                self.is_complete = True
            case Handshake():
                pass
            case _ if not self._is_discarding:
                (self._round if self.checkpoints else self.state).take(item)

    def finish(self) -> None:
        """The stream is over. TruncatedStream when the state that was asked for is not in it."""
        if self._wanted is not None and self.checkpoints < self._wanted:
            raise TruncatedStream(
                f"checkpoint {self._wanted} is asked, the stream has {self.checkpoints} whole checkpoints"
            )
        if not self.checkpoints and not self.is_complete:
            raise TruncatedStream("the stream ends before its first whole checkpoint")

    def _take_pages(self, image: GuestImage, item: PageTable | PageRun) -> None:
        is_staged = self.checkpoints > 0
        if isinstance(item, PageTable):
            (image.stage_table if is_staged else image.apply_table)(item)
        else:
            (image.stage_run if is_staged else image.apply_run)(item)

    def _commit(self) -> None:
        self.state.merge(self._round)
        self._round = GuestState(static=dict(self.state.static))
        if self.image is not None:
            self.image.commit_round()
        self.checkpoints += 1
