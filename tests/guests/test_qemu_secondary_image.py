"""The image that QEMU loads states from, read back by the rules of docs/interop/qcow2.txt."""

from __future__ import annotations

import struct
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import InvariantError
from replicator.guests.qemu_secondary_image import ROOM_BYTES_MAX, SNAPSHOT, StateImage, build_image

ENTRY_OFFSET = 0x00FF_FFFF_FFFF_FE00


class Reader:
    """A plain reader of the format: whatever it is given, it follows the pointers."""

    def __init__(self, image: StateImage) -> None:
        self.parts = dict(image.parts)
        assert all(offset + len(data) <= image.file_bytes for offset, data in image.parts)
        head = self.read(0, 112)
        assert head[:4] == b"QFI\xfb"
        (self.version, self.backing, _, bits, self.disk_bytes, self.encryption) = struct.unpack_from(
            ">IQIIQI", head, 4
        )
        self.cluster = 1 << bits
        (self.active_entries, self.active, self.count_table, self.count_clusters) = struct.unpack_from(
            ">IQQI", head, 36
        )
        (self.snapshots, self.snapshot_table) = struct.unpack_from(">IQ", head, 60)
        self.features = struct.unpack_from(">QQQ", head, 72)
        (count_bits_power, self.head_bytes) = struct.unpack_from(">II", head, 96)
        self.count_bytes = (1 << count_bits_power) // 8
        assert head[self.head_bytes : self.head_bytes + 8] == bytes(8)

    def read(self, offset: int, size: int) -> bytes:
        """What is in the file; only whole parts, or zeros behind them."""
        for start, data in self.parts.items():
            if start <= offset < start + len(data):
                return data[offset - start : offset - start + size].ljust(size, b"\0")
        return bytes(size)

    def numbers(self, offset: int, count: int) -> list[int]:
        return list(struct.unpack(f">{count}Q", self.read(offset, 8 * count)))

    def clusters_below(self, first_level: int, entries: int) -> list[int]:
        """Offsets of the tables and of the data that a first level leads to, with repetitions."""
        found = []
        for entry in self.numbers(first_level, entries):
            if table := entry & ENTRY_OFFSET:
                found.append(table)
                found += [e & ENTRY_OFFSET for e in self.numbers(table, self.cluster // 8) if e]
        return found

    def data_at(self, first_level: int, entries: int, guest_offset: int) -> int:
        """Where in the file the guest's byte is; 0: nowhere."""
        number = guest_offset // self.cluster
        per_table = self.cluster // 8
        if number // per_table >= entries:
            return 0
        table = self.numbers(first_level, entries)[number // per_table] & ENTRY_OFFSET
        entry = struct.unpack(">Q", self.read(table + number % per_table * 8, 8))[0] if table else 0
        return (entry & ENTRY_OFFSET) + guest_offset % self.cluster if entry else 0

    def counts(self) -> dict[int, int]:
        """By offset; clusters that nobody uses left out."""
        assert self.count_clusters == 1
        (block,) = (n for n in self.numbers(self.count_table, self.cluster // 8) if n)
        many = self.cluster // self.count_bytes
        values = struct.unpack(f">{many}H", self.read(block, self.cluster))
        return {number * self.cluster: value for number, value in enumerate(values) if value}


sizes = st.integers(1, ROOM_BYTES_MAX)


@given(sizes)
def test_each_cluster_is_counted_as_often_as_it_is_used(size: int) -> None:
    image = build_image(size)
    reader = Reader(image)
    snapshot_first_level, entries = struct.unpack_from(">QI", reader.read(reader.snapshot_table, 12))
    (block,) = (n for n in reader.numbers(reader.count_table, reader.cluster // 8) if n)
    used = Counter([0, reader.count_table, block, reader.active, reader.snapshot_table, snapshot_first_level])
    used.update(reader.clusters_below(reader.active, reader.active_entries))
    used.update(reader.clusters_below(snapshot_first_level, entries))
    assert reader.counts() == dict(used)
    # A load puts the snapshot's table in the place of the active one: the same.
    assert entries == reader.active_entries
    assert reader.numbers(snapshot_first_level, entries) == reader.numbers(reader.active, entries)


@given(sizes, st.data())
def test_the_state_lies_in_one_piece_behind_the_disk(size: int, data: st.DataObject) -> None:
    image = build_image(size)
    reader = Reader(image)
    assert size <= image.room_bytes
    assert image.state_offset + image.room_bytes == image.file_bytes
    table_covers = reader.cluster * (reader.cluster // 8)
    behind_the_disk = -(-reader.disk_bytes // table_covers) * table_covers
    at = data.draw(st.integers(0, image.room_bytes - 1))
    found = reader.data_at(reader.active, reader.active_entries, behind_the_disk + at)
    assert found == image.state_offset + at
    assert reader.data_at(reader.active, reader.active_entries, 0) == 0
    assert reader.data_at(reader.active, reader.active_entries, behind_the_disk + image.room_bytes) == 0


@given(sizes)
def test_the_head_and_the_snapshot(size: int) -> None:
    image = build_image(size)
    reader = Reader(image)
    assert (reader.version, reader.backing, reader.encryption, reader.features) == (3, 0, 0, (0, 0, 0))
    assert (reader.head_bytes, reader.count_bytes, reader.snapshots) == (104, 2, 1)
    entry = reader.read(reader.snapshot_table, 128)
    _, _, id_bytes, name_bytes, _, _, _, state_bytes, rest = struct.unpack_from(">QIHHIIQII", entry)
    long_state_bytes, disk_bytes, instructions = struct.unpack_from(">QQQ", entry, 40)
    names = entry[40 + rest :][: id_bytes + name_bytes]
    assert (names[:id_bytes], names[id_bytes:]) == (b"1", SNAPSHOT.encode())
    assert state_bytes == long_state_bytes == image.room_bytes
    assert (disk_bytes, instructions) == (reader.disk_bytes, 2**64 - 1)


@pytest.mark.parametrize("size", [0, -1, ROOM_BYTES_MAX + 1])
def test_other_sizes_have_no_image(size: int) -> None:
    with pytest.raises(InvariantError):
        build_image(size)
