"""Makes the parts of epochs small for their way to the secondary.

Pages of an epoch are encoded against the versions that the secondary will hold when it applies that epoch: those of the
epochs before it, in the order in which they travel. Rules: 1. A page that this epoch has carried already has no base,
for what the secondary holds until the commit is still older. 2. A full synchronisation has no bases at all. 3. Whenever
an epoch that was begun may not be committed, `forget` drops every base. Should a base be wrong all the same, the far
end's check of the rebuilt part refuses it.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import xxhash

from replicator.limits import PART_BYTES_MAX
from replicator.link.buffers import BufferPool
from replicator.memory.bases import BaseCache, BaseCounts
from replicator.memory.encodings import EncodedPages, EncodingStats, PageMethod, encode_pages
from replicator.memory.pages import Buffer
from replicator.observe.status import EncodingStatus
from replicator.service.link_pace import Group, LinkPace
from replicator.units import PAGE_SIZE
from replicator.wire.coded_part import BLOCKS, PAGES, PLAIN, count_blocks, pack_table
from replicator.wire.epoch_digest import EpochDigest, digest_page_data
from replicator.wire.recording import page_data_header_bytes

#: Parts that are encoded at a time, each by a thread of the pool.
LOOKAHEAD_PARTS = 4
#: Of a part of the largest size, with its table, if nothing in it becomes smaller.
CODED_BYTES_MAX = 2 * PART_BYTES_MAX
#: What is encoded so quickly that handing it to another thread would take longer.
INLINE_PAGES = 512
#: A part that hardly shrinks travels as it is: rebuilding it would cost the far end a copy.
GAIN_PERCENT_MIN = 4
NO_BASES = BaseCounts(0, 0, 0, 0, 0)


@dataclass(slots=True)
class Part:
    """A piece of an epoch's stream. `pfns` when it is a PAGE_DATA record, whose pages end it."""

    data: memoryview
    pfns: array[int] | None = None
    #: The memory that `data` begins, to be given back once nobody reads it; None when it is no room of ours.
    room: memoryview | None = None
    #: Copies the pages into `data`, if nobody has done so yet.
    _copy: Callable[[], None] | None = None
    _digest: bytes = b""

    def fill(self) -> None:
        """Before anything reads the pages. May be repeated."""
        copy, self._copy = self._copy, None
        if copy is not None:
            copy()

    @property
    def pages(self) -> memoryview:
        return self.data[page_data_header_bytes(len(self.pfns or ())) :]

    def take_digest(self) -> bytes:
        """What the far end compares. Of a record of pages it is also what counts for the epoch's. Computed once."""
        if not self._digest:
            self._digest = self._compute_digest()
        return self._digest

    def _compute_digest(self) -> bytes:
        if self.pfns is None:
            return xxhash.xxh3_128_digest(self.data)
        header_bytes = page_data_header_bytes(len(self.pfns))
        return digest_page_data(self.data[:header_bytes], self.data[header_bytes:])

    def count_for(self, epoch: EpochDigest) -> None:
        """Add this part, the next one, to the epoch's digest."""
        if self.pfns is None:
            epoch.add(self.data)
        else:
            epoch.add_page_data(self.take_digest())


class CodedPart(NamedTuple):
    """A part as it travels; see EpochPart for the fields."""

    part: Part
    payload: memoryview | bytes
    encoding: str = PLAIN
    part_bytes: int = 0
    check: bytes = bytes(16)
    stats: EncodingStats = EncodingStats()


class PartEncoder:
    """For all epochs of one primary. `bases` is None where none are to be kept."""

    def __init__(self, bases: BaseCache | None) -> None:
        self.bases = bases
        self.pace = LinkPace()
        #: Of what parts become.
        self.buffers = BufferPool(CODED_BYTES_MAX)
        #: Of all parts since the start; the bytes are those of device states too.
        self._stats = EncodingStats()
        self._part_bytes = 0
        self._wire_bytes = 0
        #: Held while threads may look bases up, also those of an epoch that was given up meanwhile: no other part is
        #: settled, and `forget` waits.
        self.looking = asyncio.Lock()
        self._outdated = False

    def open(self, *, full: bool) -> EpochEncoder:
        """For one epoch; `full` when it has no base."""
        return EpochEncoder(self, None if full else self.bases)

    def forget(self) -> None:
        """What the secondary holds is not certain any more."""
        self._outdated = True
        if not self.looking.locked():
            self.drop_outdated()

    def forget_pages(self, pfns: array[int]) -> None:
        """What the secondary holds of these frames is another version."""
        if self.looking.locked():
            self.forget()
        elif self.bases is not None and pfns:
            self.bases.drop(pfns)

    def drop_outdated(self) -> None:
        """What `forget` left to whoever looks next."""
        if self.bases is not None and self._outdated:
            self.bases.drop_all()
        self._outdated = False

    def count(self, coded: CodedPart) -> None:
        self._stats += coded.stats
        self._part_bytes += len(coded.part.data)
        self._wire_bytes += len(coded.payload)

    def show(self) -> EncodingStatus:
        counts = self.bases.counts() if self.bases is not None else NO_BASES
        return EncodingStatus(
            {method.name.lower(): self._stats.pages[method] for method in PageMethod},
            self._part_bytes,
            self._wire_bytes,
            counts.held_bytes,
            counts.capacity * PAGE_SIZE,
        )


