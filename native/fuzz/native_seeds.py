"""Seeds of the native fuzz drivers: `python native/fuzz/native_seeds.py FOLDER` writes them, a folder for each driver. Made of
the rules that each driver states for its input; they are the same each time."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from build_fuzzers import drivers

PAGE: Final = 4096
HIGHEST: Final = 2**64 - 1
#: Types of page entries: plain, page tables, pinned ones, a reserved one, broken, without data.
TYPES: Final = (0x0, 0x1, 0x4, 0x9, 0xC, 0x6, 0xD, 0xE, 0xF)
UNMAPPED: Final = 0xF0000000


def seeds_of(driver: str) -> dict[str, bytes]:
    """The seeds of a driver, by name. KeyError for a driver that has none."""
    return dict(_MAKERS[driver]())


def write_seeds(folder: Path) -> None:
    """Write the seeds of all drivers."""
    for driver in drivers():
        place = folder / driver
        place.mkdir(parents=True, exist_ok=True)
        for name, data in seeds_of(driver).items():
            (place / name).write_bytes(data)


def _entries() -> Iterator[tuple[str, bytes]]:
    def table(limit: int, how: int, *entries: int, pfn: int = 2) -> bytes:
        return struct.pack("<HQQB", limit, 1 << 20, pfn, how) + struct.pack(f"<{len(entries)}Q", *entries)

    yield "empty", table(0, 0)
    yield "ascending", table(16, 0, *range(16))
    yield "every-type", table(16, 3, *(kind << 60 | pfn for pfn, kind in enumerate(TYPES)))
    yield "descending-and-twice", table(64, 1, 9, 4, 4, 4 | 0xF << 60, 1)
    yield "beyond-the-limit", table(8, 0, 1, 2, 8)
    yield "reserved-bits", table(8, 8, 1 | 1 << 52, 2 | 1 << 59, 3)
    yield "highest", table(PAGE, 8, 2**52 - 1, HIGHEST, pfn=2**52 - 1)


def _legacy_batches() -> Iterator[tuple[str, bytes]]:
    entries = (1, 0x10000002, 0xD0000003, UNMAPPED, 0xF0000001, 0x0FFFFFFF)
    yield "narrow", b"\x00" + struct.pack("<6I", *entries)
    yield "wide", b"\x01" + struct.pack("<6Q", *entries)
    yield "high-bits", b"\x01" + struct.pack("<2Q", 5, 1 << 32)
    yield "other-width", b"\x05" + bytes(range(15))
    yield "nothing-mapped", b"\x00" + struct.pack("<3I", *[UNMAPPED] * 3)


def _packed_pages() -> Iterator[tuple[str, bytes]]:
    def runs(*lengths: tuple[int, bool]) -> bytes:
        """(words, whether they stay as they are)."""
        return b"".join(
            bytes([words | 0x80 * stays]) + (b"" if stays else bytes(range(words)) * 4)
            for words, stays in lengths
        )

    whole = b"\x80" + bytes(range(256)) * 16
    skipped = runs(*[(127, True)] * 8, (8, True))
    mixed = runs((1, False), (127, True), (100, False), *[(127, True)] * 6, (34, False))
    yield "unchanged", b"\x00\x03\x00\x00\x00"
    yield "whole", b"\x11\x00" + whole + whole
    yield "skipped", b"\x22\x10" + skipped + b"\x00"
    yield "mixed", b"\x33\x7e" + mixed + whole + mixed
    yield "literal", b"\x44\x05" + runs(*[(127, False)] * 8, (8, False))
    yield "too-long", b"\x55\x00" + runs(*[(127, True)] * 8, (9, True))
    yield "cut", b"\x66\x00" + mixed[:-1]
    yield "a-run-of-nothing", b"\x77\x00" + runs((5, False), (0, True))


def _layouts() -> Iterator[tuple[str, bytes]]:
    wide = struct.pack("<6Q", 0, 0, 0xC0000, 0x100000, 0xC0000, 0x40000)
    yield "one", bytes([1, 14, 14, 31]) + b"\x02\x00\x05\x00"
    yield (
        "with-a-hole",
        bytes([2, 14, 14, 20, 10, 14, 9]) + b"\x00\x00\x1d\x00\x13\x00\x05\xff" + b"\xfe\xff\xf8\x00",
    )
    yield "overlapping", bytes([2, 14, 14, 20, 0xF0, 14, 9])
    yield "empty-segment", bytes([2, 14, 14, 20, 14, 14, 0])
    yield "many", bytes([40]) + bytes([14, 15, 3]) * 40 + b"\x20\x00\x10\x00"
    yield "of-a-pc", bytes([0x82]) + wide + struct.pack("<3Q", 0xC0000, 0xFFFFF, 0x13FFFF)
    yield "wraps-around", bytes([0x82]) + struct.pack("<6Q", 0, 0, 1, HIGHEST, 1, HIGHEST)
    yield "largest", bytes([0x81]) + struct.pack("<3Q", 0, 2**28, 2**28)


def _bitmaps() -> Iterator[tuple[str, bytes]]:
    def calls(bits: int, *each: tuple[int, int, str, tuple[int, ...]]) -> bytes:
        head = struct.pack("<H", bits)
        return head + b"".join(
            bytes([pair, call]) + struct.pack("<" + form, *numbers) for pair, call, form, numbers in each
        )

    yield "no-bits", calls(0, (0, 0, "HH", (0, 0)), (0, 4, "H", (0,)))
    yield (
        "ranges",
        calls(200, (0, 0, "HH", (3, 130)), (0, 2, "HH", (63, 2)), (0, 4, "H", (5,)), (0, 5, "H", (200,))),
    )
    yield "lists", calls(130, (1, 3, "B4H", (4, 0, 63, 64, 129)), (1, 6, "H", (3,)), (1, 6, "H", (4,)))
    yield "taken", calls(130, (0, 0, "HH", (60, 70)), (0, 7, "HH", (61, 5)), (0, 7, "HH", (129, 9)))
    yield (
        "two",
        calls(
            65,
            (0, 0, "HH", (0, 65)),
            (1, 1, "HH", (64, 1)),
            (3, 8, "B", (1,)),
            (3, 9, "B", (0,)),
            (6, 8, "B", (1,)),
        ),
    )
    yield (
        "beyond",
        calls(
            64,
            (0, 0, "HH", (64, 1)),
            (0, 0, "HH", (0xFFFF, 2)),
            (0, 2, "HH", (1, 0xFFFF)),
            (0, 3, "BH", (1, 64)),
        ),
    )


def _rams() -> Iterator[tuple[str, bytes]]:
    change = struct.pack("<BHB", 1, 77, 5)
    yield "untouched", b"\x00\x07" + b"\x00\x03\x00\x01\x02"
    yield "a-hole", b"\x03\x03" + b"\x01" + change + b"\x04\x00\x01\x08\x09" + b"\x80\x02\x0a\x00"
    yield "no-ram", b"\x04\x01" + b"\x00\x02\x00\x03" + b"\x80\x02\x01\x03" + b"\x00\x01\xff"
    yield "twice", b"\x00\x02" + b"\x82\x03\x01\x01\x01" + b"\x90\x03\x02\x01\x02" + b"\x00\x00"


def _scanners() -> Iterator[tuple[str, bytes]]:
    mapping = struct.pack("<3Q", PAGE, HIGHEST, 1)
    two = bytes([2, 0, 0, 63, 4, 64, 63])
    yield "nothing", b"\x00" + mapping
    yield "two-mappings", two + bytes([0xF8 & ~7, 5, 0, 1, 2, 70, 130]) + bytes([0x08, 3, 9, 10, 11])
    yield "fails", two + bytes([1, 1, 3])
    yield "stands-still", two + bytes([2, 1, 3])
    yield "has-ended", two + bytes([3, 1, 3])
    yield "beyond-the-layout", bytes([1, 0, 127, 20]) + bytes([0xF8, 4, 0, 1, 5, 20])
    yield "wraps-around", b"\x00" + struct.pack("<3Q", HIGHEST - PAGE + 1, 0, 2)


def _page_searches() -> Iterator[tuple[str, bytes]]:
    def search(pages: int, first: int, length: int, model: int, change: int, *starts: bytes) -> bytes:
        return struct.pack("<BBHBB", pages, first, length, model, change) + b"".join(starts)

    yield "none", search(0, 0, 4, 0, 0)
    yield "the-last", search(3, 0, 4, 2, 0, b"aaaa", b"bbbb", b"cccc")
    yield "behind", search(3, 2, 2, 0, 0, b"aa", b"bb", b"aa")
    yield "whole-page", search(2, 0, PAGE, 1, 0, b"x", b"y")
    yield "not-there", search(2, 0, 1, 0, 7, b"x", b"y")
    yield "beyond", search(2, 200, 1, 0, 0, b"x", b"y")


def _decoded_pages() -> Iterator[tuple[str, bytes]]:
    def fitting(*pages: tuple[int, bytes], how: int = 1) -> bytes:
        head = bytes([how, len(pages), *range(len(pages))])
        return head + b"".join(struct.pack("<BH", method, len(data)) + data for method, data in pages)

    zero, same, raw = (0, b""), (1, b""), (4, bytes(range(256)) * 16)
    delta = (2, b"\x31\xaa\xbb" + b"\xff\x8c\x1f\x04" + b"\xcc" * 20)
    block = (3, b"\xff\x01" + bytes(16) + b"\x10\x00" + b"\xff" * 15 + b"\xe7" + b"\x50" + b"12345")
    yield "each-method", fitting(zero, same, delta, block, raw)
    yield "without-bases", fitting(zero, raw, block, how=3)
    yield "refused", fitting(raw, same, how=3)
    yield "no-ram", bytes([1, 2, 0, 5]) + struct.pack("<BHBH", 0, 0, 1, 0)
    yield "as-it-is", b"\x00\x02\x00\x01" + b"\x02\x00\x00\x00" + b"\x00\x00\x00\x20"
    yield "too-many-bytes", b"\x00\x01\x00" + b"\x01\x00\x00\x00" + b"\x00\x00\xff"
    yield "beyond-the-page", fitting((2, b"\xf1\xf1\x1f12"), (2, b"\xf0\xf0\x1f1"))
    yield "cut-delta", fitting((2, b"\x0f\x7f123"))


def _bases() -> Iterator[tuple[str, bytes]]:
    def calls(capacity: int, frames: int, *each: tuple[int, int, int]) -> bytes:
        return bytes([capacity, frames]) + b"".join(map(bytes, each))

    yield "fills", calls(3, 8, (2, 0, 1), (2, 1, 2), (2, 2, 3), (2, 3, 4), (2, 4, 5))
    yield "spared", calls(2, 8, (2, 0, 1), (2, 1, 2), (2, 0, 3), (2, 5, 4), (2, 6, 5), (2, 7, 6))
    yield "dropped", calls(3, 8, (2, 0, 1), (2, 1, 2), (1, 0, 0), (2, 2, 3), (2, 0, 4), (1, 9, 0))
    yield "all-dropped", calls(4, 8, (2, 0, 1), (2, 1, 2), (0, 0, 0), (2, 1, 3))
    yield "beyond", calls(4, 3, (2, 3, 1), (2, 4, 1))
    yield "nothing", calls(0, 0)


def _relay_books() -> Iterator[tuple[str, bytes]]:
    mac, plain = bytes.fromhex("525400000001"), bytes.fromhex("000108000604")
    arp, ipv4, ipv6 = 0, 1, 2
    link_local, routed = (
        bytes.fromhex("fe80" + "00" * 13 + "05"),
        bytes.fromhex("20010db8" + "00" * 11 + "09"),
    )

    def frames(*each: tuple[int, bytes]) -> bytes:
        return b"".join(struct.pack("<BB", start, len(rest)) + rest for start, rest in each)

    def discovery(kind: int, source: bytes, target: bytes) -> bytes:
        return bytes(6) + b"\x3a\xff" + source + bytes(16) + bytes([kind]) + bytes(7) + target

    yield "arp", frames((arp, plain + b"\x00\x01" + mac + b"\x0a\x00\x00\x07" + bytes(10)))
    yield "traffic", frames((ipv4, bytes(12) + b"\x0a\x00\x00\x08"), (ipv6, bytes(8) + routed))
    yield "router", frames(*((ipv4, bytes(12) + bytes([10, 0, 0, last])) for last in range(1, 9)))
    yield (
        "discovery",
        frames((ipv6, discovery(135, link_local, routed)), (ipv6, discovery(136, routed, link_local))),
    )
    yield "nobodys", frames(*((ipv4, bytes(12) + bytes([first, 0, 0, 1])) for first in (127, 224, 255)))
    yield "cut", frames((ipv4, bytes(15)), (arp, plain), (255, b"12"), (ipv6, bytes(6) + b"\x3a"))


def _shift_tables() -> Iterator[tuple[str, bytes]]:
    times, sack = bytes.fromhex("0101080a0000006400000063"), bytes.fromhex("0101050a0000000500000009")
    signed = bytes.fromhex("131200") + bytes(17)
    commit, forget = b"\6", b"\7"

    def tcp(flags: int, options: bytes = b"", data: bytes = b"x") -> bytes:
        words = (5 + len(options) // 4) << 4
        return struct.pack("!HHIIBBHHH", 80, 999, 7, 9, words, flags, 0, 1, 0) + options + data

    def ipv4(body: bytes) -> bytes:
        return b"\x08\x00" + struct.pack("!BBHHHBBH8x", 0x45, 0, 20 + len(body), 0, 0, 64, 6, 0) + body

    def ipv6(body: bytes, following: int = 6) -> bytes:
        return b"\x86\xdd" + struct.pack("!IHBB32x", 6 << 28, len(body), following, 64) + body

    def said(which: int, rest: bytes) -> bytes:
        return bytes((which, len(rest))) + rest

    def shift(which: int, key: int, seq: int, ts: int) -> bytes:
        return struct.pack("<BBII", which, key, seq, ts)

    plain = tcp(0x10, times)
    tags = b"\x81\0\0\5", b"\x88\xa8\0\5\x81\0\0\6"
    yield "exchange", b"\x03" + said(0, ipv4(tcp(2, times))) + said(1, ipv4(plain)) + said(0, ipv4(plain))
    yield "sacks", b"\x03" + said(1, ipv4(tcp(0x10, sack + times))) + said(1, ipv4(tcp(0x11, signed)))
    yield "ipv6", b"\x02" + said(0, ipv6(plain)) + said(1, ipv6(b"\6" + bytes(7) + plain, 0))
    yield "tagged", b"\x02" + said(0, tags[0] + ipv4(plain)) + said(1, tags[1] + ipv6(plain))
    told = shift(4, 1, 5, 6) + shift(5, 2, 7, 8) + shift(4, 3, 1, 1)
    yield "shifts", b"\x02" + told + commit + shift(4, 3, 1, 1) + forget
    yield "closed", b"\x01" + said(0, ipv4(tcp(0x14))) + shift(4, 1, 5, 6) + said(1, ipv4(plain))


def _steady_flows() -> Iterator[tuple[str, bytes]]:
    def said(side: int, flow: int, away: int, data: bytes, ack: int = 5) -> bytes:
        return struct.pack("<BBBbBB", 2 * side, flow, 0x10, away, ack, len(data)) + data

    def confirm(upto: int, before: int) -> bytes:
        return bytes((4, 0, upto, before))

    asked, put, late = bytes((3, 0, 0x10)), bytes((5, 0)), bytes((6, 0))
    yield "exchange", b"\2" + asked + said(0, 0, 0, b"abc") + said(1, 0, 0, b"abc") + confirm(1, 99)
    yield "ahead", b"\2" + said(1, 0, 0, b"abcd") + said(0, 0, 0, b"ab") + said(0, 0, 0, b"cdef") + put
    yield "again", b"\2" + said(0, 1, 0, b"abc") + said(0, 1, 1, b"bcd") + late + said(1, 1, 0, b"abcx")
    yield "several", b"\4" + b"\5\2" + b"".join(said(0, flow, 0, b"x") for flow in range(3)) + put


def _frame_messages() -> Iterator[tuple[str, bytes]]:
    session, one = b"\xc4\x10" + bytes(16), b"\x92\x00\xc4\x04data"
    long = b"\x92\x1f\xc5\x01\x00" + bytes(256)
    yield "inputs", b"\x95\xabinput-batch" + session + b"\x01\x05\x92" + one + long
    yield "outputs", b"\x96\xacoutput-batch" + session + b"\xcc\xc8\x02\x00\xdc\x00\x10" + one * 16
    yield "logged", b"\x94\xadinputs-logged" + session + b"\xcf" + bytes(4) + b"\1" * 4 + b"\xce\0\1\0\0"


_MAKERS: Final = {
    "bases": _bases,
    "bitmap": _bitmaps,
    "decode_pages": _decoded_pages,
    "entries": _entries,
    "frame_message": _frame_messages,
    "layout": _layouts,
    "legacy_batch": _legacy_batches,
    "page_search": _page_searches,
    "ram": _rams,
    "relay_book": _relay_books,
    "scanner": _scanners,
    "shift_table": _shift_tables,
    "steady": _steady_flows,
    "unpack": _packed_pages,
}


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
