"""A guest whose memory map changes while it is replicated, its sender, and the truth about both.

The guest has frames that are populated or not (it balloons), page tables in some of them, and broken ones; its
p2m list may grow. The sender works as a real one does: a first pass over everything while the guest runs, passes
over what was dirtied, a last one while it stands still. A page table that is being changed, or a frame that is
gone for the moment, goes out as XTAB and comes later. The truth is what the guest has when it stands still.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator

from wire_vectors import start_info_page, vcpu_context_64

from replicator.units import PAGE_SIZE
from replicator.wire.layout import DomainType, PageType
from replicator.wire.records import (
    CheckpointEnd,
    CheckpointRecord,
    DomainHeader,
    EmulatorContext,
    End,
    HvmContext,
    HvmParam,
    HvmParams,
    ImageHeader,
    LibxcContext,
    LibxlEnd,
    LibxlHeader,
    P2mFrames,
    PageData,
    PvInfo,
    Record,
    SharedInfo,
    StaticDataEnd,
    TscInfo,
    VcpuBasic,
)

#: pfn -> type and page (None when the type has no data); frames that the guest does not have are not in it.
Memory = dict[int, tuple[PageType, bytes | None]]

#: Frames that registers and p2m list name; they never change their type.
_NAMED = {0: PageType.NOTAB, 2: PageType.L4TAB_PINNED, 6: PageType.NOTAB}
_TABLES = (PageType.L1TAB, PageType.L2TAB, PageType.L3TAB_PINNED)
_FRAMES_OF_P2M_PAGE = 512
_BATCH = 16


class MovingGuest:
    """A PV or HVM guest of some frames. Everything comes from `rng`."""

    def __init__(self, kind: DomainType, frames: int, rng: random.Random) -> None:
        self.kind = kind
        self.frames = frames
        self.memory: Memory = {}
        self._rng = rng
        self._dirty: set[int] = set()
        # Broken frames stay broken.
        self._broken: set[int] = set()
        for pfn in range(frames):
            if pfn in _NAMED or rng.random() < 0.7:
                self._populate(pfn)

    def _page(self) -> bytes:
        seed = self._rng.getrandbits(64).to_bytes(8, "little")
        return bytes(PAGE_SIZE) if self._rng.random() < 0.1 else seed * (PAGE_SIZE // 8)

    def _populate(self, pfn: int) -> None:
        kind = _NAMED.get(pfn, PageType.NOTAB)
        if self.kind is DomainType.HVM:
            kind = PageType.NOTAB
        elif pfn not in _NAMED and self._rng.random() < 0.2:
            kind = self._rng.choice(_TABLES)
        page = start_info_page() if pfn == 0 and self.kind is DomainType.PV else self._page()
        self.memory[pfn] = (kind, page)
        self._dirty.add(pfn)

    def run(self, steps: int) -> None:
        """Write, balloon out, balloon in, break."""
        for _ in range(steps):
            pfn = self._rng.randrange(self.frames)
            if pfn in self._broken or pfn in _NAMED:
                continue
            self._dirty.add(pfn)
            dice = self._rng.random()
            if dice < 0.2:
                self.memory.pop(pfn, None)
            elif dice < 0.23:
                self.memory[pfn] = (PageType.BROKEN, None)
                self._broken.add(pfn)
            else:
                self._populate(pfn)

    def grow(self, frames: int) -> None:
        """Memory is added behind the last frame."""
        for pfn in range(self.frames, self.frames + frames):
            self._populate(pfn)
        self.frames += frames

    def take_dirty(self) -> set[int]:
        """What changed since the last call."""
        dirty, self._dirty = self._dirty, set()
        return dirty


class Sender:
    """Writes a session of one guest as records, and keeps the truth of each checkpoint."""

    def __init__(self, guest: MovingGuest, rng: random.Random) -> None:
        self.guest = guest
        self._rng = rng
        self._deferred: set[int] = set()
        self._p2m_frames = 0
        #: The memory at each CHECKPOINT, or at END.
        self.truth: list[Memory] = []

    def plain(self) -> Iterator[Record]:
        """A live migration."""
        yield from self._start()
        yield from self._live_passes()
        yield from self._last_pass()
        yield End()
        if self.guest.kind is DomainType.HVM:
            yield EmulatorContext(2, 0, self._blob())
        yield LibxlEnd()

    def remus(self, checkpoints: int) -> Iterator[Record]:
        """Remus: it breaks off behind the last of these."""
        yield from self._start()
        yield from self._live_passes()
        for number in range(checkpoints):
            if number:
                self.guest.run(self._rng.randrange(30))
                if self.guest.kind is DomainType.PV and self._rng.random() < 0.3:
                    self.guest.grow(self._rng.choice([1, 1, 500]))
            yield from self._last_pass()
            yield CheckpointRecord()
            if self.guest.kind is DomainType.HVM:
                yield EmulatorContext(2, 0, self._blob())
            yield CheckpointEnd()

    def _blob(self) -> bytes:
        return self._rng.randbytes(self._rng.randrange(1, 40))

    def _start(self) -> Iterator[Record]:
        yield from (LibxlHeader(), LibxcContext(), ImageHeader(), DomainHeader(self.guest.kind, 4, 17))
        if self.guest.kind is DomainType.PV:
            yield PvInfo(8, 4)
        yield StaticDataEnd()

    def _p2m(self) -> Iterator[Record]:
        """The list, when it is new or has grown."""
        if self.guest.kind is DomainType.PV and self.guest.frames != self._p2m_frames:
            self._p2m_frames = self.guest.frames
            pages = -(-self.guest.frames // _FRAMES_OF_P2M_PAGE)
            yield P2mFrames(0, self.guest.frames - 1, array("Q", [6] * pages))

    def _live_passes(self) -> Iterator[Record]:
        self.guest.take_dirty()
        yield from self._p2m()
        yield from self._pages(range(self.guest.frames), live=True)
        for _ in range(self._rng.randrange(3)):
            self.guest.run(self._rng.randrange(30))
            yield from self._pages(sorted(self.guest.take_dirty()), live=True)
        self.guest.run(self._rng.randrange(20))

    def _last_pass(self) -> Iterator[Record]:
        """The guest stands still: what was dirtied and what was put off."""
        yield from self._p2m()
        yield from self._pages(sorted(self.guest.take_dirty() | self._deferred), live=False)
        self._deferred.clear()
        yield from self._tail()
        self.truth.append(dict(self.guest.memory))

    def _pages(self, pfns: range | list[int], *, live: bool) -> Iterator[Record]:
        for start in range(0, len(pfns), _BATCH):
            batch = [(pfn, *self._send(pfn, live=live)) for pfn in pfns[start : start + _BATCH]]
            entries = array("Q", [kind << 60 | pfn for pfn, kind, _ in batch])
            yield PageData(entries, b"".join(page for _, _, page in batch if page is not None))

    def _send(self, pfn: int, *, live: bool) -> tuple[PageType, bytes | None]:
        kind, page = self.guest.memory.get(pfn, (PageType.XTAB, None))
        is_table = kind not in (PageType.NOTAB, PageType.BROKEN, PageType.XTAB)
        if live and (kind is PageType.XTAB or (is_table and self._rng.random() < 0.3)):
            self._deferred.add(pfn)
            return PageType.XTAB, None
        return kind, page

    def _tail(self) -> Iterator[Record]:
        yield TscInfo(1, 2_000_000, self._rng.getrandbits(40), 1)
        if self.guest.kind is DomainType.HVM:
            yield HvmContext(self._blob())
            yield HvmParams((HvmParam(1, self._rng.getrandbits(20)),))
        else:
            yield SharedInfo(self._rng.randbytes(PAGE_SIZE))
            yield VcpuBasic(0, vcpu_context_64())
