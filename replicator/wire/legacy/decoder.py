"""Bytes of a legacy stream to the items of the libxl v2 stream that it would be today.

A legacy stream is a header, then bodies with tails behind them; of an HVM guest each with the device model's state:

    plain   header, body, tail, [device model]
    Remus   header, { body, tail, [device model] } ...   each time a whole checkpoint

and comes out as

    plain   libxl header ... STATIC_DATA_END, [P2M_FRAMES], pages and state, END, [XENSTORE_DATA],
            [EMULATOR_CONTEXT], libxl END
    Remus   libxl header ... STATIC_DATA_END, [P2M_FRAMES],
            { pages and state, CHECKPOINT, [XENSTORE_DATA], [EMULATOR_CONTEXT], CHECKPOINT_END } ...

Reading is sequential code (source.py); `feed` resumes it as far as the bytes go. Where they are cut changes
nothing but how pages are spread over runs. Every item then passes the same grammar as those of v2, so that both
get the same checks. There are no lengths to go by: the first error ends the reading, whoever judges.

A checkpoint is closed as soon as nothing that could follow belongs to it. Of an HVM guest without a device model
record only the next bytes tell, or their end. A stream whose first checkpoint had such a record has one in all, so
one that breaks off before it does not count.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from replicator.errors import BadHeader, InvariantError, RecordOrder, require
from replicator.wire.faults import Judge
from replicator.wire.grammar import Grammar, Layer, StreamKind
from replicator.wire.intake import Intake
from replicator.wire.item_decoder import ItemDecoder
from replicator.wire.layout import DomainType, EmulatorId, LibxcType
from replicator.wire.legacy import header
from replicator.wire.legacy.bases import PageBases
from replicator.wire.legacy.batches import BatchReader
from replicator.wire.legacy.body import Body, BodyReader
from replicator.wire.legacy.device_model import read_device_model
from replicator.wire.legacy.header import LegacyGuest
from replicator.wire.legacy.source import Source, Steps
from replicator.wire.legacy.tail import read_hvm_tail, read_pv_tail
from replicator.wire.legacy.tmem import TmemPolicy, TmemReader
from replicator.wire.records import (
    CheckpointEnd,
    CheckpointRecord,
    DomainHeader,
    EmulatorContext,
    EmulatorXenstoreData,
    End,
    Header,
    ImageHeader,
    Item,
    LibxcContext,
    LibxcRecord,
    LibxlEnd,
    LibxlHeader,
    LibxlRecord,
    OptionalRecord,
    P2mFrames,
    PageData,
    PageRun,
    PageTable,
    StaticDataEnd,
)

_KINDS = (None, StreamKind.PLAIN, StreamKind.REMUS)
#: The version of Xen 0.1 is the mark of a converter.
_XEN_VERSION = (0, 1)


class LegacyDecoder(ItemDecoder):
    """Decodes one legacy stream. After a WireError it raises that same error for ever.

    `kind` PLAIN: the first tail ends the stream; REMUS or None: unless its body said that it is the last one.
    `sender_bits` 32 or 64: the toolstack that wrote it; None: told from the bytes. `bases` holds the pages that
    compressed checkpoints build on; None: those are refused. `judge` decides about faults (tolerant by default).
    `has_device_model`: whether device model records follow the tails of an HVM guest; None: told from the bytes.
    """

    def __init__(
        self,
        *,
        kind: StreamKind | None = None,
        sender_bits: int | None = None,
        tmem: TmemPolicy = TmemPolicy.REFUSE,
        bases: PageBases | None = None,
        judge: Judge | None = None,
        intake: Intake | None = None,
        has_device_model: bool | None = None,
    ) -> None:
        require(sender_bits in (None, 32, 64), "a toolstack has 32 or 64 bits")
        super().__init__(intake)
        self._source = Source(self._intake, header.NAME)
        if kind not in _KINDS:
            raise BadHeader(
                f"a legacy stream is plain or Remus, never {kind.value if kind else kind}",
                offset=self._source.offset,
                record=header.NAME,
            )
        self._kind = kind
        self._sender_bits = sender_bits
        self._bases = bases
        self._batches: BatchReader | None = None
        self._tmem = TmemReader(self._source, tmem)
        self._has_device_model = has_device_model
        self.grammar = Grammar(kind, judge=judge)
        self.grammar.start(Layer.LIBXL_HEADER)
        self._steps = self._read_stream()

    @property
    def offset(self) -> int:
        return self._source.offset

    @property
    def tmem_pages_dropped(self) -> int:
        """Pages of transcendent memory that were dropped, as `tmem` allows."""
        return self._tmem.pages_dropped

    @property
    def passable(self) -> int:
        if self._batches is None or not self._batches.missing_bytes or self.grammar.needs_pages:
            return 0
        return self._batches.missing_bytes

    def pass_over(self, size: int) -> None:
        if self._batches is not None and size:
            self._batches.pass_over(size)

    def finish(self) -> Iterator[Item]:
        """The bytes are over: the items that only their end tells. The iterator raises TruncatedStream when the
        stream is not over."""
        self._raise_again()
        self._source.ended = True
        return self._drain()

    def _next(self) -> Item | None:
        item = next(self._steps, None)
        if item is not None:
            self._admit(item)
        return item

    def _admit(self, item: Item) -> None:
        """Let the grammar judge an item, as that of a v2 stream."""
        grammar, place = self.grammar, self._source.place
        if isinstance(item, PageRun):
            grammar.accept_run(item)
            return
        if isinstance(item, PageTable):
            grammar.admit(PageData.TYPE, place)
            grammar.accept_table(item, place)
            return
        self._source.settle()
        if isinstance(item, Header):
            grammar.accept_header(item)
        elif isinstance(item, LibxlRecord):
            grammar.admit(item.TYPE, place)
            grammar.accept_libxl(item, place)
        elif isinstance(item, LibxcRecord) and not isinstance(item, OptionalRecord):
            grammar.admit(item.TYPE, place)
            grammar.accept_libxc(item, place)
        else:
            raise InvariantError(f"{item} has nothing to do in a legacy stream")
        if grammar.layer is Layer.AFTER_ROUND:
            # Rounds whose kind is open may be COLO's, which no legacy stream has.
            grammar.settle_kind(LibxcType.PAGE_DATA, 0)

    # The stream

    def _read_stream(self) -> Steps[None]:
        guest = yield from header.read_guest(self._source, self._sender_bits)
        yield from self._start(guest)
        batches = self._batches = BatchReader(self._source, guest, self._bases)
        may_verify = self._kind is not StreamKind.REMUS
        bodies = BodyReader(self._source, guest, batches, self._tmem, may_verify=may_verify)
        while True:
            body = yield from bodies.read()
            if guest.pv:
                yield from read_pv_tail(self._source, guest, guest.pv, bodies.vcpus)
            else:
                yield from read_hvm_tail(self._source, body.params)
            if body.is_last or self._kind is StreamKind.PLAIN:
                yield from self._end(guest, body)
                return
            self._refuse_verify(bodies)
            yield from self._close_checkpoint(guest, body)
            if (yield from self._source.at_end()):
                return

    def _start(self, guest: LegacyGuest) -> Steps[None]:
        yield LibxlHeader(converted=True)
        yield LibxcContext()
        yield ImageHeader()
        self.grammar.pfn_limit = guest.p2m_size
        yield DomainHeader(DomainType.PV if guest.pv else DomainType.HVM, *_XEN_VERSION)
        if guest.pv:
            yield guest.pv.info
        yield StaticDataEnd()
        if guest.pv:
            frames: array[int] = yield from header.read_p2m_frames(
                self._source, guest, guest.pv.info.guest_width
            )
            yield P2mFrames(0, guest.p2m_size - 1, frames)

    def _end(self, guest: LegacyGuest, body: Body) -> Steps[None]:
        """The last body was read."""
        self._source.begin("legacy end of tail")
        if self.grammar.checkpoints:
            # END throws away what no CHECKPOINT closed, so the last of several checkpoints is closed first.
            yield from self._close_checkpoint(guest, body)
            yield End()
        else:
            yield End()
            yield from self._read_device_model(guest, body)
        self._source.begin("legacy end of stream")
        yield LibxlEnd()

    def _close_checkpoint(self, guest: LegacyGuest, body: Body) -> Steps[None]:
        self._source.begin("legacy end of tail")
        yield CheckpointRecord()
        yield from self._read_device_model(guest, body)
        self._source.begin("legacy end of checkpoint")
        yield CheckpointEnd()

    def _read_device_model(self, guest: LegacyGuest, body: Body) -> Steps[None]:
        if body.xenstore:
            yield EmulatorXenstoreData(EmulatorId.UNKNOWN, 0, body.xenstore)
        if guest.pv:
            return
        state = yield from read_device_model(self._source, self._has_device_model)
        if state is not None:
            self._has_device_model = True
            yield EmulatorContext(EmulatorId.UNKNOWN, 0, state)

    def _refuse_verify(self, bodies: BodyReader) -> None:
        if bodies.is_verifying:
            raise RecordOrder(
                "a checkpoint ends in verify mode, in which no page is stored",
                offset=self._source.place.offset,
                record=self._source.place.name,
                hint="a stream that is known to be of Remus is read without that mode",
            )
