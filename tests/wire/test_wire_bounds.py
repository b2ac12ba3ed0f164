"""A hostile stream costs a small multiple of the memory it sent, and time in proportion to its bytes."""

from __future__ import annotations

import struct
from array import array

import pytest
from memory_peak import peak_below
from wire_vectors import RecordDecoder, join

from replicator.limits import RECORD_BYTES_MAX
from replicator.wire.libxc import TABLE_BYTES_MAX
from replicator.wire.records import PageData, StaticDataEnd

HVM = "libxl_header libxc_context image_header_v3 domain_header_hvm static_data_end"
PV = "libxl_header libxc_context image_header_v3 domain_header_pv x86_pv_info_64 static_data_end"
MIB = 1 << 20


def record(record_type: int, body: bytes) -> bytes:
    return struct.pack("<II", record_type, len(body)) + body


def test_a_million_entries_stay_numbers() -> None:
    """Only entries, no pages: one record of 8 MiB, as a hostile sender would write it."""
    entries = array("Q", [0xF << 60 | pfn for pfn in range(MIB)]).tobytes()
    data = join(HVM) + record(1, struct.pack("<II", MIB, 0) + entries)
    decoder = RecordDecoder(strict=True)
    with peak_below(6 * len(entries)):
        *_, last = decoder.feed(data)
    assert isinstance(last, PageData)
    assert len(last.entries) == MIB
    assert last.pfns[-1] == MIB - 1


def test_an_announced_body_costs_nothing_until_it_comes() -> None:
    head = struct.pack("<II", 9, RECORD_BYTES_MAX)
    decoder = RecordDecoder()
    with peak_below(MIB):
        assert list(decoder.feed(join(HVM) + head))[-1] == StaticDataEnd()
        for _ in range(10):
            assert list(decoder.feed(bytes(4096))) == []
    assert decoder.pending == 8 + 10 * 4096


@pytest.mark.parametrize("record_type", [10, 18])
def test_tables_of_objects_are_small(record_type: int) -> None:
    """The largest HVM_PARAMS and X86_MSR_POLICY that are taken."""
    count = TABLE_BYTES_MAX // 16 - 1
    body = (struct.pack("<II", count, 0) if record_type == 10 else b"") + bytes(16 * count)
    decoder = RecordDecoder()
    list(decoder.feed(join(HVM if record_type == 10 else HVM.removesuffix(" static_data_end"))))
    with peak_below(32 * MIB):
        assert len(list(decoder.feed(record(record_type, body)))) == 1
    assert decoder.pending == 0


def test_a_guest_of_the_largest_size_costs_a_byte_a_frame() -> None:
    """A p2m list for 2 GiB of guest: 512 Ki frames, 1 Ki of them named."""
    frames = array("Q", range(1024)).tobytes()
    data = join(PV) + record(3, struct.pack("<II", 0, 512 * 1024 - 1) + frames)
    decoder = RecordDecoder()
    with peak_below(2 * MIB):
        list(decoder.feed(data))
    assert decoder.pending == 0


def test_many_small_records_in_one_piece_take_linear_time() -> None:
    """100,000 records in one piece: were the buffer moved for each, this would take minutes."""
    optional = record(0x80000000, b"") * 100_000
    decoder = RecordDecoder()
    assert sum(1 for _ in decoder.feed(join(HVM) + optional)) == 5 + 100_000


def test_a_dropped_iterator_loses_nothing() -> None:
    decoder = RecordDecoder()
    first = next(decoder.feed(join(HVM)))
    rest = list(decoder.feed(b""))
    assert [first, *rest] == list(RecordDecoder().feed(join(HVM)))


def test_rest_behind_the_end_can_be_taken() -> None:
    """As a migration has it: a handshake follows the stream on the same connection."""
    whole = join(HVM + " hvm_context end libxl_end")
    decoder = RecordDecoder()
    for _ in decoder.feed(whole + b"ready"):
        if decoder.done:
            break
    assert decoder.take_rest() == b"ready"
    decoder.finish()
    assert decoder.offset == len(whole)
