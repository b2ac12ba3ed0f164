"""Makes legacy streams: a small guest that lives on while it is sent, and a sender of its own for it.

The sender knows nothing of replicator.wire: it has its own numbers and formats, so that the decoder is compared with
a second reading of the format. `make_stream` returns the bytes together with the truth: what the guest was at each
checkpoint.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from itertools import groupby

from wire_vectors import patch, start_info_page, vcpu_context_32, vcpu_context_64

PAGE = 4096
UNMAPPED_SLOT = 0xF0000000
NOTAB, L1TAB, L3TAB, L4TAB_PINNED, BROKEN, XALLOC, XTAB = 0, 1, 3, 0xC, 0xD, 0xE, 0xF
DEVICE_MODEL, REMUS_DEVICE_MODEL, QEMU_DEVICE_MODEL = (
    b"DeviceModelRecord0002",
    b"RemusDeviceModelState",
    b"QemuDeviceModelRecord",
)

#: Chunk and parameter of each HVM chunk, in the order of the sender.
HVM_CHUNKS = {
    -14: 34, -3: 12, -15: 27, -16: 28, -17: 29, -4: 15, -8: 17, -10: 19, -11: 9, -19: 32, -20: 33, -21: 36,
}  # fmt: skip
#: Chunk that the converter of Xen does not know.
FIP_CHUNK = -21


# One thing at a time


def word(value: int, bits: int = 64) -> bytes:
    """An unsigned long of the toolstack."""
    return value.to_bytes(bits // 8, "little")


def chunk(number: int, payload: bytes = b"") -> bytes:
    return struct.pack("<i", number) + payload


def batch(entries: list[int], pages: bytes = b"", bits: int = 64) -> bytes:
    return chunk(len(entries), b"".join(word(entry, bits) for entry in entries) + pages)


def param(number: int, value: int) -> bytes:
    return chunk(number, bytes(4) + struct.pack("<Q", value))


def vcpu_info(vcpus: tuple[int, ...]) -> bytes:
    highest = max(vcpus)
    online = sum(1 << vcpu for vcpu in vcpus)
    return chunk(-2, struct.pack("<i", highest) + online.to_bytes((highest // 64 + 1) * 8, "little"))


def tsc_info(mode: int, nsec: int, khz: int, incarnation: int) -> bytes:
    return chunk(-7, struct.pack("<IQII", mode, nsec, khz, incarnation))


def block(name: bytes, data: bytes) -> bytes:
    """A block of a PV guest's extended info."""
    return name + struct.pack("<I", len(data)) + data


