"""Where the bytes lie: every struct format, number and bit mask of the libxc and libxl streams.

No other file holds a format string. Each format names its byte order: headers are big endian, bodies little
endian; a stream whose header announces big endian bodies is refused before a body is read. Sources: libxc
migration stream specification (revision 3), libxl migration stream specification (revision 2).
"""

from __future__ import annotations

import sys
from array import array
from enum import IntEnum
from struct import Struct
from typing import Final

from replicator.units import PAGE_SIZE

Buffer = bytes | bytearray | memoryview

RECORD_ALIGN: Final = 8
#: Bit 31 of a libxc record type: a reader that does not know the record may skip it.
OPTIONAL_BIT: Final = 1 << 31

# xl header: what `xl` puts in front of a libxl stream, in the byte order of the machine that wrote it
XL_MAGIC: Final = b"Xen saved domain, xl format\n \0 \r"
XL_HEADER: Final = Struct(
    "<32sIIII"
)  # magic, byte order, mandatory flags, optional flags, optional data length
XL_BYTE_ORDER: Final = 0x01020304
XL_BYTE_ORDER_SWAPPED: Final = 0x04030201
XL_FLAG_JSON: Final = 1 << 0
XL_FLAG_STREAM_V2: Final = 1 << 1
XL_CONFIG: Final = Struct("<I")  # length of the configuration; its text follows
#: What the source of a migration says behind the stream.
XL_HANDSHAKE_GO: Final = b"domain is yours, you are cleared to unpause\0"

# Headers
LIBXL_HEADER: Final = Struct(">QII")  # ident, version, options
LIBXL_IDENT: Final = 0x4C6962786C466D74  # "LibxlFmt"
LIBXL_VERSION: Final = 2
LIBXL_OPTION_BIG_ENDIAN: Final = 1 << 0
LIBXL_OPTION_CONVERTED: Final = 1 << 1

IMAGE_HEADER: Final = Struct(">QIIHHI")  # marker, id, version, options, reserved, reserved
IMAGE_MARKER: Final = (1 << 64) - 1
IMAGE_ID: Final = 0x58454E46  # "XENF"
IMAGE_VERSIONS: Final = (2, 3)
IMAGE_OPTION_BIG_ENDIAN: Final = 1 << 0

DOMAIN_HEADER: Final = Struct("<IHHII")  # type, page_shift, reserved, xen_major, xen_minor

# Records
RECORD_HEADER: Final = Struct("<II")  # type, body length without padding
PAGE_DATA: Final = Struct("<II")  # count, reserved; then count entries, then the pages
PAGE_DATA_RECORD: Final = Struct("<IIII")  # record header and PAGE_DATA in one
PV_INFO: Final = Struct("<BBHI")  # guest width, page table levels, reserved, reserved
P2M_FRAMES: Final = Struct("<II")  # start pfn, end pfn (inclusive); then one u64 for each frame
VCPU: Final = Struct("<II")  # vcpu id, reserved; then the blob
VCPU_MSR: Final = Struct("<IIQ")  # index, reserved, value
TSC_INFO: Final = Struct("<IIQII")  # mode, khz, nsec, incarnation, reserved
HVM_PARAMS: Final = Struct("<II")  # count, reserved
HVM_PARAM: Final = Struct("<QQ")  # index, value
CPUID_LEAF: Final = Struct("<IIIIII")  # leaf, subleaf, a, b, c, d
MSR_POLICY: Final = Struct("<IIQ")  # index, flags (zero), value
EMULATOR: Final = Struct("<II")  # emulator id, index
CHECKPOINT_STATE: Final = Struct("<I")  # id
#: Our link's, before the frames of encoded pages.
CODED_PAGES: Final = Struct("<I")  # count

U32_BYTES: Final = 4
U64_BYTES: Final = 8
SHARED_INFO_BYTES: Final = 4096
#: Size of vcpu_guest_context for each guest width.
VCPU_CONTEXT_BYTES: Final = {8: 0x1430, 4: 0xAF0}
VCPU_EXTENDED_BYTES_MAX: Final = 128
VCPU_XSAVE_BYTES_MIN: Final = 16
#: Of a vcpu_guest_context, for each guest width: edx, 16 GDT frames, GDT entries, control registers 1 and 3.
VCPU_CONTEXT: Final = {
    8: Struct("<616xQ4208x16QQ24xQ8xQ"),
    4: Struct("<524xI2112x16II12xI4xI"),
}
GDT_ENTRIES_PER_FRAME: Final = 512
#: The last two of the 16 frames are the hypervisor's.
GDT_ENTRIES_MAX: Final = 14 * GDT_ENTRIES_PER_FRAME
#: First letters of a PV guest's start info page; then, for each guest width, the frames of xenstore and
#: console.
START_INFO_MAGIC: Final = b"xen-3."
START_INFO: Final = {8: Struct("<56xQ8xQ"), 4: Struct("<44xI4xI")}
START_INFO_BYTES: Final = 80
PV_WIDTHS: Final = {(4, 3), (8, 4)}

