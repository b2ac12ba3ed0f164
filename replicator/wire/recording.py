"""What a protection session writes: the stream of a QEMU guest, piece by piece
(docs/adr/0001-qemu-recording.md).

    session_prologue                                     once
    { page_data_header + pages, ... checkpoint_epilogue }   each epoch

The pieces joined are a checkpointed libxl v2 stream that passes `verify_stream` in strict mode. Page bytes
are never copied here: a header is made before them, or parsed off them, and the pages lie 8-aligned behind
it. A header of n pages has 16 + 8 n bytes and a page 4096, so no padding is ever needed.
"""

from __future__ import annotations

from array import array

from replicator.errors import LocalWireError, TruncatedStream
from replicator.limits import PFN_MAX, RECORD_BYTES_MAX
from replicator.wire import layout, libxc, libxl
from replicator.wire.layout import Buffer, DomainType, EmulatorId, LibxcType
from replicator.wire.records import (
    QEMU_RECORDING_MINOR,
    CheckpointEnd,
    CheckpointRecord,
    DomainHeader,
    EmulatorContext,
    ImageHeader,
    LibxcContext,
    LibxlHeader,
    Place,
    StaticDataEnd,
)

_NAME = LibxcType.PAGE_DATA.name
#: Records without content, the same in each epoch.
_CHECKPOINT = libxc.encode(CheckpointRecord())
_CHECKPOINT_END = libxl.encode(CheckpointEnd())
#: Pages that one PAGE_DATA record can hold.
PAGES_MAX = (RECORD_BYTES_MAX - layout.PAGE_DATA.size) // (layout.U64_BYTES + layout.pages_bytes(1))


def session_prologue() -> bytes:
    """All bytes before the first PAGE_DATA of the first epoch."""
    return b"".join(
        (
            libxl.encode_header(LibxlHeader()),
            libxl.encode(LibxcContext()),
            libxc.encode_image_header(ImageHeader()),
            libxc.encode_domain_header(DomainHeader(DomainType.HVM, 0, QEMU_RECORDING_MINOR)),
            libxc.encode(StaticDataEnd()),
        )
    )


def page_data_header_bytes(pages: int) -> int:
    """Size of the header of a PAGE_DATA record with this many pages."""
    return layout.PAGE_DATA_RECORD.size + pages * layout.U64_BYTES


def page_data_header(pfns: array[int]) -> bytes:
    """Record header, PAGE_DATA's fixed part and table of pfns; their pages follow, in this order.

    `pfns` is an array('Q') of 1 to PAGES_MAX frames. LocalWireError when it is not.
    """
    count = len(pfns)
    if pfns.typecode != "Q" or not 1 <= count <= PAGES_MAX:
        raise LocalWireError(f"{count} pfns of type {pfns.typecode!r}, 1 to {PAGES_MAX} 'Q'", record=_NAME)
    if max(pfns) > PFN_MAX:
        raise LocalWireError(f"pfn {max(pfns):#x}, the highest possible is {PFN_MAX:#x}", record=_NAME)
    length = layout.PAGE_DATA.size + count * layout.U64_BYTES + layout.pages_bytes(count)
    return layout.PAGE_DATA_RECORD.pack(LibxcType.PAGE_DATA, length, count, 0) + layout.u64_bytes(pfns)


def parse_page_data_header(buffer: Buffer, ram_pages: int) -> tuple[array[int], int]:
    """The pfns of a PAGE_DATA record of ours that starts at `buffer`, and the offset of its first page.

    The pages need not be in the buffer. `ram_pages` is one more than the guest's highest frame.
    TruncatedStream when the buffer ends inside the table; BadRecord when this is no PAGE_DATA, or not every
    entry is a plain page below `ram_pages`.
    """
    place = Place(0, _NAME)
    fixed = layout.PAGE_DATA_RECORD.size
    if len(buffer) < fixed:
        raise TruncatedStream(f"{len(buffer)} bytes instead of {fixed}", offset=0, record=_NAME)
    record_type, length, count, _ = layout.PAGE_DATA_RECORD.unpack_from(buffer)
    if record_type != LibxcType.PAGE_DATA:
        raise place.bad(f"{libxc.name_type(record_type)} stands here")
    libxc.check_length(record_type, length, place)
    expected = layout.PAGE_DATA.size + count * layout.U64_BYTES + layout.pages_bytes(count)
    if count < 1 or length != expected:
        raise place.bad(f"body of {length} bytes instead of {expected} for {count} pages")
    end = page_data_header_bytes(count)
    if len(buffer) < end:
        raise TruncatedStream(f"{len(buffer)} bytes instead of {end}", offset=0, record=_NAME)
    pfns = layout.u64_array(memoryview(buffer)[fixed:end])
    # The type is in the top bits, so an entry that is not a plain page is beyond any guest too.
    if max(pfns) >= ram_pages:
        raise place.bad(f"entry {max(pfns):#x} lies beyond the guest of {ram_pages:#x} frames")
    return pfns, end


def checkpoint_epilogue(device_state: bytes) -> bytes:
    """CHECKPOINT, EMULATOR_CONTEXT with the state of vCPUs and devices, CHECKPOINT_END: the end of each
    epoch."""
    if not device_state:
        raise LocalWireError("no device state", record="EMULATOR_CONTEXT")
    context = EmulatorContext(EmulatorId.QEMU_UPSTREAM, 0, device_state)
    return _CHECKPOINT + libxl.encode(context) + _CHECKPOINT_END