def extended_info(blocks: bytes, bits: int = 64) -> bytes:
    return b"\xff" * (bits // 8) + struct.pack("<I", len(blocks)) + blocks


def hvm_tail(context: bytes, ioreq: int = 5, bufioreq: int = 6, store: int = 1) -> bytes:
    return struct.pack("<QQQI", ioreq, bufioreq, store, len(context)) + context


def region(physical: int, start: int, size: int, name: bytes, bits: int = 64) -> bytes:
    """One region of a toolstack blob; `name` has its NUL, or is empty."""
    junk = b"junk" if bits == 64 else b""
    return struct.pack("<QQQI", physical, start, size, len(name)) + name + junk


def toolstack(regions: list[bytes]) -> bytes:
    blob = struct.pack("<II", 1, len(regions)) + b"".join(regions)
    return chunk(-18, struct.pack("<I", len(blob)) + blob)


def device_model(signature: bytes, state: bytes) -> bytes:
    length = b"" if signature == QEMU_DEVICE_MODEL else struct.pack("<I", len(state))
    return signature + length + state


def tmem(rng: random.Random) -> tuple[bytes, int]:
    """Both tmem chunks, and how many pages they have."""
    ones, page = b"\xff" * 4, rng.randbytes
    body = struct.pack("<7I", 1, 16, 0xFFFFFFFF, 0, 100, 0, 0xFFFFFFFF)
    body += struct.pack("<III", 0, 1, 2) + rng.randbytes(16) + 2 * (rng.randbytes(28) + page(PAGE))
    body += struct.pack("<III", 3, 0, 0) + rng.randbytes(16)
    # Pages of 16 KiB, and fewer of them than announced.
    body += struct.pack("<III", 9, 2 << 4 | 1, 7) + rng.randbytes(16)
    body += rng.randbytes(28) + page(4 * PAGE) + b"\xff" * 24
    extra = struct.pack("<I", 3) + rng.randbytes(28)
    return chunk(-5, body + ones) + chunk(-6, 2 * extra + ones), 3


# Packed pages


def pack_page(old: bytes | None, new: bytes, rng: random.Random) -> bytes:
    """The packed form of a page, of which the receiver has `old`; one of several that are right."""
    if old is None or (old != new and rng.random() < 0.2):
        return b"\x80" + new
    if old == new and rng.random() < 0.7:
        return b"\0"
    words = [(old[at : at + 4] == new[at : at + 4], new[at : at + 4]) for at in range(0, PAGE, 4)]
    packed = b""
    for is_same, group in groupby(words, key=lambda each: each[0]):
        data = b"".join(each for _, each in group)
        longest = rng.randint(1, 127) * 4
        for at in range(0, len(data), longest):
            run = data[at : at + longest]
            packed += bytes([0x80 | len(run) // 4]) if is_same else bytes([len(run) // 4]) + run
    return packed


# The guest


@dataclass
class Checkpoint:
    """What a guest was, as far as a stream tells."""

    #: Type and content of each page; None without content.
    pages: dict[int, tuple[int, bytes | None]] = field(default_factory=dict)
    #: Context, extended context and xsave area of each vcpu.
    vcpus: dict[int, tuple[bytes, bytes | None, bytes | None]] = field(default_factory=dict)
    shared_info: bytes | None = None
    params: dict[int, int] = field(default_factory=dict)
    context: bytes | None = None
    device_model: bytes | None = None
    physmap: dict[bytes, bytes] = field(default_factory=dict)
    #: Mode, khz, nsec, incarnation.
    tsc: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Shape:
    """What a stream is to be like."""

    is_hvm: bool = True
    sender_bits: int = 64
    #: Of a PV guest.
    guest_bits: int = 64
    is_remus: bool = False
    is_compressed: bool = False
    frames: int = 40
    #: Checkpoints, or passes over the memory of a live migration.
    rounds: int = 3
    batch_most: int = 12
    vcpus: tuple[int, ...] = (0, 2, 65)
    has_extended: bool = True
    xsave_bytes: int | None = 40
    has_tmem: bool = False
    is_verified: bool = False
    #: What only this product reads: empty batches, chunk -21, regions without a name.
    has_oddities: bool = True
    #: The last body says that it is the last.
    has_last: bool = True
    signature: bytes | None = DEVICE_MODEL
    seed: int = 1

    def __str__(self) -> str:
        guest = "hvm" if self.is_hvm else f"pv{self.guest_bits}"
        mode = "compressed" if self.is_compressed else "remus" if self.is_remus else "live"
        return f"{guest}-{mode}-from-{self.sender_bits}"


#: Every kind of guest, toolstack and stream.
MATRIX = [
    Shape(is_hvm, sender_bits, guest_bits, is_remus, is_compressed, has_last=not is_remus)
    for is_hvm, guest_bits in ((True, 64), (False, 64), (False, 32))
    for sender_bits in (64, 32)
    for is_remus, is_compressed in ((False, False), (True, False), (True, True))
]


@dataclass
class LegacyStream:
    data: bytes
    checkpoints: list[Checkpoint]
    #: Where each chunk or other thing starts.
    borders: list[int]
    #: Where a stream may also end, and how many checkpoints it then has (a plain one: 1).
    ends: dict[int, int]
    tmem_pages: int


class Guest:
    """Memory that changes. Pages that a PV guest's registers and p2m list name keep their types."""

    def __init__(self, shape: Shape, rng: random.Random) -> None:
        self.shape = shape
        self._rng = rng
        # An entry of pfn 0 that became unmapped would be an unmapped slot.
        self._fixed = {0: NOTAB}
        if not shape.is_hvm:
            self._fixed |= {2: L4TAB_PINNED, 6: NOTAB, 7: L3TAB, 8: NOTAB}
        self.types = {pfn: self._fixed.get(pfn, NOTAB) for pfn in range(shape.frames) if pfn % 5 != 4}
        self.contents = {pfn: self._content() for pfn in self.types}
        if not shape.is_hvm:
            self.contents[0] = start_info_page()

    def _content(self) -> bytes:
        return self._rng.choice([bytes(PAGE), self._rng.randbytes(PAGE), self._rng.randbytes(1) * PAGE])

    def live(self) -> list[int]:
        """Go on for a while; the pfns that changed."""
        changed = self._rng.sample(sorted(self.types), len(self.types) // 3)
        for pfn in changed:
            if pfn not in self._fixed:
                self.types[pfn] = self._type()
            if pfn:
                self.contents[pfn] = self._change(self.contents[pfn])
        return changed

    def _type(self) -> int:
        tables = [] if self.shape.is_hvm else [L1TAB, 2, 9]
        return self._rng.choice([NOTAB, NOTAB, NOTAB, NOTAB, *tables, BROKEN, XALLOC, XTAB])

    def _change(self, page: bytes) -> bytes:
        match self._rng.randrange(5):
            case 0:
                return self._content()
            case 1:
                return page
            case _:
                writes = {self._rng.randrange(1023) * 4: self._rng.randbytes(8) for _ in range(9)}
                return patch(page, {at: data[: PAGE - at] for at, data in writes.items()})

    def page(self, pfn: int) -> tuple[int, bytes | None]:
        kind = self.types[pfn]
        return kind, self.contents[pfn] if kind < BROKEN else None

    def registers(self, vcpu: int) -> tuple[bytes, bytes | None, bytes | None]:
        width_64 = self.shape.guest_bits == 64
        context = vcpu_context_64() if width_64 else vcpu_context_32()
        context = patch(context, {16: self._rng.randbytes(64)})
        extended = self._rng.randbytes(128) if self.shape.has_extended else None
        size = self.shape.xsave_bytes
        return context, extended, None if size is None else self._rng.randbytes(size)


# The sender


class Sender:
    """Writes one stream."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.bits = shape.sender_bits
        self._rng = random.Random(shape.seed)
        self.guest = Guest(shape, self._rng)
        self.data = bytearray()
        self.borders: list[int] = []
        self.ends: dict[int, int] = {}
        self.checkpoints: list[Checkpoint] = []
        self.tmem_pages = 0
        # What the receiver has of each page that was sent with content.
        self._sent: dict[int, bytes] = {}
        self._packed = b""

    def put(self, data: bytes) -> None:
        self.borders.append(len(self.data))
        self.data += data

    def write(self) -> LegacyStream:
        shape = self.shape
        self._write_header()
        for index in range(shape.rounds if shape.is_remus else 1):
            is_last = index == shape.rounds - 1 or not shape.is_remus
            truth = Checkpoint()
            self._write_body(truth, index, is_last)
            self._write_tail(truth, is_last)
            self.checkpoints.append(truth)
            if shape.is_remus or is_last:
                self.ends[len(self.data)] = len(self.checkpoints)
        return LegacyStream(bytes(self.data), self.checkpoints, self.borders, self.ends, self.tmem_pages)

    def _write_header(self) -> None:
        shape = self.shape
        self.put(word(shape.frames, self.bits))
        if shape.is_hvm:
            return
        context = vcpu_context_64() if shape.guest_bits == 64 else vcpu_context_32()
        blocks = block(b"vcpu", context)
        if shape.has_extended:
            blocks += block(b"extv", b"")
        if shape.xsave_bytes is not None:
            blocks += block(b"xcnt", struct.pack("<I", shape.xsave_bytes + 16))
        self.put(extended_info(blocks, self.bits))
        count = -(-shape.frames // (PAGE // (shape.guest_bits // 8)))
        self.put(b"".join(word((6, 8)[index % 2], self.bits) for index in range(count)))

    # The body

    def _write_body(self, truth: Checkpoint, index: int, is_last: bool) -> None:
        shape = self.shape
        is_packed = shape.is_compressed and index > 0
        if shape.has_tmem:
            chunks, pages = tmem(self._rng)
            self.put(chunks)
            self.tmem_pages += pages
        self._write_pages(sorted(self.guest.types) if index == 0 else self.guest.live(), is_packed)
        for _ in range(0 if shape.is_remus else shape.rounds - 1):
            self._write_pages(self.guest.live(), is_packed)
        mode, khz, nsec, incarnation = (self._rng.randrange(1 << 31) for _ in range(4))
        truth.tsc = (mode, khz, nsec, incarnation)
        self.put(tsc_info(mode, nsec, khz, incarnation))
        if shape.is_verified:
            self.put(chunk(-1))
            self._write_pages(sorted(self.guest.types), is_packed)
        truth.pages = {pfn: self.guest.page(pfn) for pfn in self.guest.types}
        self.put(vcpu_info(shape.vcpus))
        if shape.is_hvm:
            self._write_params(truth)
            self._write_toolstack(truth)
        if is_last and shape.has_last:
            self.put(chunk(-9))
        if shape.is_compressed and index == 0:
            self.put(chunk(-13))
        self.put(chunk(0))

    def _write_pages(self, pfns: list[int], is_packed: bool) -> None:
        if self.shape.has_oddities:
            self.put(batch([UNMAPPED_SLOT] * 3, bits=self.bits))
        pfns = self._rng.sample(pfns, len(pfns))
        while pfns:
            count = self._rng.randint(1, self.shape.batch_most)
            self._write_batch(pfns[:count], is_packed)
            del pfns[:count]
        if is_packed:
            self._flush(len(self._packed))

    def _write_batch(self, pfns: list[int], is_packed: bool) -> None:
        pages = [self.guest.page(pfn) for pfn in pfns]
        entries = [kind << 28 | pfn for pfn, (kind, _) in zip(pfns, pages)]
        for _ in range(self._rng.randrange(3)):
            entries.insert(self._rng.randrange(len(entries) + 1), UNMAPPED_SLOT)
        contents = [(pfn, kind, page) for pfn, (kind, page) in zip(pfns, pages) if page is not None]
        plain = b"" if is_packed else b"".join(page for _, _, page in contents)
        self.put(batch(entries[:1024], plain, self.bits))
        for pfn, kind, page in contents if is_packed else ():
            self._packed += pack_page(self._sent.get(pfn) if kind == NOTAB else None, page, self._rng)
        self._sent |= {pfn: page for pfn, _, page in contents}
        if is_packed and self._rng.random() < 0.5:
            self._flush(self._rng.randint(0, len(self._packed)))

    def _flush(self, size: int) -> None:
        """Write packed pages, cut anywhere."""
        self.put(chunk(-12, word(size, self.bits) + self._packed[:size]))
        self._packed = self._packed[size:]

    def _write_params(self, truth: Checkpoint) -> None:
        for number, index in HVM_CHUNKS.items():
            if number == FIP_CHUNK and not self.shape.has_oddities:
                continue
            truth.params[index] = self._rng.randrange(1 << 48)
            self.put(param(number, truth.params[index]))

    def _write_toolstack(self, truth: Checkpoint) -> None:
        names = [b"vga.vram\0", b"\0", *([b""] if self.shape.has_oddities else [])]
        regions = []
        for name in names:
            physical, start, size = (self._rng.randrange(1 << 40) << 12 for _ in range(3))
            regions.append(region(physical, start, size, name, self.bits))
            key = f"physmap/{physical:x}/".encode()
            truth.physmap |= {key + b"start_addr": b"%x" % start, key + b"size": b"%x" % size}
            truth.physmap[key + b"name"] = name.rstrip(b"\0")
        self.put(toolstack(regions))

    # The tail

    def _write_tail(self, truth: Checkpoint, is_last: bool) -> None:
        if self.shape.is_hvm:
            self._write_hvm_tail(truth, is_last)
        else:
            self._write_pv_tail(truth)

    def _write_hvm_tail(self, truth: Checkpoint, is_last: bool) -> None:
        truth.context = self._rng.randbytes(300)
        special = {index: self._rng.randrange(1 << 28) for index in (5, 6, 1)}
        truth.params |= special
        self.put(hvm_tail(truth.context, *special.values()))
        if not self.checkpoints:
            # Nothing tells yet that a device model record is to come.
            self.ends[len(self.data)] = 1
        signature = self.shape.signature
        if signature is None or (signature == QEMU_DEVICE_MODEL and not is_last):
            return
        truth.device_model = self._rng.randbytes(500)
        self.put(device_model(signature, truth.device_model))
        if signature == QEMU_DEVICE_MODEL:
            start = len(self.data) - len(truth.device_model)
            self.ends |= dict.fromkeys(range(start, len(self.data)), len(self.checkpoints) + 1)

    def _write_pv_tail(self, truth: Checkpoint) -> None:
        unmapped = [4, 9]
        self.put(struct.pack("<I", len(unmapped)) + b"".join(word(pfn, self.bits) for pfn in unmapped))
        for vcpu in sorted(self.shape.vcpus):
            context, extended, xsave = truth.vcpus[vcpu] = self.guest.registers(vcpu)
            area = b"" if xsave is None else struct.pack("<QQ", 7, len(xsave)) + xsave
            self.put(context + (extended or b"") + area)
        truth.shared_info = self._rng.randbytes(PAGE)
        self.put(truth.shared_info)


def make_stream(shape: Shape) -> LegacyStream:
    return Sender(shape).write()
