"""The replica store on a simulated disk, which may be full, or lose its host in the middle of a write."""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from replicator.errors import WireError
from replicator.memory.pages import GuestLayout
from replicator.sim.process import Process, ProcessDied
from replicator.store import Committed, Recovery, ReplicaStore, files
from replicator.store.replica_files import STATES, UNDO
from replicator.wire.layout import LibxcType
from replicator.wire.recording import parse_page_data_header

#: Files that need more space while a replica is at work; the others have theirs from the start.
_GROWING = {UNDO, *STATES}
#: What a record of pages begins with.
_PAGE_DATA = LibxcType.PAGE_DATA.to_bytes(4, "little")


@dataclass(slots=True)
class DiskFaults:
    full: bool = False
    #: The process dies before (or in the middle of) the n-th write from now on; 0 for never.
    die_at_write: int = 0


class SimStore(ReplicaStore):
    """`on_change(store, what)` is called after each step that may change what the replica is worth."""

    def __init__(
        self,
        process: Process,
        faults: DiskFaults,
        directory: Path,
        ram_bytes: int,
        layout: GuestLayout,
        staging_bytes: int,
        on_change: Callable[[SimStore, str], None],
    ) -> None:
        super().__init__(directory, ram_bytes, layout, staging_bytes, write_at=self._write)
        self._process = process
        self._faults = faults
        self._on_change = on_change
        #: Frames that arrived in the open epoch, and the epoch that it builds upon (None: a full one).
        self.pfns: set[int] = set()
        self.base: Committed | None = None

    def _write(self, fd: int, path: Path, data: bytes | bytearray | memoryview, offset: int) -> None:
        if not self._process.alive:
            raise ProcessDied
        faults = self._faults
        if faults.die_at_write:
            faults.die_at_write -= 1
            if not faults.die_at_write:
                # The write under way is cut in the middle.
                files.write_at(fd, path, memoryview(data).cast("B")[: len(data) // 2], offset)
                self._process.die()
                raise ProcessDied
        if faults.full and path.name in _GROWING:
            raise files.store_error(path, "write", OSError(errno.ENOSPC, "no space"))
        files.write_at(fd, path, data, offset)

    def recover(self) -> Recovery:
        recovery = super().recover()
        self._on_change(self, f"recovered: {recovery.outcome.value}")
        return recovery

    def begin(self, term: int, epoch: int, *, session: bytes = b"", first_of_sync: bool = False) -> None:
        self.pfns, self.base = set(), self._base
        super().begin(term, epoch, session=session, first_of_sync=first_of_sync)
        self._on_change(self, "begun")

    def add_part(self, index: int, payload: memoryview) -> None:
        if payload[:4] == _PAGE_DATA:
            self.pfns.update(_pfns_of(payload, self._layout.pfn_limit))
        super().add_part(index, payload)
        if self._process.world.chance(0.1):
            self._on_change(self, "part")

    def finish(self, parts: int, bytes: int, digest: bytes) -> Committed:
        committed = super().finish(parts, bytes, digest)
        self._on_change(self, "committed")
        return committed

    def abort(self) -> None:
        was_open = self._open is not None
        super().abort()
        if was_open:
            self._on_change(self, "aborted")

    def discard(self, reason: str) -> None:
        super().discard(reason)
        self._on_change(self, "discarded")

    def mark_active(self) -> None:
        super().mark_active()
        self._on_change(self, "active")


def _pfns_of(payload: memoryview, pfn_limit: int) -> array[int]:
    """Of a part that may be damaged: what of it can be read."""
    try:
        return parse_page_data_header(payload, pfn_limit)[0]
    except WireError:
        return array("Q")
