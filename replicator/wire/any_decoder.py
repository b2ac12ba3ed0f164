"""Any migration stream to records: the format is told from the first bytes, and the rest is its decoder's.

    [xl header] + libxl v2 | libxc v2, v3 | legacy   [+ migration handshake]

The items are the same whatever the format: a legacy stream comes as the libxl v2 stream that it would be today
(legacy/). Offsets count from the first byte of the xl header. Bytes behind the end of a stream are a fault,
but for the handshake that follows a migration.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from replicator.errors import BadHeader, RecordOrder, TruncatedStream, WireError
from replicator.limits import PFN_MAX
from replicator.wire import layout, xl
from replicator.wire.decoder import StreamDecoder
from replicator.wire.faults import Judge, Tolerant
from replicator.wire.grammar import Grammar, StreamKind
from replicator.wire.intake import Intake
from replicator.wire.item_decoder import ItemDecoder
from replicator.wire.layout import Buffer
from replicator.wire.legacy import LegacyDecoder, PageBases, TmemPolicy
from replicator.wire.pv_state import LookBack
from replicator.wire.records import Handshake, Item, XlHeader
from replicator.wire.sniff import SNIFF_BYTES, StreamFormat, sniff

_LEGACY = (StreamFormat.LEGACY_32, StreamFormat.LEGACY_64)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a reader may know of a stream beforehand."""

    #: None: what it turns out to be. A back channel must be named.
    kind: StreamKind | None = None
    #: Word size of a legacy stream's sender, 32 or 64; None: told from the bytes.
    sender_bits: int | None = None
    #: What to do with the tmem pages of a legacy stream.
    tmem: TmemPolicy = TmemPolicy.REFUSE
    #: The back channel has the 16 byte headers of Xen 4.18 and later.
    wide_dirty_lists: bool = False


