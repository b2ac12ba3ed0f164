"""What can be read from a device state that QEMU saved: its virtual clock.

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


def read_virtual_clock(state: bytes) -> int | None:
    """Nanoseconds that the guest has run; None when the state does not say so in the way we know."""
    at = state.find(_TIMER)
    if at < 0 or len(state) < at + len(_TIMER) + _TIMER_BODY.size:
        return None
    virtual_ns: int = _TIMER_BODY.unpack_from(state, at + len(_TIMER))[2]
    return virtual_ns if virtual_ns >= 0 else None
