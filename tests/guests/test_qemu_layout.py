"""The memory map parser, on what QEMU 7.2 prints for machines with and without RAM above the hole."""

from __future__ import annotations

import pytest

from replicator.errors import GuestError
from replicator.guests.qemu_layout import parse_layout
from replicator.memory import GuestLayout, Segment

GIB = 1 << 30

#: -M pc -m 5G, shortened; the same tree is printed once for each address space that shows it.
PC_5G = """\
address-space: cpu-memory-0
address-space: memory
  0000000000000000-ffffffffffffffff (prio 0, i/o): system
    0000000000000000-00000000bfffffff (prio 0, ram): alias ram-below-4g @mem0 0000000000000000-00000000bfffffff
    0000000000000000-ffffffffffffffff (prio -1, i/o): pci
      00000000000c0000-00000000000dffff (prio 1, rom): pc.rom
      00000000000e0000-00000000000fffff (prio 1, rom): alias isa-bios @pc.bios 0000000000020000-000000000003ffff
    00000000000c0000-00000000000c3fff (prio 1, ram): alias pam-ram @mem0 00000000000c0000-00000000000c3fff
    00000000000c4000-00000000000c7fff (prio 1, i/o): alias pam-pci @pci 00000000000c4000-00000000000c7fff
    0000000100000000-000000017fffffff (prio 0, ram): alias ram-above-4g @mem0 00000000c0000000-000000013fffffff

memory-region: system
  0000000000000000-ffffffffffffffff (prio 0, i/o): system
    0000000000000000-00000000bfffffff (prio 0, ram): alias ram-below-4g @mem0 0000000000000000-00000000bfffffff
    0000000100000000-000000017fffffff (prio 0, ram): alias ram-above-4g @mem0 00000000c0000000-000000013fffffff

memory-region: mem0
  0000000000000000-000000013fffffff (prio 0, ram): mem0

memory-region: smram
    00000000000a0000-00000000000bffff (prio 0, ram): alias smram-low @mem0 00000000000a0000-00000000000bffff
"""


def test_hole_below_4_gib() -> None:
    layout = parse_layout(PC_5G, 5 * GIB)
    assert layout == (Segment(0, 0, 0xC0000), Segment(0x100000, 0xC0000, 0x80000))
    assert GuestLayout(layout).file_page(0x100000) == 0xC0000
    assert GuestLayout(layout).pages * 4096 == 5 * GIB


def test_q35_splits_at_2_gib() -> None:
    text = PC_5G.replace("bfffffff", "7fffffff").replace("00000000c0000000-", "0000000080000000-")
    text = text.replace("000000017fffffff", "00000001bfffffff")
    assert parse_layout(text, 5 * GIB) == (Segment(0, 0, 0x80000), Segment(0x100000, 0x80000, 0xC0000))


def test_small_guest_is_flat() -> None:
    line = "    0000000000000000-000000000fffffff (prio 0, ram): alias ram-below-4g @ram0 "
    line += "0000000000000000-000000000fffffff\r\n"
    assert parse_layout(line, 256 << 20) == (Segment(0, 0, 65536),)


@pytest.mark.parametrize(
    ("text", "size", "reason"),
    [
        ("", 5 * GIB, "shows 0 bytes"),
        (PC_5G, 6 * GIB, "shows 5368709120 bytes of RAM, the guest has 6442450944"),
        (PC_5G.replace("ram-above-4g @mem0 00000000c", "ram-above-4g @mem0 00000000b"), 5 * GIB, "once"),
        (
            PC_5G.replace("00000000bfffffff (prio 0, ram)", "00000000bffff7ff (prio 0, ram)"),
            5 * GIB,
            "whole pages",
        ),
    ],
)
def test_maps_that_do_not_show_all_ram_once(text: str, size: int, reason: str) -> None:
    with pytest.raises(GuestError, match=reason):
        parse_layout(text, size)