class AnyDecoder:
    """Decodes one stream of any format; see StreamDecoder for `feed`, `judge`, `passable` and `look_back`. `bases`
    gives a compressed legacy stream the pages that it builds on."""

    def __init__(
        self,
        options: ReadOptions | None = None,
        *,
        judge: Judge | None = None,
        bases: PageBases | None = None,
        look_back: LookBack | None = None,
    ) -> None:
        self._options = options or ReadOptions()
        self._judge: Judge = judge or Tolerant()
        self._bases = bases
        self._look_back = look_back
        self._intake = Intake()
        self._inner: ItemDecoder | None = None
        self._head: xl.XlHead | None = None
        self._error: WireError | None = None
        #: The outermost format, and that of the stream inside an xl header; None until the bytes have told.
        self.format: StreamFormat | None = None
        self.inner_format: StreamFormat | None = None
        #: None until it was read, and of streams without one.
        self.xl_header: XlHeader | None = None
        #: Bytes behind the end of the stream.
        self.bytes_behind = 0
        # Of the handshake behind the stream, once it was read.
        self._handshake_bytes = 0
        if self._options.kind is StreamKind.BACK_CHANNEL:
            self._inner = self._new_stream_decoder()

    @property
    def grammar(self) -> Grammar | None:
        """What is known of the stream inside; None until its first bytes are here."""
        return self._inner.grammar if self._inner else None

    @property
    def offset(self) -> int:
        """Where the header or record starts that is read now, or that comes next."""
        if self._inner is None:
            return self._intake.offset if self.xl_header else 0
        return self._inner.offset + self._handshake_bytes

    @property
    def done(self) -> bool:
        """The stream's last record was read; a handshake may follow."""
        return self._inner is not None and self._inner.done

    @property
    def tmem_pages_dropped(self) -> int:
        """Pages of transcendent memory that a legacy stream had and that were dropped."""
        return self._inner.tmem_pages_dropped if isinstance(self._inner, LegacyDecoder) else 0

    def feed(self, data: Buffer) -> Iterator[Item]:
        """Take bytes; the iterator decodes one item a step, as StreamDecoder's does."""
        if self._error is not None:
            raise self._error
        self._intake.add(data)
        return self._guard(self._drain())

    @property
    def passable(self) -> int:
        """Bytes that come next and may be passed over."""
        return self._inner.passable if self._inner is not None else 0

    def pass_over(self, size: int) -> None:
        """These bytes, at most `passable`, are not fed."""
        if self._inner is not None:
            self._inner.pass_over(size)

    @property
    def held(self) -> bytes:
        """What was fed and not handed out yet; it counts as passed over once something is."""
        return self._intake.held

    def finish(self) -> Iterator[Item]:
        """The bytes are over: the items that only their end tells. Raises TruncatedStream when the stream is
        not over."""
        if self._error is not None:
            raise self._error
        return self._guard(self._drain_end())

    def _guard(self, items: Iterator[Item]) -> Iterator[Item]:
        try:
            yield from items
        except TruncatedStream:
            raise  # more bytes would mend it
        except WireError as error:
            self._error = error
            raise

    def _drain(self) -> Iterator[Item]:
        if self._inner is None:
            yield from self._drain_start()
        if self._inner is not None:
            yield from _until_done(self._inner)
        if self.done and self._intake.pending:
            yield from self._drain_behind()
        self._intake.hold()

    def _drain_end(self) -> Iterator[Item]:
        if self._inner is None:
            yield from self._finish_start()
        if self._inner is not None:
            yield from _until_done(self._inner)
        if self._inner is not None and not self._inner.done:
            yield from self._inner.finish()
        if self.done and self._intake.pending:
            self._judge_behind(layout.XL_HANDSHAKE_GO)

    # The start

    def _drain_start(self) -> Iterator[Item]:
        """Find the format, read an xl header, and leave the decoder of what follows in `_inner`."""
        if self.format is None:
            self.format = self._sniff()
        if self.format is None:
            return
        if self.format is StreamFormat.XL and self.xl_header is None:
            self.xl_header = self._read_xl_header()
            if self.xl_header is None:
                return
            yield self.xl_header
        self._open_inner(self._sniff())

    def _finish_start(self) -> Iterator[Item]:
        """As `_drain_start`, of a stream that is shorter than what the format is usually told from."""
        if self.format is StreamFormat.XL and self.xl_header is None:
            raise TruncatedStream(
                f"{self._intake.pending} bytes of it, then nothing", offset=0, record=XlHeader.NAME
            )
        if not self._intake.pending:
            where = "behind the xl header" if self.xl_header else "at all"
            raise TruncatedStream(f"no stream {where}", offset=self._intake.offset, record="stream header")
        short = sniff(self._intake.peek(min(SNIFF_BYTES, self._intake.pending)) or b"")
        if self.format is None:
            self.format = short
            if short is StreamFormat.XL:
                yield from self._finish_start()
                return
        self._open_inner(short)

    def _sniff(self) -> StreamFormat | None:
        start = self._intake.peek(SNIFF_BYTES)
        return None if start is None else sniff(start)

    def _read_xl_header(self) -> XlHeader | None:
        if self._head is None:
            fixed = self._intake.take(layout.XL_HEADER.size)
            if fixed is None:
                return None
            self._head = xl.decode_head(fixed, 0)
        data = self._intake.take(self._head.optional_bytes)
        if data is None:
            return None
        header = xl.decode_optional_data(self._head, data, 0)
        for fault in xl.list_faults(header) if self._judge.strict else ():
            self._judge.fault(BadHeader(f"strict reading expects {fault}", offset=0, record=XlHeader.NAME))
        return header

    def _open_inner(self, found: StreamFormat | None) -> None:
        if found is None:
            return
        self.inner_format = found
        header = self.xl_header
        if header is not None and header.is_stream_v2 is (found in _LEGACY):
            said = "libxl v2" if header.is_stream_v2 else "legacy"
            raise BadHeader(
                f"a stream of format {found.value}, the xl header announces {said}",
                offset=self._intake.offset,
                record="stream header",
            )
        self._inner = self._new_legacy_decoder() if found in _LEGACY else self._new_stream_decoder()

    def _new_stream_decoder(self) -> StreamDecoder:
        limit = xl.guest_pfn_limit(self.xl_header) if self.xl_header else None
        return StreamDecoder(
            self._options.kind,
            judge=self._judge,
            pfn_limit=min(limit or PFN_MAX + 1, PFN_MAX + 1),
            wide_dirty_lists=self._options.wide_dirty_lists,
            intake=self._intake,
            look_back=self._look_back,
        )

    def _new_legacy_decoder(self) -> LegacyDecoder:
        return LegacyDecoder(
            kind=self._options.kind,
            sender_bits=self._options.sender_bits,
            tmem=self._options.tmem,
            bases=self._bases,
            judge=self._judge,
            intake=self._intake,
        )

    # What follows the end

    def _drain_behind(self) -> Iterator[Item]:
        """The handshake, once; anything else is a fault."""
        expected = b"" if self._handshake_bytes or self.xl_header is None else layout.XL_HANDSHAKE_GO
        found = self._intake.peek(min(len(expected), self._intake.pending)) or b""
        if expected and expected == found:
            self._intake.take(len(expected))
            self._handshake_bytes = len(expected)
            yield Handshake()
        elif expected and expected.startswith(found):
            return
        if self._intake.pending:
            self._judge_behind(b"")

    def _judge_behind(self, expected: bytes) -> None:
        """Bytes that are neither the stream nor the handshake; those of a handshake that broke off count as
        cut."""
        offset = self._intake.offset
        rest = self._intake.take_rest()
        if expected and expected.startswith(rest):
            raise TruncatedStream(
                f"{len(rest)} bytes of it, then nothing", offset=offset, record=Handshake.NAME
            )
        is_first = not self.bytes_behind
        self.bytes_behind += len(rest)
        if is_first and self._judge.strict:
            self._judge.fault(
                RecordOrder("bytes behind the end of the stream, expected nothing", offset=offset)
            )


def _until_done(decoder: ItemDecoder) -> Iterator[Item]:
    """The items of what is in the intake, but what lies behind the stream stays there."""
    if decoder.done:
        return
    for item in decoder.drain():
        yield item
        if decoder.done:
            return
