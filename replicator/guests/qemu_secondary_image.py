"""A disk image that holds no disk but one snapshot of a machine, with room for the machine's state. Pure.

QEMU loads a state any number of times from a snapshot inside a qcow2 image, and from nowhere else. The image is laid
out so that the loading changes nothing in it: the active table is the snapshot's own from the beginning, and each
cluster's count stands for both. So the clusters of the state stay where they are, one after the other, and the next
state is written over the one before while QEMU has the image open. QEMU reads up to the state's own end; what lies
behind it is of no account.

Source of the format: docs/interop/qcow2.txt of QEMU. All numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from replicator.errors import require

#: The snapshot's name.
SNAPSHOT: Final = "s"

_CLUSTER_BITS: Final = 16
_CLUSTER: Final = 1 << _CLUSTER_BITS
#: What one table of the second level shows.
ROOM_BYTES_MAX: Final = _CLUSTER // 8 * _CLUSTER  # 512 MiB
#: The disk that the image must have: one cluster, never written.
_DISK_BYTES: Final = _CLUSTER

_MAGIC: Final = b"QFI\xfb"
_VERSION: Final = 3
#: magic, version, backing file (offset, size), cluster bits, size, encryption, first level (entries, offset),
#: counts (offset, clusters), snapshots (number, offset), features (incompatible, compatible, autoclear),
#: bits of a count (as a power of 2), length of this header.
_HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_COUNT_BITS_POWER: Final = 4
#: first level (offset, entries), lengths of id and name, date (s, ns), clock, size of the state, length of the rest:
#: size of the state, of the disk, instruction count (none).
_SNAPSHOT: Final = struct.Struct(">QIHHIIQIIQQQ")
_SNAPSHOT_REST: Final = 24
_NO_COUNT: Final = (1 << 64) - 1
#: Entries of the first level: one for the disk, one for the state, which QEMU keeps behind the disk.
_FIRST_LEVEL: Final = 2

#: Where what is, by cluster.
_HEAD, _COUNT_TABLE, _COUNTS, _ACTIVE, _SAVED, _SECOND_LEVEL, _SNAPSHOTS, _STATE = range(8)


@dataclass(frozen=True, slots=True)
class StateImage:
    """What is in the file at which offset; the rest of its `file_bytes` is zeros. The state goes to `state_offset`."""

    parts: tuple[tuple[int, bytes], ...]
    state_offset: int
    room_bytes: int
    file_bytes: int


def build_image(state_bytes: int) -> StateImage:
    """An image with room for a state of at least `state_bytes`, which is in 1..ROOM_BYTES_MAX."""
    require(0 < state_bytes <= ROOM_BYTES_MAX, "the state fits the image")
    clusters = -(-state_bytes // _CLUSTER)
    room = clusters * _CLUSTER
    parts = {
        _HEAD: _build_header(),
        _COUNT_TABLE: struct.pack(">Q", _COUNTS * _CLUSTER),
        _COUNTS: _build_counts(clusters),
        _ACTIVE: _build_first_level(),
        _SAVED: _build_first_level(),
        _SECOND_LEVEL: _build_second_level(clusters),
        _SNAPSHOTS: _build_snapshot(room),
    }
    return StateImage(
        parts=tuple((cluster * _CLUSTER, data) for cluster, data in parts.items()),
        state_offset=_STATE * _CLUSTER,
        room_bytes=room,
        file_bytes=_STATE * _CLUSTER + room,
    )


def _build_header() -> bytes:
    header = _HEADER.pack(
        *(_MAGIC, _VERSION, 0, 0, _CLUSTER_BITS, _DISK_BYTES, 0),
        *(_FIRST_LEVEL, _ACTIVE * _CLUSTER, _COUNT_TABLE * _CLUSTER, 1, 1, _SNAPSHOTS * _CLUSTER),
        *(0, 0, 0, _COUNT_BITS_POWER, _HEADER.size),
    )
    return header + bytes(8)  # no extensions


def _build_counts(clusters: int) -> bytes:
    """How often each cluster is in use: those of the state, and the table of them, by the disk and by the snapshot."""
    counts = [1] * _STATE + [2] * clusters
    counts[_SECOND_LEVEL] = 2
    return struct.pack(f">{len(counts)}H", *counts)


def _build_first_level() -> bytes:
    return struct.pack(">2Q", 0, _SECOND_LEVEL * _CLUSTER)


def _build_second_level(clusters: int) -> bytes:
    return struct.pack(f">{clusters}Q", *((_STATE + number) * _CLUSTER for number in range(clusters)))


def _build_snapshot(room: int) -> bytes:
    number, name = b"1", SNAPSHOT.encode()
    fixed = _SNAPSHOT.pack(
        *(_SAVED * _CLUSTER, _FIRST_LEVEL, len(number), len(name), 0, 0, 0, room, _SNAPSHOT_REST),
        *(room, _DISK_BYTES, _NO_COUNT),
    )
    entry = fixed + number + name
    return entry + bytes(-len(entry) % 8)
