"""Which header or record may come next in a whole stream, for each kind of stream.

    PLAIN         header, LIBXC_CONTEXT, libxc ... END, [XENSTORE_DATA], [EMULATOR_CONTEXT], END
    REMUS         header, LIBXC_CONTEXT,
                  { libxc ... CHECKPOINT, [XENSTORE_DATA], [EMULATOR_CONTEXT], CHECKPOINT_END } ...
    COLO          as REMUS, with CHECKPOINT_STATE NEW between the rounds
    BACK_CHANNEL  { CHECKPOINT_STATE READY, RESUMED, SUSPENDED, DIRTY_PFN_LIST } ... from the COLO secondary

A stream may also start with the libxc image header; its libxc records then end at END, and a round at
CHECKPOINT, with nothing of libxl between. `layer` says what the next bytes are, so the decoder asks here
where libxl ends and libxc starts. The rules inside libxc are libxc_grammar.py's. This file does not know
bytes. Rules that only the strict mode keeps go to the judge (faults.py), who may let them pass.
"""

from __future__ import annotations

from enum import Enum, auto

from replicator.errors import InvariantError, RecordOrder, TruncatedStream, require
from replicator.limits import PFN_MAX
from replicator.wire import layout, libxc, libxl
from replicator.wire.faults import Judge, Tolerant
from replicator.wire.layout import CheckpointStateId, DomainType, LibxcType, LibxlType
from replicator.wire.libxc_grammar import LibxcGrammar
from replicator.wire.pv_state import LookBack
from replicator.wire.records import (
    CheckpointRecord,
    CheckpointState,
    DirtyPfnList,
    DomainHeader,
    EmulatorContext,
    EmulatorXenstoreData,
    End,
    Header,
    ImageHeader,
    LibxcRecord,
    LibxlHeader,
    LibxlRecord,
    PageRun,
    PageTable,
    Place,
)


class StreamKind(Enum):
    """What a stream is for; decides how it may go on and where it may end."""

    PLAIN = "plain"
    REMUS = "remus"
    COLO = "colo"
    BACK_CHANNEL = "back channel"


class Layer(Enum):
    """What the next bytes of a stream are."""

    START = auto()
    LIBXL_HEADER = auto()
    LIBXL = auto()
    IMAGE_HEADER = auto()
    DOMAIN_HEADER = auto()
    LIBXC = auto()
    #: Behind the first round of a stream whose kind nobody gave: the next record tells Remus from COLO.
    AFTER_ROUND = auto()
    BACK_CHANNEL = auto()
    DONE = auto()


class _Phase(Enum):
    """Where libxl is, with the records it then takes."""

    START = frozenset({LibxlType.LIBXC_CONTEXT})
    CHECKPOINT = frozenset(
        {LibxlType.EMULATOR_XENSTORE_DATA, LibxlType.EMULATOR_CONTEXT, LibxlType.CHECKPOINT_END}
    )
    BETWEEN_ROUNDS = frozenset({LibxlType.CHECKPOINT_STATE})
    TAIL = frozenset({LibxlType.EMULATOR_XENSTORE_DATA, LibxlType.EMULATOR_CONTEXT, LibxlType.END})


_EMULATOR_TYPES = (LibxlType.EMULATOR_XENSTORE_DATA, LibxlType.EMULATOR_CONTEXT)

#: What follows what on the back channel; None stands for DIRTY_PFN_LIST and, first, for the start.
_BACK_CHANNEL_NEXT: dict[CheckpointStateId | None, CheckpointStateId | None] = {
    None: CheckpointStateId.SVM_READY,
    CheckpointStateId.SVM_READY: CheckpointStateId.SVM_RESUMED,
    CheckpointStateId.SVM_RESUMED: CheckpointStateId.SVM_SUSPENDED,
    CheckpointStateId.SVM_SUSPENDED: None,
}


_WIDE_LIST_HINT = (
    "if Xen 4.18 or later wrote it, read it with --quirk xen-4.18: its lists have longer headers"
)


