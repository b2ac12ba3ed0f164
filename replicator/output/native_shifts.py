"""The table of shifts in C: what `engine.compare.shift_table` does in Python, which is the oracle of its tests. A frame's
way through it takes a twentieth of the time."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from replicator._native import ffi, lib
from replicator.engine.compare.shift import Shift
from replicator.errors import require
from replicator.limits import COMPARE_CONNECTIONS_MAX, FRAME_BYTES_MAX
from replicator.memory.check import check
from replicator.wire.frames import KEY_BYTES_MAX


class Shifts(Protocol):
    """What a `ShiftTable` and a `NativeShiftTable` do alike; `engine.compare.shift_table` says what."""

    def __len__(self) -> int: ...

    def learn(self, key: bytes, shift: Shift) -> bool: ...

    def to_guest(self, frame: bytes, nic: int) -> bytes: ...

    def from_guest(self, frame: bytes, nic: int) -> bytes: ...

    def recent_of(self, key: bytes) -> Shift: ...

    def commit(self) -> None: ...

    def take_over(self) -> None: ...

    def export(self) -> tuple[tuple[bytes, Shift], ...]: ...

    def forget_lasting(self) -> None: ...

    def adopt(self, lasting: Iterable[tuple[bytes, Shift]]) -> bool: ...


class NativeShiftTable:
    """Implements `Shifts`. Keys have KEY_BYTES_MAX bytes at most, frames FRAME_BYTES_MAX. NativeError when there is no
    memory for it."""

    def __init__(self, *, connections_max: int = COMPARE_CONNECTIONS_MAX) -> None:
        slot = ffi.new("struct rp_shift_table **")
        code = lib.rp_shift_table_create(connections_max, secrets.randbits(64), slot)
        check(code, f"cannot make a table of {connections_max} connections")
        self._table: Any = ffi.gc(slot[0], lib.rp_shift_table_destroy)
        #: A frame that was changed.
        self._out: Any = ffi.new("uint8_t[]", FRAME_BYTES_MAX)
        self._changed = memoryview(ffi.buffer(self._out))

    @property
    def handle(self) -> Any:
        """`struct rp_shift_table *`, for native callers."""
        return self._table

    def __len__(self) -> int:
        return int(lib.rp_shift_table_count(self._table))

    def learn(self, key: bytes, shift: Shift) -> bool:
        _check_key(key)
        return bool(lib.rp_shift_table_learn(self._table, key, len(key), shift.seq, shift.ts))

    def to_guest(self, frame: bytes, nic: int) -> bytes:
        size = len(frame)
        require(size <= FRAME_BYTES_MAX, "a frame larger than any")
        if lib.rp_shift_table_to_guest(self._table, frame, size, nic, self._out):
            return bytes(self._changed[:size])
        return frame

    def from_guest(self, frame: bytes, nic: int) -> bytes:
        size = len(frame)
        require(size <= FRAME_BYTES_MAX, "a frame larger than any")
        if lib.rp_shift_table_from_guest(self._table, frame, size, nic, self._out):
            return bytes(self._changed[:size])
        return frame

    def recent_of(self, key: bytes) -> Shift:
        _check_key(key)
        found = lib.rp_shift_table_recent(self._table, key, len(key))
        return Shift(found.seq, found.ts)

    def commit(self) -> None:
        lib.rp_shift_table_commit(self._table)

    def take_over(self) -> None:
        lib.rp_shift_table_take_over(self._table)

    def export(self) -> tuple[tuple[bytes, Shift], ...]:
        return tuple(self._lasting())

    def forget_lasting(self) -> None:
        lib.rp_shift_table_forget_lasting(self._table)

    def adopt(self, lasting: Iterable[tuple[bytes, Shift]]) -> bool:
        for key, shift in lasting:
            _check_key(key)
            if not lib.rp_shift_table_adopt(self._table, key, len(key), shift.seq, shift.ts):
                return False
        return True

    def _lasting(self) -> Iterator[tuple[bytes, Shift]]:
        cursor, one = ffi.new("uint32_t *"), ffi.new("struct rp_lasting_shift *")
        while lib.rp_shift_table_next_lasting(self._table, cursor, one):
            yield bytes(ffi.buffer(one.key, one.key_bytes)), Shift(one.shift.seq, one.shift.ts)


def _check_key(key: bytes) -> None:
    require(len(key) <= KEY_BYTES_MAX, f"a connection's key of {len(key)} bytes")