# PAGE_DATA entries: bits 63-60 type, 59-52 reserved, 51-0 pfn
ENTRY_PFN_MASK: Final = (1 << 52) - 1
ENTRY_TYPE_SHIFT: Final = 60
ENTRY_RESERVED_MASK: Final = 0xFF << 52


class DomainType(IntEnum):
    """Kind of guest in the domain header. PVH guests travel as HVM."""

    PV = 1
    HVM = 2


class LibxcType(IntEnum):
    """Record types of the libxc stream."""

    END = 0x00
    PAGE_DATA = 0x01
    X86_PV_INFO = 0x02
    X86_PV_P2M_FRAMES = 0x03
    X86_PV_VCPU_BASIC = 0x04
    X86_PV_VCPU_EXTENDED = 0x05
    X86_PV_VCPU_XSAVE = 0x06
    SHARED_INFO = 0x07
    X86_TSC_INFO = 0x08
    HVM_CONTEXT = 0x09
    HVM_PARAMS = 0x0A
    TOOLSTACK = 0x0B
    X86_PV_VCPU_MSRS = 0x0C
    VERIFY = 0x0D
    CHECKPOINT = 0x0E
    CHECKPOINT_DIRTY_PFN_LIST = 0x0F
    STATIC_DATA_END = 0x10
    X86_CPUID_POLICY = 0x11
    X86_MSR_POLICY = 0x12


class LibxlType(IntEnum):
    """Record types of the libxl stream."""

    END = 0
    LIBXC_CONTEXT = 1
    EMULATOR_XENSTORE_DATA = 2
    EMULATOR_CONTEXT = 3
    CHECKPOINT_END = 4
    CHECKPOINT_STATE = 5


class CheckpointStateId(IntEnum):
    """What a CHECKPOINT_STATE record says. NEW runs forward, the others on the back channel."""

    NEW = 0
    SVM_SUSPENDED = 1
    SVM_READY = 2
    SVM_RESUMED = 3


class EmulatorId(IntEnum):
    """Device model that wrote an EMULATOR_* record."""

    UNKNOWN = 0
    QEMU_TRADITIONAL = 1
    QEMU_UPSTREAM = 2


class PageType(IntEnum):
    """Type bits of a PAGE_DATA entry; the page table types stand for the four levels, plain and pinned."""

    NOTAB = 0x0
    L1TAB = 0x1
    L2TAB = 0x2
    L3TAB = 0x3
    L4TAB = 0x4
    L1TAB_PINNED = 0x9
    L2TAB_PINNED = 0xA
    L3TAB_PINNED = 0xB
    L4TAB_PINNED = 0xC
    BROKEN = 0xD
    XALLOC = 0xE
    XTAB = 0xF


TYPES_WITHOUT_DATA: Final = (PageType.BROKEN, PageType.XALLOC, PageType.XTAB)

# Legacy streams (before Xen 4.6): little endian, packed, nothing aligned. A "word" is the unsigned long of the
# toolstack that wrote the stream, by its bits. Source: xg_save_restore.h and the sender of Xen 4.5.
LEGACY_WORD: Final = {32: Struct("<I"), 64: Struct("<Q")}
#: Octets that tell the bits of a word: the upper half of the first one is zero, or is no half of it.
LEGACY_SNIFF_BYTES: Final = 8
#: Starts a chunk: a LegacyChunk, or the number of entries of a page batch.
LEGACY_CHUNK: Final = Struct("<i")
LEGACY_LENGTH: Final = Struct("<I")
LEGACY_BATCH_ENTRIES_MAX: Final = 1024
#: Width of the pfns in a batch.
LEGACY_PFN_BITS: Final = 28

LEGACY_BLOCK: Final = Struct("<4sI")  # of the extended info: name, size; then the block
LEGACY_XSAVE_BLOCK: Final = Struct("<I")  # "xcnt": bytes of an xsave area and of the header before it
LEGACY_XSAVE_HEADER: Final = Struct("<QQ")  # mask of features, bytes of the area that follows
LEGACY_VCPU_EXTENDED_BYTES: Final = 128

LEGACY_VCPU_MAX: Final = Struct("<i")  # highest vcpu id; then the map
LEGACY_VCPU_MAP_BITS: Final = 64  # of one u64 of the map
LEGACY_VCPU_ID_MAX: Final = 4095
LEGACY_TSC_INFO: Final = Struct("<IQII")  # mode, nsec, khz, incarnation
LEGACY_HVM_PARAM: Final = Struct("<4xQ")  # value
LEGACY_HVM_TAIL: Final = Struct("<QQQI")  # pfns of ioreq, bufioreq and store; length of the HVM context

