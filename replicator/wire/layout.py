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


def u64_bytes(values: array[int]) -> bytes:
    """The little endian bytes of an `array('Q')`."""
    if sys.byteorder == "big":
        values = values[:]
        values.byteswap()
    return values.tobytes()


def pages_bytes(count: int) -> int:
    """Bytes of `count` pages."""
    return count * PAGE_SIZE
