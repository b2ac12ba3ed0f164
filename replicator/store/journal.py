"""The journal: what the other files of a replica are worth at this moment.

Two slots of one block each, written in turn; a slot counts when its checksum is right, and of two the
higher generation counts. So a writer killed at any instant leaves the previous entry or the new one, never a
mixture.

    UNSYNCED   RAM equals no epoch (`reason` says why)
    COMMITTED  RAM and device state are those of `committed`
    REDO       staging holds `pending` whole and verified; RAM is somewhere between `committed` and `pending`
    UNDO       parts of `pending` may be in RAM; the pages before it are in the undo log
    ACTIVE     a guest runs on the RAM file, which therefore equals no epoch

The entry is written with pwrite and not synced: it is right after the death of a process, not after that of
the host, which is why the entry carries the boot id.
"""

from __future__ import annotations

import os
import struct
from enum import IntEnum
from pathlib import Path

import xxhash

from replicator.frozen import frozen
from replicator.store import files

BLOCK_BYTES = 4096
REASON_BYTES_MAX = 160
_MAGIC = b"RPLJRNL1"
#: term, epoch, digest, session, bytes and checksum of the device state.
_MARK = struct.Struct("<QQ16s16sQQ")
#: magic, generation, phase, device state slot, staged bytes, RAM bytes, layout checksum, boot id, reason.
_ENTRY = struct.Struct(f"<8sQIIQQQ16s{REASON_BYTES_MAX}s")
_CHECKSUM = struct.Struct("<Q")
_SLOT_BYTES = _ENTRY.size + 2 * _MARK.size + _CHECKSUM.size


class Phase(IntEnum):
    UNSYNCED = 0
    COMMITTED = 1
    REDO = 2
    UNDO = 3
    ACTIVE = 4
    UNDO_ACTIVE = 5


@frozen
class EpochMark:
    """One whole epoch and its device state. Epoch 0 means: none."""

    term: int = 0
    epoch: int = 0
    digest: bytes = bytes(16)
    session: bytes = bytes(16)
    state_bytes: int = 0
    state_check: int = 0

    def pack(self) -> bytes:
        return _MARK.pack(
            self.term, self.epoch, self.digest, self.session, self.state_bytes, self.state_check
        )


@frozen
class Entry:
    """Content of the journal. `state_slot` is the device state file of `committed`; `pending` uses the
    other."""

    ram_bytes: int
    layout_check: int
    boot: bytes
    phase: Phase = Phase.UNSYNCED
    state_slot: int = 0
    staged_bytes: int = 0
    reason: str = ""
    committed: EpochMark = EpochMark()
    pending: EpochMark = EpochMark()

    def pack(self, generation: int) -> bytes:
        """The bytes of a slot, which count if no other slot has a higher generation."""
        reason = self.reason.encode()[:REASON_BYTES_MAX]
        body = (
            _ENTRY.pack(
                _MAGIC,
                generation,
                self.phase,
                self.state_slot,
                self.staged_bytes,
                self.ram_bytes,
                self.layout_check,
                self.boot,
                reason,
            )
            + self.committed.pack()
            + self.pending.pack()
        )
        return body + _CHECKSUM.pack(xxhash.xxh3_64_intdigest(body))


def _unpack(slot: bytes) -> tuple[int, Entry] | None:
    """The generation of a slot and what it says."""
    if len(slot) < _SLOT_BYTES:
        return None
    body = slot[: _SLOT_BYTES - _CHECKSUM.size]
    if _CHECKSUM.unpack_from(slot, len(body)) != (xxhash.xxh3_64_intdigest(body),):
        return None
    magic, generation, phase, state_slot, staged, ram_bytes, layout, boot, reason = _ENTRY.unpack_from(body)
    if magic != _MAGIC or phase not in Phase.__members__.values() or state_slot > 1:
        return None
    entry = Entry(
        ram_bytes=ram_bytes,
        layout_check=layout,
        boot=boot,
        phase=Phase(phase),
        state_slot=state_slot,
        staged_bytes=staged,
        reason=reason.rstrip(b"\0").decode(errors="replace"),
        committed=EpochMark(*_MARK.unpack_from(body, _ENTRY.size)),
        pending=EpochMark(*_MARK.unpack_from(body, _ENTRY.size + _MARK.size)),
    )
    return generation, entry


class Journal:
    """The journal file. Owns `fd`, which also carries the lock on the whole directory."""

    def __init__(self, path: Path, initial: Entry, write_at: files.WriteAt = files.write_at) -> None:
        self._path = path
        self._write_at = write_at
        #: What was read or written last.
        self.entry = initial
        self._fd = files.open_private(path)
        try:
            files.lock_exclusively(self._fd, path)
            files.set_size(self._fd, path, 2 * BLOCK_BYTES)
        except BaseException:
            self.close()
            raise
        self._generation = 0

    def read(self) -> Entry | None:
        """Newest valid entry, or None when the file is new or unusable."""
        slots = [files.read_at(self._fd, self._path, _SLOT_BYTES, slot * BLOCK_BYTES) for slot in (0, 1)]
        found = [one for slot in slots if (one := _unpack(slot)) is not None]
        if not found:
            return None
        self._generation, self.entry = max(found, key=lambda one: one[0])
        return self.entry

    def write(self, entry: Entry) -> None:
        """Replace the older slot by `entry`, under the next generation."""
        self._generation += 1
        data = entry.pack(self._generation)
        self._write_at(self._fd, self._path, data, (self._generation % 2) * BLOCK_BYTES)
        self.entry = entry

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