#: Version, pools, all ones, client flags, weight, cap, all ones; then the pools.
LEGACY_TMEM: Final = Struct("<7I")
LEGACY_TMEM_POOL_ID: Final = Struct("<I")
LEGACY_TMEM_POOL: Final = Struct("<II16x")  # flags, pages; uuid
LEGACY_TMEM_OID_BYTES: Final = 24
LEGACY_TMEM_INDEX_BYTES: Final = 4
#: Where a pool's flags say how many times its pages are twice as large as a guest's.
LEGACY_TMEM_PAGE_SHIFT: Final = 4
LEGACY_TMEM_PAGE_MASK: Final = 0xF
#: Ends the pools, and stands where a sender had nothing to say.
LEGACY_TMEM_END: Final = 0xFFFFFFFF

LEGACY_TOOLSTACK: Final = Struct("<II")  # version, regions
LEGACY_TOOLSTACK_VERSION: Final = 1
LEGACY_REGION: Final = Struct("<QQQI")  # physical offset, start address, size, bytes of the name behind it
#: Behind a name lies what the sender's compiler put at the end of the structure, by bits of a word.
LEGACY_REGION_JUNK_BYTES: Final = {32: 0, 64: 4}

LEGACY_SIGNATURE_BYTES: Final = 21
#: A device model record with a length, and the one that reaches to the end of the bytes.
LEGACY_SIGNATURES: Final = (b"DeviceModelRecord0002", b"RemusDeviceModelState")
LEGACY_SIGNATURE_QEMU: Final = b"QemuDeviceModelRecord"
#: Of a signature, what tells it from a chunk.
LEGACY_SIGNATURE_START_BYTES: Final = 4

#: A packed page that is whole: the marker and 4096 bytes.
LEGACY_PACKED_WHOLE: Final = 0x80
#: The longest packed page: each of its 1024 words is a run of its own, a marker and four bytes.
LEGACY_PACKED_BYTES_MAX: Final = 1024 * (1 + 4)


class LegacyChunk(IntEnum):
    """Ids of chunks that are no page batch."""

    END = 0
    VERIFY_MODE = -1
    VCPU_INFO = -2
    HVM_IDENT_PT = -3
    HVM_VM86_TSS = -4
    TMEM = -5
    TMEM_EXTRA = -6
    TSC_INFO = -7
    HVM_CONSOLE_PFN = -8
    LAST_CHECKPOINT = -9
    HVM_ACPI_IOPORTS = -10
    HVM_VIRIDIAN = -11
    COMPRESSED_DATA = -12
    ENABLE_COMPRESSION = -13
    HVM_GENERATION_ID = -14
    HVM_PAGING_RING = -15
    HVM_MONITOR_RING = -16
    HVM_SHARING_RING = -17
    TOOLSTACK = -18
    HVM_IOREQ_SERVER_PFN = -19
    HVM_IOREQ_SERVER_PAGES = -20
    HVM_X87_FIP_WIDTH = -21


#: Parameter that each of the HVM chunks carries.
LEGACY_HVM_PARAMS: Final[dict[int, int]] = {
    LegacyChunk.HVM_IDENT_PT: 12,
    LegacyChunk.HVM_VM86_TSS: 15,
    LegacyChunk.HVM_CONSOLE_PFN: 17,
    LegacyChunk.HVM_ACPI_IOPORTS: 19,
    LegacyChunk.HVM_VIRIDIAN: 9,
    LegacyChunk.HVM_GENERATION_ID: 34,
    LegacyChunk.HVM_PAGING_RING: 27,
    LegacyChunk.HVM_MONITOR_RING: 28,
    LegacyChunk.HVM_SHARING_RING: 29,
    LegacyChunk.HVM_IOREQ_SERVER_PFN: 32,
    LegacyChunk.HVM_IOREQ_SERVER_PAGES: 33,
    LegacyChunk.HVM_X87_FIP_WIDTH: 36,
}
#: Parameters of the first three fields of LEGACY_HVM_TAIL.
LEGACY_TAIL_PARAMS: Final = (5, 6, 1)


def padded(length: int) -> int:
    """Length rounded up to the alignment of records."""
    return (length + RECORD_ALIGN - 1) & -RECORD_ALIGN


def pad(body: bytes) -> bytes:
    """`body` with the zero bytes behind it that keep the next record aligned."""
    return body.ljust(padded(len(body)), b"\0")


def u64_array(data: Buffer) -> array[int]:
    """A copy of little endian u64s as `array('Q')`; `len(data)` is a multiple of 8."""
    values = array("Q")
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return values


def word_array(data: Buffer, bits: int) -> array[int]:
    """A copy of little endian words of 32 or 64 bits as `array('Q')`; `data` is whole words."""
    if bits == 64:
        return u64_array(data)
    narrow = array("I")
    narrow.frombytes(data)
    if sys.byteorder == "big":
        narrow.byteswap()
    return array("Q", narrow)


def u64_bytes(values: array[int]) -> bytes:
    """The little endian bytes of an `array('Q')`."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def u32_bytes(values: array[int]) -> bytes:
    """The little endian bytes of an `array('Q')` whose values have 32 bits."""
    narrow = array("I", values)
    if sys.byteorder == "big":
        narrow.byteswap()
    return narrow.tobytes()


def pages_bytes(count: int) -> int:
    """Bytes of `count` pages."""
    return count * PAGE_SIZE
