"""The virtual clock in a device state: golden bytes of a real QEMU 7.2, and nothing but None from any others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from replicator.guests.qemu_state import find_clock_section, read_virtual_clock

#: How the device state of a guest begins that was stopped 511,769,873 ns after its start.
STATE = bytes.fromhex(
    "5145564d0000000304000000000574696d6572000000000000000200000000400ee85e0000000000000000"
    "000000001e80fd117e0000000004000000040a6370755f636f6d6d6f6e"
)


def test_the_clock_of_a_real_state() -> None:
    assert read_virtual_clock(STATE) == 511_769_873


def test_a_state_that_breaks_off_has_none() -> None:
    whole = STATE.index(bytes.fromhex("7e000000"))
    for size in range(whole):
        assert read_virtual_clock(STATE[:size]) is None


def test_another_version_and_a_clock_before_the_start_are_not_believed() -> None:
    assert read_virtual_clock(STATE.replace(b"\0\0\0\2", b"\0\0\0\3", 1)) is None
    at = STATE.index(bytes.fromhex("000000001e80fd11"))
    assert read_virtual_clock(STATE[:at] + b"\xff" * 8 + STATE[at + 8 :]) is None


@given(st.binary(max_size=100))
def test_any_bytes_give_a_clock_or_none(state: bytes) -> None:
    assert read_virtual_clock(state) is None
    assert (read_virtual_clock(STATE[:33] + state) or 0) >= 0


#: The clock of the day of a real state, and the section behind it.
DAY_CLOCK = bytes.fromhex(
    "7e0000001104000000120b6d6331343638313872746300000000000000030300560021000526112626"
    "0210800000000000000006807e000000120400000013"
)


def test_the_section_of_the_clock_of_the_day() -> None:
    section = find_clock_section(DAY_CLOCK)
    assert DAY_CLOCK[section.start : section.start + 12] == b"\x0bmc146818rtc"
    assert DAY_CLOCK[section.stop :] == bytes.fromhex("7e000000120400000013")
    assert section == find_clock_section(DAY_CLOCK + DAY_CLOCK)


def test_a_section_that_breaks_off_or_has_no_head_is_none() -> None:
    whole = find_clock_section(DAY_CLOCK).stop + 5
    for size in range(whole):
        assert not find_clock_section(DAY_CLOCK[:size])
    assert not find_clock_section(DAY_CLOCK[10:])


@given(st.binary(max_size=200))
def test_any_bytes_have_a_clock_section_or_none(state: bytes) -> None:
    section = find_clock_section(state)
    assert 0 <= section.start <= section.stop <= len(state)
