"""The native hold, inputs and address book do, step by step, what their Python oracles do."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_models import ModelCosts, ModelGuest, NativeBook, NativeHold, NativeInputs

from replicator.engine.output import Frame, OutputMachine, OutputMode
from replicator.errors import InvariantError
from replicator.output.announce import (
    AddressBook,
    build_advertisement,
    build_arp_reply,
    build_arp_request,
    build_rarp,
    parse_mac,
)
from replicator.output.inputs import NicInputs, Numbered
from replicator.units import Epoch

Step = tuple[str, int]
HOLD_BYTES = 20_000
#: So many steps make each ring go round several times.
LONG_STEPS = 2_000


def numbered(number: int, size: int) -> bytes:
    return number.to_bytes(4, "big").ljust(size, bytes([number % 251]))


# Outputs.


class Outputs:
    """The oracle and the native hold, driven alike; each step compares all that can be seen."""

    def __init__(self, mode: OutputMode) -> None:
        self.sides: tuple[Any, Any] = (
            OutputMachine(mode=mode, bytes_max=HOLD_BYTES),
            NativeHold(mode=mode, bytes_max=HOLD_BYTES),
        )
        self.frames = 0
        self.epoch = 0

    def take(self, step: Step) -> None:
        word, number = step
        results = [getattr(self, f"_{word}")(side, number) for side in self.sides]
        assert results[0] == results[1], step
        seen = [(side.counters(), side.full, side.next_leaving()) for side in self.sides]
        assert seen[0] == seen[1], step
        if word in ("hold", "inject"):
            self.frames += 1
        if word == "barrier":
            self.epoch += number

    def _frame(self, size: int) -> Frame:
        return Frame(self.frames % 3, numbered(self.frames, 4 + size))

    def _hold(self, side: Any, size: int) -> Any:
        return side.hold(self._frame(size), self.frames + 1)

    def _inject(self, side: Any, size: int) -> Any:
        return side.inject([self._frame(size % 100)], self.frames + 1)

    def _barrier(self, side: Any, more: int) -> Any:
        return checked(lambda: side.mark_barrier(Epoch(self.epoch + more)))

    def _release(self, side: Any, back: int) -> Any:
        return checked(lambda: side.release(Epoch(max(self.epoch - back + 1, 0))))

    def _mode(self, side: Any, which: int) -> Any:
        return side.set_mode((OutputMode.HOLD, OutputMode.PASS)[which % 2])

    def _write(self, side: Any, count: int) -> Any:
        left = []
        while len(left) < count and (frame := side.next_leaving()) is not None:
            side.mark_left(written=len(left) % 5 != 4)
            left.append(frame)
        return left

    def _discard(self, side: Any, _: int) -> Any:
        return side.discard()

    def _lose(self, side: Any, count: int) -> Any:
        return side.count_lost(count)


def checked(call: Any) -> Any:
    """What it returns, or that the order of calls is wrong."""
    try:
        return call()
    except InvariantError:
        return InvariantError


output_steps = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), st.integers(0, 3000)),
        st.tuples(st.just("hold"), st.integers(0, 300)),
        st.tuples(st.sampled_from(["write", "barrier", "release", "mode"]), st.integers(0, 8)),
        st.tuples(st.sampled_from(["inject", "discard", "lose"]), st.integers(0, 3)),
    ),
    max_size=60,
)


@given(st.sampled_from(OutputMode), output_steps)
def test_the_hold_is_the_output_machine(mode: OutputMode, history: list[Step]) -> None:
    outputs = Outputs(mode)
    for step in history:
        outputs.take(step)


def long_outputs(seed: int) -> Iterator[Step]:
    """A guest that talks on, now and then with a take-over of everything."""
    draw = random.Random(seed)
    words = ["hold"] * 12 + ["write"] * 5 + ["barrier"] * 3 + ["release"] * 3 + ["inject"]
    for _ in range(LONG_STEPS):
        word = draw.choice(words) if draw.random() < 0.995 else draw.choice(["mode", "mode", "discard"])
        yield word, draw.randrange(3000) if word == "hold" else draw.randrange(1, 8)


@pytest.mark.parametrize("seed", range(3))
def test_the_hold_is_the_output_machine_for_long(seed: int) -> None:
    outputs = Outputs(OutputMode.HOLD)
    for step in long_outputs(seed):
        outputs.take(step)
    assert outputs.sides[0].counters().left_bytes > 10 * HOLD_BYTES


# Inputs.


class Inputs:
    """The oracle and the native inputs, each with a guest of its own."""

    def __init__(self) -> None:
        self.guests = (ModelGuest(), ModelGuest())
        self.oracle = NicInputs(self.guests[0], ModelCosts())
        self.native = NativeInputs(self.guests[1])
        self.sides: tuple[Any, Any] = (self.oracle, self.native)
        self.seq = 0
        #: A checkpoint's calls come in order: running, held, stopped.
        self.phase = "running"

    def take(self, step: Step) -> None:
        word, number = step
        if word in PHASES and PHASES[word][0] != self.phase:
            return
        if word == "accept":
            self.seq += 1
        results = [self._do(side, guest, word, number) for side, guest in zip(self.sides, self.guests)]
        assert results[0] == results[1], step
        if word in PHASES:
            self.phase = PHASES[word][1]
        self._compare(step)

    def _do(self, side: Any, guest: ModelGuest, word: str, number: int) -> Any:
        if word == "accept":
            return self._accept(side, number)
        if word == "read":
            return guest.read(number)
        if word in ("go", "come"):
            return self._change_guest(side, guest, word)
        return getattr(side, word)()

    def _accept(self, side: Any, size: int) -> bool:
        room: bool = side.has_room(size)
        if room:
            side.accept(Numbered(self.seq, numbered(self.seq, 4 + size)))
            side.deliver()
        return room

    def _change_guest(self, side: Any, guest: ModelGuest, word: str) -> None:
        if word == "go":
            guest.go()
        else:
            guest.queue.clear()
            guest.is_there = True
            side.forget_given()
        side.deliver()

    def _compare(self, step: Step) -> None:
        oracle = self.oracle
        assert self.native.counts() == (
            oracle.given_frames,
            oracle.waiting_frames,
            oracle.waiting_bytes,
            oracle.dropped_frames,
            oracle.repeated_frames,
        ), step
        assert self.guests[0] == self.guests[1], step
        assert self.native.doubtful() == [frame.data for frame in oracle._doubtful], step


PHASES = {
    "hold": ("running", "held"),
    "note_unread": ("held", "held"),
    "note_stop": ("held", "stopped"),
    "resume": ("stopped", "running"),
}

input_steps = st.lists(
    st.one_of(
        st.tuples(st.just("accept"), st.integers(0, 1200)),
        st.tuples(st.just("read"), st.integers(1, 30)),
        st.tuples(st.sampled_from([*PHASES, "deliver"]), st.just(0)),
        st.tuples(st.sampled_from(["go", "come"]), st.just(0)),
    ),
    max_size=80,
)


@given(input_steps)
def test_the_inputs_are_the_nic_inputs(history: list[Step]) -> None:
    drive_inputs(history)


def drive_inputs(history: Sequence[Step]) -> Inputs:
    inputs = Inputs()
    for step in history:
        inputs.take(step)
    return inputs


def long_inputs(seed: int) -> Iterator[Step]:
    """A network that never rests, in checkpoints of a guest that now and then reads around its stop."""
    draw = random.Random(seed)
    for _ in range(LONG_STEPS // 10):
        yield from (("accept", draw.randrange(1100)) for _ in range(draw.randrange(30)))
        yield "read", draw.randrange(60)
        yield "hold", 0
        yield from (("accept", draw.randrange(900)) for _ in range(draw.randrange(20)))
        yield "read", draw.randrange(6)
        yield "note_unread", 0
        yield "read", draw.randrange(6)
        yield "note_stop", 0
        yield "resume", 0
        if draw.random() < 0.02:
            yield from (("go", 0), ("accept", 80), ("come", 0))


@pytest.mark.parametrize("seed", range(3))
def test_the_inputs_are_the_nic_inputs_for_long(seed: int) -> None:
    inputs = drive_inputs(list(long_inputs(seed)))
    assert inputs.oracle.repeated_frames > 100


def test_waiting_inputs_have_the_bounds_of_the_oracle() -> None:
    inputs = drive_inputs([("go", 0)] + [("accept", 10)] * 4100)
    assert inputs.native.counts()[1] == 4096
    inputs = drive_inputs([("go", 0)] + [("accept", 60_000)] * 80)
    assert inputs.native.counts()[2] <= 4 << 20


# Addresses.

MAC = "52:54:00:00:00:01"
OTHER = "52:54:00:00:00:02"
ipv4s = st.sampled_from(["0.0.0.0", "10.0.0.1", "10.0.0.2", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
ipv6s = st.sampled_from(["::", "::1", "fe80::1", "2001:db8::1", "2001:db8::2", "ff02::1"])


def traffic(ethertype: bytes, source: bytes, before: int) -> bytes:
    head = parse_mac(OTHER) + parse_mac(MAC) + ethertype
    return head + bytes(before) + source + bytes(60)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """What a guest may say, whole or cut or with one byte changed."""
    mac = parse_mac(draw(st.sampled_from([MAC, MAC, OTHER])))
    ipv4, ipv6 = IPv4Address(draw(ipv4s)), IPv6Address(draw(ipv6s))
    if draw(st.booleans()):
        ipv4 = IPv4Address(draw(st.integers(0x0A000000, 0x0A00000F)))
    made = draw(
        st.sampled_from(
            [
                build_arp_request(mac, ipv4),
                build_arp_reply(mac, ipv4),
                build_advertisement(mac, ipv6),
                build_rarp(mac),
                traffic(b"\x08\x00", ipv4.packed, 12),
                traffic(b"\x86\xdd", ipv6.packed, 8),
                traffic(b"\x86\xdd", ipv6.packed, 8)[:20] + b"\x3a" + bytes(33) + b"\x87" + bytes(40),
            ]
        )
    )
    if draw(st.booleans()):
        made = made[: draw(st.integers(0, len(made)))]
    if made and draw(st.booleans()):
        at = draw(st.integers(0, len(made) - 1))
        made = made[:at] + bytes([draw(st.integers(0, 255))]) + made[at + 1 :]
    return made


@given(st.lists(frames(), max_size=30))
def test_the_book_is_the_address_book(heard: list[bytes]) -> None:
    oracle, native = AddressBook(MAC), NativeBook(MAC)
    for frame in heard:
        oracle.learn_output(frame)
        native.learn_output(frame)
        assert native.known() == oracle.known(), frame.hex()
