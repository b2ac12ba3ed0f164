"""Reads a whole stream of any format, keeps nothing of it but numbers, and says whether it is valid.

Strict: the stream follows the specification to the letter and ends where it may end. Not strict: what a Xen
receiver would make of it: a checkpointed stream that breaks off is good up to its last whole checkpoint.
`Examiner` finds every problem and goes on where it can; `verify_stream` raises the first one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import add
from typing import Final, Protocol, runtime_checkable

from replicator.errors import BadRecord, TruncatedStream, WireError
from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.grammar import StreamKind
from replicator.wire.layout import Buffer, DomainType, PageType
from replicator.wire.legacy import PageBases
from replicator.wire.pv_state import LookBack
from replicator.wire.records import (
    EmulatorContext,
    Envelope,
    Item,
    PageData,
    PageRun,
    PageTable,
    Record,
    record_name,
)
from replicator.wire.sniff import StreamFormat

READ_BYTES: Final = 1 << 20
#: Problems that are kept; more are only counted.
PROBLEMS_MAX: Final = 1000
#: Called with an item, where its record starts, and where the decoder is then.
Watch = Callable[[Item, int, int], None]
_TYPE_NUMBERS: Final = tuple(PageType)


@runtime_checkable
class Readable(Protocol):
    """Something to read bytes from; b"" is the end."""

    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that the stream should not have; `error` has offset, record, and what was expected."""

    error: WireError
    #: A receiver passes over it; only the strict mode minds.
    is_forgiven: bool


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a stream holds, as far as it could be read."""

    #: The outermost format and, inside an xl header, that of the stream; None when the bytes ended before.
    format: StreamFormat | None
    inner_format: StreamFormat | None
    kind: StreamKind | None
    #: Of the libxc stream; None on a back channel, as the two below.
    version: int | None
    guest: DomainType | None
    #: Version of Xen that wrote the stream, (0, n) for others.
    xen_version: tuple[int, int] | None
    is_qemu_recording: bool
    #: How often each header and record occurs, by name.
    records: Mapping[str, int]
    #: Whole checkpoints.
    checkpoints: int
    #: Entries of all PAGE_DATA records, and how many of them came with a page.
    page_entries: int
    data_pages: int
    #: Entries by page type; types that do not occur are left out.
    page_types: Mapping[PageType, int]
    #: Size of the newest EMULATOR_CONTEXT's blob.
    device_state_bytes: int
    #: Bytes of whole headers and records: the end of the last one.
    stream_bytes: int
    #: Bytes up to and with the last whole checkpoint (or END): what a receiver could use. 0: nothing.
    usable_bytes: int
    #: Bytes behind `usable_bytes`: a round that was cut off.
    discarded_bytes: int
    #: Pages of transcendent memory that a legacy stream had and that were dropped.
    tmem_pages_dropped: int
    #: The first PROBLEMS_MAX, in the order of the stream, and how many there are.
    problems: tuple[Problem, ...]
    problem_count: int
    #: How the bytes break off; None of a stream that may end where it does.
    cut: TruncatedStream | None
    #: The stream's END was read (on a back channel: the last record is whole). A checkpointed stream that is
    #: not complete may still end well, behind a checkpoint.
    is_complete: bool


class _Problems:
    """A judge that lets everything pass and remembers it."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.kept: list[Problem] = []
        self.count = 0

    def fault(self, error: WireError) -> None:
        self.add(error, is_forgiven=True)

    def bad_record(self, error: BadRecord) -> None:
        self.add(error, is_forgiven=False)

    def add(self, error: WireError, *, is_forgiven: bool) -> None:
        self.count += 1
        if len(self.kept) < PROBLEMS_MAX:
            self.kept.append(Problem(error, is_forgiven))


class _Tally:
    """Counts while the records pass by."""

    def __init__(self) -> None:
        self.records: Counter[str] = Counter()
        self.types = [0] * 16
        self.page_data_records = 0
        self.device_state_bytes = 0

    def add_table(self, table: PageTable) -> None:
        self.types = list(map(add, self.types, table.survey.counts))
        if table.first == 0:
            self.page_data_records += 1

    def add_record(self, record: Record | Envelope) -> None:
        self.records[record_name(record)] += 1
        if isinstance(record, EmulatorContext):
            self.device_state_bytes = len(record.blob)

    def count_records(self) -> dict[str, int]:
        """All of them by name."""
        pages = {PageData.TYPE.name: self.page_data_records} if self.page_data_records else {}
        return dict(self.records) | pages