class Grammar:
    """The rules of one stream. `kind` None takes a plain, a Remus or a COLO stream, whichever it turns out to
    be. `pfn_limit` is one more than the highest pfn that an HVM guest or a back channel may name."""

    def __init__(
        self,
        kind: StreamKind | None = None,
        *,
        judge: Judge | None = None,
        pfn_limit: int = PFN_MAX + 1,
        look_back: LookBack | None = None,
    ) -> None:
        self.kind = kind
        self._judge = judge or Tolerant()
        self._strict = self._judge.strict
        self.pfn_limit = pfn_limit
        self._look_back = look_back
        self.layer = Layer.BACK_CHANNEL if kind is StreamKind.BACK_CHANNEL else Layer.START
        #: Whole checkpoints so far.
        self.checkpoints = 0
        self.version: int | None = None
        self.domain: DomainHeader | None = None
        self._inside_libxl = False
        self._libxc: LibxcGrammar | None = None
        self._phase = _Phase.START
        #: libxl records of this checkpoint (or of the tail) so far.
        self._emulator_seen: set[int] = set()
        #: No record of the next round was seen yet.
        self._round_fresh = False
        self._back_last: CheckpointStateId | None = None
        # Dirty lists on the back channel so far.
        self._back_lists = 0
        #: Nobody said, and no record has told yet, whether rounds are Remus' or COLO's.
        self._is_kind_open = kind is None

    # Headers

    def start(self, layer: Layer) -> None:
        """The first bytes told which header the stream starts with."""
        require(self.layer is Layer.START, "a stream starts once")
        self.layer = layer

    def accept_header(self, header: Header) -> None:
        """Take a header; the decoder read it because `layer` asked for it."""
        match header:
            case LibxlHeader():
                self._inside_libxl = True
                self.layer = Layer.LIBXL
            case ImageHeader(version=version):
                self.version = version
                self.layer = Layer.DOMAIN_HEADER
            case DomainHeader():
                require(self.version is not None, "a domain header follows an image header")
                self.domain = header
                self._libxc = LibxcGrammar(
                    self.version or 0, header, self._judge, self.pfn_limit, self._look_back
                )
                self.layer = Layer.LIBXC

    # Records

    def admit(self, record_type: int, place: Place) -> None:
        """Raise RecordOrder when a record of this type may not stand here."""
        if self.layer is Layer.LIBXC:
            self._admit_libxc(record_type, place)
        elif self.layer is Layer.BACK_CHANNEL:
            self._admit_back_channel(record_type, place)
        else:
            self._admit_libxl(record_type, place)

    def _admit_libxc(self, record_type: int, place: Place) -> None:
        if record_type == LibxcType.CHECKPOINT and self.kind is StreamKind.PLAIN:
            raise place.order("a plain stream has no checkpoints")
        checkpointed = self.kind in (StreamKind.REMUS, StreamKind.COLO)
        if record_type == LibxcType.VERIFY and checkpointed and self._strict:
            self._judge.fault(place.order("a checkpointed stream has no verify mode"))
        self._rules.admit(record_type, place)

    def _admit_libxl(self, record_type: int, place: Place) -> None:
        if record_type not in self._phase.value:
            names = " or ".join(sorted(libxl.name_type(kind) for kind in self._phase.value))
            raise place.order(f"only {names} may stand here")
        if record_type not in _EMULATOR_TYPES:
            return
        if self.domain is not None and self.domain.type is DomainType.PV:
            raise place.order("a PV guest has no device model")
        if not self._strict:
            return
        if record_type in self._emulator_seen:
            self._judge.fault(place.order("second one in one checkpoint"))
        elif LibxlType.EMULATOR_CONTEXT in self._emulator_seen:
            self._judge.fault(place.order("belongs before EMULATOR_CONTEXT"))

    def _admit_back_channel(self, record_type: int, place: Place) -> None:
        expected = _BACK_CHANNEL_NEXT[self._back_last]
        wanted = LibxcType.CHECKPOINT_DIRTY_PFN_LIST if expected is None else LibxlType.CHECKPOINT_STATE
        if record_type != wanted:
            hint = _WIDE_LIST_HINT if self._back_lists else ""
            raise RecordOrder(
                f"{wanted.name} is expected here", offset=place.offset, record=place.name, hint=hint
            )

    def accept_table(self, table: PageTable, place: Place) -> None:
        """Take entries of a PAGE_DATA record; raises BadRecord."""
        self._round_fresh = False
        self._rules.accept_table(table, place)

    @property
    def needs_pages(self) -> bool:
        """Whether something in the pages of PAGE_DATA is judged, so that `accept_run` must see all of them."""
        return self._rules.needs_pages

    def accept_run(self, run: PageRun) -> None:
        """Take pages of a PAGE_DATA record."""
        self._rules.accept_run(run)

    def accept_libxc(self, record: LibxcRecord, place: Place) -> None:
        """Take a decoded libxc record, other than PAGE_DATA; raises RecordOrder or BadRecord."""
        if self.layer is Layer.BACK_CHANNEL:
            self._accept_dirty_pfns(record, place)
            return
        self._round_fresh = False
        if isinstance(record, CheckpointRecord):
            self._accept_checkpoint(place)
        elif isinstance(record, End):
            self._accept_end(place)
        else:
            self._rules.accept(record, place)

    def _accept_checkpoint(self, place: Place) -> None:
        if self.kind is None:
            self.kind = StreamKind.REMUS
        self._emulator_seen.clear()
        if self._inside_libxl:
            self.layer = Layer.LIBXL
            self._phase = _Phase.CHECKPOINT
        else:
            self._finish_round()
        # Last, so that whoever passes over what it finds goes on behind the round.
        self._rules.complete_round(place)

    def _accept_end(self, place: Place) -> None:
        if self.kind is None:
            self.kind = StreamKind.PLAIN
        self._emulator_seen.clear()
        self._phase = _Phase.TAIL
        self.layer = Layer.LIBXL if self._inside_libxl else Layer.DONE
        # Behind a checkpoint, END throws the unfinished round away: nothing to be complete.
        if not self.checkpoints:
            self._rules.complete_round(place)

    def _accept_dirty_pfns(self, record: LibxcRecord, place: Place) -> None:
        require(isinstance(record, DirtyPfnList), "admit takes no other libxc record")
        if isinstance(record, DirtyPfnList) and record.pfns and max(record.pfns) >= self.pfn_limit:
            raise place.bad(f"pfn {max(record.pfns):#x}, the highest possible is {self.pfn_limit - 1:#x}")
        self._back_last = None
        self._back_lists += 1

    def accept_libxl(self, record: LibxlRecord, place: Place) -> None:
        """Take a decoded libxl record; raises RecordOrder."""
        match record:
            case CheckpointState(id=state):
                self._accept_state(state, place)
            case EmulatorContext() | EmulatorXenstoreData():
                self._emulator_seen.add(record.TYPE)
            case _ if record.TYPE is LibxlType.LIBXC_CONTEXT:
                self.layer = Layer.IMAGE_HEADER
            case _ if record.TYPE is LibxlType.CHECKPOINT_END:
                self._accept_checkpoint_end(place)
            case _:
                self.layer = Layer.DONE

    def _accept_state(self, state: CheckpointStateId, place: Place) -> None:
        if self.layer is Layer.BACK_CHANNEL:
            expected = _BACK_CHANNEL_NEXT[self._back_last]
            self._back_last = state
        else:
            expected = CheckpointStateId.NEW
            self.layer = Layer.LIBXC
        if state is not expected:
            wanted = "none" if expected is None else expected.name
            raise place.order(f"state {state.name} instead of {wanted}")

    def _accept_checkpoint_end(self, place: Place) -> None:
        qemu = self.domain is not None and self.domain.is_qemu_recording
        if self._strict and qemu and LibxlType.EMULATOR_CONTEXT not in self._emulator_seen:
            self._judge.fault(place.order("a recorded QEMU guest needs EMULATOR_CONTEXT in each checkpoint"))
        self._finish_round()

    def _finish_round(self) -> None:
        self.checkpoints += 1
        self._round_fresh = True
        if self._inside_libxl and self._is_kind_open:
            self.layer = Layer.AFTER_ROUND
        elif self._inside_libxl and self.kind is StreamKind.COLO:
            self.layer = Layer.LIBXL
            self._phase = _Phase.BETWEEN_ROUNDS
        else:
            self.layer = Layer.LIBXC

    def settle_kind(self, record_type: int, length: int) -> None:
        """The header of the record behind the first round tells whether the rounds are Remus' or COLO's: no
        libxc record of CHECKPOINT_STATE's number is as short."""
        self._is_kind_open = False
        is_colo = (record_type, length) == (LibxlType.CHECKPOINT_STATE, layout.CHECKPOINT_STATE.size)
        self.kind = StreamKind.COLO if is_colo else StreamKind.REMUS
        self.layer = Layer.LIBXL if is_colo else Layer.LIBXC
        self._phase = _Phase.BETWEEN_ROUNDS

    # The end of the bytes

    @property
    def may_end(self) -> bool:
        """Whether the bytes may end here: behind END, between two rounds, anywhere on the back channel."""
        return self.layer in (Layer.DONE, Layer.BACK_CHANNEL) or self._round_fresh

    def check_end(self, offset: int) -> None:
        """Raise TruncatedStream when the bytes may not end here."""
        if not self.may_end:
            raise TruncatedStream("the stream ends before its END", offset=offset)

    @property
    def _rules(self) -> LibxcGrammar:
        rules = self._libxc
        if rules is None:
            raise InvariantError("libxc records come behind a domain header")
        return rules


def name_type(layer: Layer, record_type: int) -> str:
    """The name of a record type where `layer` stands; on the back channel both kinds of numbers meet."""
    if layer is Layer.LIBXC:
        return libxc.name_type(record_type)
    if layer is Layer.BACK_CHANNEL and record_type != LibxlType.CHECKPOINT_STATE:
        return libxc.name_type(record_type)
    return libxl.name_type(record_type)
