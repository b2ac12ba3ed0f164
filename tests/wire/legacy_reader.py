"""Reads legacy streams for the tests: to whole records, and on to what they make of a replica."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from legacy_maker import PAGE, Checkpoint

from replicator.wire import layout
from replicator.wire.legacy import LegacyDecoder, MemoryBases
from replicator.wire.page_data import PageJoiner
from replicator.wire.records import (
    CheckpointEnd,
    EmulatorContext,
    EmulatorXenstoreData,
    Envelope,
    HvmContext,
    HvmParams,
    Item,
    LibxlEnd,
    PageData,
    Record,
    SharedInfo,
    TscInfo,
    VcpuBasic,
    VcpuExtended,
    VcpuXsave,
)


def read_pieces(pieces: Iterable[bytes], **options: Any) -> Iterator[Record]:
    """The records of a whole stream that comes in these pieces."""
    decoder = LegacyDecoder(**{"bases": MemoryBases()} | options)
    joiner = PageJoiner()
    for piece in pieces:
        yield from _join(joiner, decoder.feed(piece))
    yield from _join(joiner, decoder.finish())


def read(data: bytes, **options: Any) -> list[Record]:
    """The records of a whole stream."""
    return list(read_pieces([data], **options))


def cut(data: bytes, offsets: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at these offsets."""
    return [data[a:b] for a, b in pairwise([0, *sorted(offsets), len(data)])]


def _join(joiner: PageJoiner, items: Iterator[Item]) -> Iterator[Record]:
    for item in items:
        record = joiner.join(item)
        if record is not None and not isinstance(record, Envelope):
            yield record


def replay(records: Iterable[Record]) -> list[Checkpoint]:
    """What the guest is at each checkpoint, and at the end."""
    replica = _Replica()
    for record in records:
        replica.take(record)
    return replica.checkpoints


class _Replica:
    def __init__(self) -> None:
        self.checkpoints: list[Checkpoint] = []
        self._pages: dict[int, tuple[int, bytes | None]] = {}
        self._now = Checkpoint()
        self._is_open = False

    def take(self, record: Record) -> None:
        now = self._now
        self._is_open |= isinstance(record, PageData | HvmContext | VcpuBasic)
        match record:
            case PageData():
                self._take_pages(record)
            case VcpuBasic(vcpu_id=vcpu, blob=blob):
                now.vcpus[vcpu] = (blob, None, None)
            case VcpuExtended(vcpu_id=vcpu, blob=blob):
                now.vcpus[vcpu] = (now.vcpus[vcpu][0], blob, None)
            case VcpuXsave(vcpu_id=vcpu, blob=blob):
                now.vcpus[vcpu] = (*now.vcpus[vcpu][:2], blob)
            case SharedInfo(page=page):
                now.shared_info = page
            case HvmParams(params=params):
                now.params |= dict(params)
            case HvmContext(blob=blob):
                now.context = blob
            case EmulatorXenstoreData(entries=entries):
                now.physmap = dict(entries)
            case EmulatorContext(blob=blob):
                now.device_model = blob
            case TscInfo():
                now.tsc = (record.mode, record.khz, record.nsec, record.incarnation)
            case CheckpointEnd() | LibxlEnd() if self._is_open:
                now.pages = dict(self._pages)
                self.checkpoints.append(now)
                self._now, self._is_open = Checkpoint(), False

    def _take_pages(self, record: PageData) -> None:
        at = 0
        for entry in record.entries:
            kind, pfn = entry >> layout.ENTRY_TYPE_SHIFT, entry & layout.ENTRY_PFN_MASK
            page = None
            if kind not in layout.TYPES_WITHOUT_DATA:
                page, at = record.pages[at : at + PAGE], at + PAGE
            self._pages[pfn] = (kind, page)