class Examiner:
    """Takes a stream piece by piece. `watch` is called with each item, where its record starts, and
    where the decoder is now: at its end, or still at its start when more of it comes."""

    def __init__(
        self,
        options: ReadOptions | None = None,
        *,
        strict: bool = True,
        watch: Watch | None = None,
        bases: PageBases | None = None,
        look_back: LookBack | None = None,
    ) -> None:
        self._problems = _Problems(strict=strict)
        self.decoder = AnyDecoder(options, judge=self._problems, bases=bases, look_back=look_back)
        self._tally = _Tally()
        self._watch = watch
        self._usable = 0
        self._fed = 0
        self._cut: TruncatedStream | None = None
        #: Reading is over: the stream is refused from here on.
        self.is_refused = False

    def feed(self, piece: Buffer) -> None:
        """Take bytes. Of a stream that was refused they are only counted."""
        self._fed += len(piece)
        if not self.is_refused:
            self._run(self.decoder.feed(piece))

    @property
    def passable(self) -> int:
        """Bytes that come next and need not be fed; see StreamDecoder."""
        return 0 if self.is_refused else self.decoder.passable

    def pass_over(self, size: int) -> None:
        """These bytes, at most `passable`, are there and are not fed."""
        self._fed += size
        self.decoder.pass_over(size)

    def finish(self) -> VerifyReport:
        """The bytes are over."""
        if not self.is_refused:
            self._run(self.decoder.finish())
        return self._report()

    def _run(self, items: Iterator[Item]) -> None:
        watched = items if self._watch is None else self._show(items, self._watch)
        decoder, tally = self.decoder, self._tally
        try:
            for item in watched:
                if isinstance(item, PageTable):
                    tally.add_table(item)
                elif not isinstance(item, PageRun):
                    tally.add_record(item)
                    if decoder.grammar is not None and decoder.grammar.may_end:
                        self._usable = decoder.offset
        except TruncatedStream as error:
            self._cut = error
        except WireError as error:
            self._problems.add(error, is_forgiven=False)
            self.is_refused = True

    def _show(self, items: Iterator[Item], watch: Watch) -> Iterator[Item]:
        start = self.decoder.offset
        for item in items:
            end = self.decoder.offset
            watch(item, start, end)
            start = end
            yield item

    def _report(self) -> VerifyReport:
        decoder, tally, grammar = self.decoder, self._tally, self.decoder.grammar
        domain = grammar.domain if grammar else None
        is_back_channel = grammar is not None and grammar.kind is StreamKind.BACK_CHANNEL
        counts = {kind: tally.types[kind] for kind in _TYPE_NUMBERS if tally.types[kind]}
        return VerifyReport(
            format=decoder.format,
            inner_format=decoder.inner_format,
            kind=grammar.kind if grammar else None,
            version=grammar.version if grammar else None,
            guest=domain.type if domain else None,
            xen_version=(domain.xen_major, domain.xen_minor) if domain else None,
            is_qemu_recording=domain is not None and domain.is_qemu_recording,
            records=tally.count_records(),
            checkpoints=grammar.checkpoints if grammar else 0,
            page_entries=sum(tally.types),
            data_pages=sum(n for kind, n in counts.items() if kind < PageType.BROKEN),
            page_types=counts,
            device_state_bytes=tally.device_state_bytes,
            stream_bytes=decoder.offset,
            usable_bytes=self._usable,
            discarded_bytes=self._fed - self._usable,
            tmem_pages_dropped=decoder.tmem_pages_dropped,
            problems=tuple(self._problems.kept),
            problem_count=self._problems.count,
            cut=self._cut,
            is_complete=decoder.done or (is_back_channel and self._cut is None and not self.is_refused),
        )


def examine(
    source: Iterable[Buffer] | Readable, options: ReadOptions | None = None, *, strict: bool = True
) -> VerifyReport:
    """Read a stream to its end and report what it holds and what is wrong with it; raises no WireError.

    `source` is something to read from, or the pieces themselves.
    """
    examiner = Examiner(options, strict=strict)
    for piece in _pieces(source):
        examiner.feed(piece)
    return examiner.finish()


def verify_stream(
    source: Iterable[Buffer] | Readable, strict: bool = True, kind: StreamKind | None = None
) -> VerifyReport:
    """As `examine`; raises the first WireError when the stream is not valid.

    A stream that breaks off behind a whole checkpoint is valid when `strict` is false.
    """
    report = examine(source, ReadOptions(kind=kind), strict=strict)
    for problem in report.problems:
        raise problem.error
    if report.cut is not None and (strict or not report.checkpoints):
        raise report.cut
    return report


def _pieces(source: Iterable[Buffer] | Readable) -> Iterator[Buffer]:
    if isinstance(source, Readable):
        return iter(partial(source.read, READ_BYTES), b"")
    if isinstance(source, bytes | bytearray | memoryview):
        return iter((source,))
    return iter(source)
