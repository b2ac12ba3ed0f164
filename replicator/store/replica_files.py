"""The open files of one replica: RAM, staging, undo log, two device states, journal.

Whoever has a `ReplicaFiles` has the lock on the directory, room for a whole RAM and a whole staging, and the
mappings of both. What the contents are worth is said by the journal alone; this file decides nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from array import array
from pathlib import Path

import xxhash

from replicator.errors import StoreError
from replicator.memory.pages import GuestLayout
from replicator.store import files
from replicator.store.journal import Entry, EpochMark, Journal
from replicator.store.replica_ram import ReplicaRam
from replicator.store.undo import UndoLog
from replicator.units import PAGE_SIZE

RAM = "ram"
STAGING = "staging"
UNDO = "undo"
JOURNAL = "journal"
STATES = ("state-0", "state-1")
ALL_NAMES = (RAM, STAGING, UNDO, *STATES, JOURNAL)


def empty_entry(layout: GuestLayout, reason: str) -> Entry:
    """The journal entry of a replica of this guest that is no epoch."""
    table = array("Q")
    for segment in layout.segments:
        table.extend(segment)
    return Entry(
        ram_bytes=layout.pages * PAGE_SIZE,
        layout_check=xxhash.xxh3_64_intdigest(table.tobytes()),
        boot=files.boot_id(),
        reason=reason,
    )


class ReplicaFiles:
    """Opens or creates everything but the journal, which it takes over. StoreError when that fails; the
    journal then is still the caller's."""

    def __init__(
        self,
        directory: Path,
        layout: GuestLayout,
        staging_bytes_max: int,
        journal: Journal,
        write_at: files.WriteAt = files.write_at,
    ) -> None:
        self._write_at = write_at
        self.directory = directory
        self.layout = layout
        self.staging_bytes_max = staging_bytes_max
        self.journal = journal
        with contextlib.ExitStack() as opened:
            self._open(opened)
            self._opened = opened.pop_all()
        self._opened.callback(journal.close)

    def _open(self, opened: contextlib.ExitStack) -> None:
        ram_path = self.directory / RAM
        ram_fd = files.open_private(ram_path)
        opened.callback(os.close, ram_fd)
        files.set_size(ram_fd, ram_path, self.layout.pages * PAGE_SIZE)
        self._staging_path = self.directory / STAGING
        self._staging_fd = files.open_private(self._staging_path)
        opened.callback(os.close, self._staging_fd)
        # A staged epoch to be redone may be larger than a limit that was lowered since.
        size = max(self.staging_bytes_max, os.fstat(self._staging_fd).st_size)
        files.set_size(self._staging_fd, self._staging_path, size)
        self.staging = mmap.mmap(self._staging_fd, size)
        opened.callback(_close_mapping, self.staging)
        self.undo = UndoLog(self.directory / UNDO, self.layout.pfn_limit, self._write_at)
        opened.callback(self.undo.close)
        self._state_paths = [self.directory / name for name in STATES]
        self._state_fds = [files.open_private(path) for path in self._state_paths]
        for fd in self._state_fds:
            opened.callback(os.close, fd)
        self.ram = ReplicaRam(ram_fd, self.layout)
        opened.callback(self.ram.close)

    @property
    def entry(self) -> Entry:
        """What the journal says now."""
        return self.journal.entry

    def stage(self, data: memoryview, offset: int) -> None:
        """Put bytes into staging, which is large enough for them."""
        self._write_at(self._staging_fd, self._staging_path, data, offset)

    def write_state(self, state: bytes) -> None:
        """Put a device state beside the committed one."""
        slot = 1 - self.entry.state_slot
        self._write_at(self._state_fds[slot], self._state_paths[slot], state, 0)
        os.ftruncate(self._state_fds[slot], len(state))

    def read_state(self, slot: int, mark: EpochMark) -> bytes:
        """The device state of `mark`. StoreError when the file holds another one."""
        path = self._state_paths[slot]
        state = files.read_at(self._state_fds[slot], path, mark.state_bytes, 0)
        if len(state) != mark.state_bytes or xxhash.xxh3_64_intdigest(state) != mark.state_check:
            raise StoreError(
                f"{path} is not the device state of epoch {mark.epoch}",
                hint="the replica cannot be promoted; let it synchronise anew",
            )
        return state

    def close(self) -> None:
        """Give up mappings, descriptors and the lock. May be repeated."""
        self._opened.close()


def _close_mapping(mapping: mmap.mmap) -> None:
    with contextlib.suppress(BufferError):  # a traceback still holds a view; it is unmapped with that
        mapping.close()


def remove_all_but_ram(directory: Path) -> None:
    """Free what only a replica needs. The journal stays: it says why the RAM is no replica."""
    for name in ALL_NAMES:
        if name not in (RAM, JOURNAL):
            (directory / name).unlink(missing_ok=True)


def remove_files(directory: Path) -> None:
    """Remove the replica's files, only those; the directory too when nothing else is in it."""
    for name in ALL_NAMES:
        (directory / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        directory.rmdir()
