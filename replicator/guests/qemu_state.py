"""What can be read from a device state that QEMU saved: its virtual clock, and where its clock of the day is.

The state begins as each of QEMU's migration streams does, with sections that carry a name, an instance and a version.
The section "timer" holds the clock that counts only while the guest runs, as it was when the guest stopped; each clock of
the guest but the RTC is made from it.
"""

from __future__ import annotations

import struct

#: Name behind its length, instance 0, version 2.
_TIMER = b"\x05timer" + struct.pack(">II", 0, 2)
#: Offset of the CPU's ticks, a field without use, the virtual clock in nanoseconds.
_TIMER_BODY = struct.Struct(">qqq")
#: The clock that goes on while the guest stands still: name behind its length, instance 0.
_DAY_CLOCK = b"\x0bmc146818rtc" + bytes(4)
#: In front of the name: the number of the section, again at its end behind this mark.
_NUMBER_BYTES = 4
_FOOTER = b"\x7e"


def read_virtual_clock(state: bytes) -> int | None:
    """Nanoseconds that the guest has run; None when the state does not say so in the way we know."""
    at = state.find(_TIMER)
    if at < 0 or len(state) < at + len(_TIMER) + _TIMER_BODY.size:
        return None
    virtual_ns: int = _TIMER_BODY.unpack_from(state, at + len(_TIMER))[2]
    return virtual_ns if virtual_ns >= 0 else None


def find_clock_section(state: bytes) -> range:
    """Where in a state the clock of the day is; empty when there is none."""
    at = state.find(_DAY_CLOCK)
    number = state[max(at - _NUMBER_BYTES, 0) : max(at, 0)]
    end = state.find(_FOOTER + number, at) if at >= _NUMBER_BYTES else -1
    return range(at, end) if end >= 0 else range(0)