class EpochEncoder:
    """Encodes the parts of one epoch, in the order in which they travel."""

    def __init__(self, encoder: PartEncoder, bases: BaseCache | None) -> None:
        self._encoder = encoder
        self._bases = bases
        #: Frames that this epoch has carried.
        self._carried: set[int] = set()

    async def encode(self, parts: Sequence[Part], *, compress: bool = True) -> list[CodedPart]:
        """The next parts, without `compress` in less time and more bytes. Each is to be given to `note_sent` as it leaves."""
        async with self._encoder.looking:
            self._encoder.drop_outdated()
            for part in parts:
                self._drop_carried(part)
            if sum(map(_count_pages, parts)) <= INLINE_PAGES:
                return [
                    encode_part(part, self._bases, self._encoder.buffers, compress=compress) for part in parts
                ]
            loop = asyncio.get_running_loop()
            encode = partial(encode_part, bases=self._bases, buffers=self._encoder.buffers, compress=compress)
            work = [loop.run_in_executor(None, encode, part) for part in parts]
            return list(await asyncio.gather(*work))

    def _drop_carried(self, part: Part) -> None:
        if self._bases is None or part.pfns is None:
            return
        if again := self._carried.intersection(part.pfns):
            self._bases.drop(array("Q", again))
        self._carried.update(part.pfns)

    def note_sent(self, coded: CodedPart) -> None:
        """The secondary will hold these versions once it has committed the epoch."""
        part = coded.part
        if self._bases is not None and part.pfns is not None:
            self._bases.update(part.pfns, part.pages)
        self._encoder.count(coded)


def _count_pages(part: Part) -> int:
    return -(-len(part.data) // PAGE_SIZE) if part.pfns is None else len(part.pfns)


def encode_part(
    part: Part, bases: BaseCache | None, buffers: BufferPool, *, compress: bool = True
) -> CodedPart:
    """Copies the pages, if that is still to be done. Only reads the bases: parts without common frames may be encoded at
    the same time."""
    part.fill()
    room = buffers.get()
    if part.pfns is None:
        encoding, (data, _) = BLOCKS, _encode_blocks(part, room)
        # Pages are the guest's; these are none and do not count as such.
        stats = EncodingStats()
    else:
        encoding = PAGES
        # The epoch's needs it in any case, and here other parts are digested at the same time.
        part.take_digest()
        data, stats = encode_pages(
            part.pfns, part.pages, bases, compress=compress, head=pack_table(part.pfns), room=room
        )
    return _choose(part, encoding, buffers.lend(room, len(data)), stats)


def _encode_blocks(part: Part, room: Buffer) -> EncodedPages:
    blocks = count_blocks(len(part.data))
    body = bytes(part.data).ljust(blocks * PAGE_SIZE, b"\0")
    return encode_pages(array("Q", range(blocks)), body, room=room)


def _choose(part: Part, encoding: str, payload: memoryview, stats: EncodingStats) -> CodedPart:
    size = len(part.data)
    if len(payload) * 100 > size * (100 - GAIN_PERCENT_MIN):
        return CodedPart(part, part.data, stats=stats)
    return CodedPart(part, payload, encoding, size, part.take_digest(), stats)


def measure_group(group: Sequence[CodedPart], encode_ns: int, send_ns: int) -> Group:
    """What was sent, for the pace."""
    stats = sum((coded.stats for coded in group), EncodingStats())
    whole = stats.pages[PageMethod.LZ4] + stats.pages[PageMethod.RAW]
    return Group(whole * PAGE_SIZE, sum(len(coded.payload) for coded in group), encode_ns, send_ns)
