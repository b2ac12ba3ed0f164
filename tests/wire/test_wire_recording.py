"""What a session writes is a valid stream, and its headers are parsed back."""

from __future__ import annotations

import io
import struct
from array import array

import pytest
from wire_vectors import pattern

from replicator.errors import BadRecord, LocalWireError, RecordOrder, RecordTooLarge, TruncatedStream
from replicator.limits import BATCH_PAGES_MAX, LIBXL_RECORD_BYTES_MAX, PFN_MAX, RECORD_BYTES_MAX
from replicator.units import PAGE_SIZE
from replicator.wire import StreamKind, decode_stream, verify_stream
from replicator.wire.layout import DomainType
from replicator.wire.recording import (
    PAGES_MAX,
    checkpoint_epilogue,
    page_data_header,
    page_data_header_bytes,
    parse_page_data_header,
    session_prologue,
)
from replicator.wire.records import EmulatorContext, PageData

RAM_PAGES = 0x120000


def batch(pfns: list[int]) -> bytes:
    pages = b"".join(pattern(PAGE_SIZE, pfn % 251) for pfn in pfns)
    return page_data_header(array("Q", pfns)) + pages


def recording(*epochs: list[list[int]], state: bytes = b"device state") -> bytes:
    rounds = (b"".join(map(batch, batches)) + checkpoint_epilogue(state) for batches in epochs)
    return session_prologue() + b"".join(rounds)


def test_recorded_session_passes_the_strict_verifier() -> None:
    data = recording([list(range(BATCH_PAGES_MAX)), [BATCH_PAGES_MAX, 0x11FFFF]], [[3]], [])
    report = verify_stream([data])
    assert (report.kind, report.guest, report.version) == (StreamKind.REMUS, DomainType.HVM, 3)
    assert report.is_qemu_recording
    assert (report.checkpoints, report.data_pages, report.page_entries) == (3, BATCH_PAGES_MAX + 3, 515)
    assert report.device_state_bytes == len(b"device state")
    assert report.usable_bytes == report.stream_bytes == len(data)
    assert verify_stream(io.BytesIO(data)) == report
    assert verify_stream(data[i : i + 1000] for i in range(0, len(data), 1000)) == report


def test_pieces_are_aligned() -> None:
    assert len(session_prologue()) % 8 == 0
    assert len(batch([1, 2, 3])) % 8 == 0
    for size in range(1, 18):
        assert len(checkpoint_epilogue(bytes(size))) % 8 == 0


def test_records_hold_what_was_written() -> None:
    records = list(decode_stream(recording([[5, 9]], state=b"xyz")))
    pages = next(record for record in records if isinstance(record, PageData))
    assert pages == PageData(array("Q", [5, 9]), pattern(PAGE_SIZE, 5) + pattern(PAGE_SIZE, 9))
    assert EmulatorContext(2, 0, b"xyz") in records


def test_headers_are_parsed_back_without_their_pages() -> None:
    pfns = array("Q", [0, 0x11FFFF, 7])
    header = page_data_header(pfns)
    assert len(header) == page_data_header_bytes(3)
    for buffer in (header, bytearray(header), memoryview(batch([*pfns]))):
        assert parse_page_data_header(buffer, RAM_PAGES) == (pfns, len(header))
    for cut in range(len(header)):
        with pytest.raises(TruncatedStream) as caught:
            parse_page_data_header(header[:cut], RAM_PAGES)
        assert (caught.value.offset, caught.value.record) == (0, "PAGE_DATA")


@pytest.mark.parametrize(
    ("fields", "entries", "error", "message"),
    [
        ((2, 8 + 8 + 4096, 1, 0), [1], BadRecord, "X86_PV_INFO stands here"),
        ((1, 8 + 8 + 4095, 1, 0), [1], BadRecord, "body of 4111 bytes instead of 4112"),
        ((1, 8 + 8, 1, 0), [0xF << 60 | 1], BadRecord, "instead of 4112"),
        ((1, 16, 0, 0), [1], BadRecord, "for 0 pages"),
        ((1, 7, 0, 0), [], BadRecord, "at least 16"),
        ((1, RECORD_BYTES_MAX + 1, 1, 0), [1], RecordTooLarge, "at most"),
        ((1, 8 + 8 + 4096, 0xFFFFFFFF, 0), [1], BadRecord, "for 4294967295 pages"),
        ((1, 8 + 8 + 4096, 1, 0), [RAM_PAGES], BadRecord, "beyond the guest"),
        ((1, 8 + 8 + 4096, 1, 0), [1 << 60], BadRecord, "beyond the guest"),
    ],
)
def test_foreign_headers_are_refused(
    fields: tuple[int, ...], entries: list[int], error: type[Exception], message: str
) -> None:
    header = struct.pack("<IIII", *fields) + struct.pack(f"<{len(entries)}Q", *entries)
    with pytest.raises(error, match=message):
        parse_page_data_header(header, RAM_PAGES)


def test_largest_record_fits_and_one_more_page_does_not() -> None:
    header = page_data_header(array("Q", range(PAGES_MAX)))
    assert parse_page_data_header(header, PAGES_MAX)[1] == page_data_header_bytes(PAGES_MAX)
    with pytest.raises(LocalWireError):
        page_data_header(array("Q", range(PAGES_MAX + 1)))


@pytest.mark.parametrize(
    "pfns", [array("Q"), array("L", [1]), array("Q", [PFN_MAX + 1]), array("Q", [1 << 60])]
)
def test_impossible_batches_are_not_written(pfns: array[int]) -> None:
    with pytest.raises(LocalWireError) as caught:
        page_data_header(pfns)
    assert caught.value.record == "PAGE_DATA"


def test_device_state_is_needed_and_bounded() -> None:
    assert checkpoint_epilogue(bytes(LIBXL_RECORD_BYTES_MAX - 8))
    for state in (b"", bytes(LIBXL_RECORD_BYTES_MAX - 7)):
        with pytest.raises(LocalWireError):
            checkpoint_epilogue(state)


def test_strict_verifier_misses_the_device_state() -> None:
    """A round of a QEMU guest without EMULATOR_CONTEXT is no checkpoint; a Xen guest may have none."""
    signals = struct.pack("<IIII", 14, 0, 4, 0)
    data = session_prologue() + batch([1]) + signals
    with pytest.raises(RecordOrder, match="needs EMULATOR_CONTEXT") as caught:
        verify_stream([data])
    assert (caught.value.offset, caught.value.record) == (len(data) - 8, "CHECKPOINT_END")
    assert verify_stream([data], strict=False).checkpoints == 1
