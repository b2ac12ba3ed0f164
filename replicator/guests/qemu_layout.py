"""Which frames of a QEMU guest lie where in its RAM file, read from the monitor's `info mtree`.

A PC shows its RAM through two aliases: `ram-below-4g` from frame 0 on and, when the RAM does not fit below the PCI
hole, `ram-above-4g` from 4 GiB on. How much lies below the hole depends on the machine type and on the size (q35 keeps
2 GiB there as soon as it must split), so it is asked and never computed.
"""

from __future__ import annotations

import re

from replicator.errors import GuestError
from replicator.memory import Segment
from replicator.units import PAGE_SIZE

#: "  START-END (prio P, ram): alias ram-below-4g @BACKEND FROM-TO", addresses in hexadecimal, ends inclusive.
_ALIAS = re.compile(
    r"^\s*(?P<start>[0-9a-f]{16})-(?P<end>[0-9a-f]{16}) \(prio -?\d+, ram\): "
    r"alias (?P<name>ram-\S+) @(?P<backend>\S+) (?P<offset>[0-9a-f]{16})-[0-9a-f]{16}$"
)


def parse_layout(mtree: str, ram_bytes: int) -> tuple[Segment, ...]:
    """The segments of a guest with `ram_bytes` of RAM. GuestError unless they show each byte of it exactly once."""
    segments = sorted(
        {_parse_alias(match) for line in mtree.splitlines() if (match := _ALIAS.match(line.rstrip()))}
    )
    shown = 0
    for segment in segments:
        if segment.file_page * PAGE_SIZE != shown:
            raise GuestError(f"the guest's memory map does not show RAM byte {shown:#x} once: {segments}")
        shown += segment.pages * PAGE_SIZE
    if shown != ram_bytes:
        raise GuestError(f"the guest's memory map shows {shown} bytes of RAM, the guest has {ram_bytes}")
    return tuple(segments)


def _parse_alias(match: re.Match[str]) -> Segment:
    start, end, offset = (int(match[group], 16) for group in ("start", "end", "offset"))
    if start % PAGE_SIZE or offset % PAGE_SIZE or (end + 1 - start) % PAGE_SIZE:
        raise GuestError(f"the guest's RAM is not mapped in whole pages: {match[0].strip()}")
    return Segment(start // PAGE_SIZE, offset // PAGE_SIZE, (end + 1 - start) // PAGE_SIZE)
