"""What the synthetic guest says depends on what it was told and on nothing else, until it diverges."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import InvariantError
from replicator.guests.synthetic_frames import (
    BEACON_SEQUENCE,
    ONCE_FLAG,
    WORK_FLAG,
    Address,
    Reply,
    decode_reply,
    encode_request,
    parse_mac,
)
from replicator.guests.synthetic_machine import (
    DIVERGENT_STEPS_MAX,
    Registers,
    SyntheticMachine,
    check_ram,
    no_entropy,
)
from replicator.guests.synthetic_service import SyntheticService
from replicator.units import NS_PER_MS, PAGE_SIZE

PAGES = 40
SEED = 5
BEACON_MS = 10
OWN = Address(parse_mac("52:54:00:00:00:01"), IPv4Address("10.77.0.2"))
PEERS = [Address(parse_mac(f"52:54:00:00:00:1{n}"), IPv4Address(f"10.77.0.1{n}")) for n in (1, 2)]
WORD_MAX = (1 << 64) - 1


class Dice:
    """Seeded entropy, which can be made to let no machine diverge."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.is_quiet = False

    def __call__(self) -> int:
        return WORD_MAX if self.is_quiet else self._random.getrandbits(64)


class Twin:
    """One of two guests on plain bytes, and all that it said."""

    def __init__(self, divergence: float = 0.0, entropy: Callable[[], int] = no_entropy) -> None:
        self.ram, self.dirty = bytearray(PAGES * PAGE_SIZE), bytearray(PAGES)
        self.machine = SyntheticMachine(
            memoryview(self.ram),
            memoryview(self.dirty),
            SEED,
            PAGES - 1,
            divergence=divergence,
            entropy=entropy,
        )
        self.machine.power_on()
        self.service = SyntheticService(self.machine, OWN, BEACON_MS * NS_PER_MS)
        self.answers: list[bytes | None] = []
        self.beacons: list[bytes] = []

    def run_for(self, time: Time) -> None:
        self.machine.clocks.running_ns += time.ms * NS_PER_MS
        self.machine.advance(time.steps)
        while (beacon := self.service.next_beacon()) is not None:
            self.beacons.append(beacon)

    def take(self, frame: bytes) -> None:
        self.answers.append(self.service.take_frame(frame))

    def ask(self, sequence: int) -> Reply:
        frame = self.service.take_frame(encode_request(PEERS[0].mac, OWN.mac, sequence))
        assert frame is not None
        reply = decode_reply(frame)
        assert reply is not None
        return reply

    def become(self, other: Twin) -> None:
        """What a checkpoint does: RAM first, then the state."""
        self.ram[:] = other.ram
        self.machine.load(other.machine.save(0))
        self.answers, self.beacons = list(other.answers), list(other.beacons)

    def check(self) -> Registers:
        return check_ram(memoryview(self.ram), SEED, PAGES - 1)


class Time(NamedTuple):
    """What passes on one side before a frame comes."""

    ms: int
    steps: int


class Turn(NamedTuple):
    frame: bytes
    one: Time
    other: Time


def udp_request(peer: Address, sequence: int) -> bytes:
    udp = struct.pack("!HHHHQ", 40000, 7, 16, 0, sequence)
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 36, 1, 0, 64, 17, 0, peer.ip.packed, OWN.ip.packed)
    return OWN.mac + peer.mac + b"\x08\x00" + head + udp


def raw_request(peer: Address, sequence: int) -> bytes:
    return encode_request(peer.mac, OWN.mac, sequence)


def arp_request(peer: Address) -> bytes:
    body = struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, 1, peer.mac, peer.ip.packed, bytes(6), OWN.ip.packed)
    return b"\xff" * 6 + peer.mac + b"\x08\x06" + body


PEER = st.sampled_from(PEERS)
#: Counted each time, counted once, work.
SEQUENCES = st.builds(
    lambda flag, number: flag | number, st.sampled_from((0, ONCE_FLAG, WORK_FLAG)), st.integers(0, 20)
)
FRAMES = st.one_of(
    st.builds(udp_request, PEER, SEQUENCES),
    st.builds(raw_request, PEER, SEQUENCES),
    st.builds(arp_request, PEER),
    st.binary(max_size=40).map(lambda noise: OWN.mac + noise),
)
TIMES = st.builds(Time, st.integers(0, 50), st.integers(0, 30))
SCRIPTS = st.lists(st.builds(Turn, FRAMES, TIMES, TIMES), max_size=15)


def play(one: Twin, other: Twin, script: list[Turn]) -> None:
    """Both get the same frames in the same order, each in its own time."""
    for turn in script:
        one.run_for(turn.one)
        one.take(turn.frame)
        other.run_for(turn.other)
        other.take(turn.frame)


def assert_alike(one: Twin, other: Twin) -> None:
    assert one.answers == other.answers
    said_by_both = min(len(one.beacons), len(other.beacons))
    assert one.beacons[:said_by_both] == other.beacons[:said_by_both]


@given(SCRIPTS)
def test_twins_say_the_same_however_time_passes(script: list[Turn]) -> None:
    one, other = Twin(), Twin()
    play(one, other, script)
    assert_alike(one, other)
    for twin in (one, other):
        assert twin.check() == twin.machine.registers


@given(st.lists(st.integers(0, 50), max_size=20))
def test_beacons_are_numbered_and_due_by_the_running_time(passing_ms: list[int]) -> None:
    twin = Twin()
    for ms in passing_ms:
        twin.run_for(Time(ms, 1))
        twin.ask(0)
    count = sum(passing_ms) // BEACON_MS
    said = [decode_reply(frame) for frame in twin.beacons]
    assert said == [Reply(BEACON_SEQUENCE, number, 0, 1) for number in range(1, count + 1)]


@given(SCRIPTS, SCRIPTS)
def test_twins_that_diverged_are_alike_after_a_checkpoint(before: list[Turn], after: list[Turn]) -> None:
    dice = Dice(1), Dice(2)
    one, other = Twin(0.5, dice[0]), Twin(0.5, dice[1])
    play(one, other, before)
    other.become(one)
    for entropy in dice:
        entropy.is_quiet = True
    play(one, other, after)
    assert_alike(one, other)


def test_what_diverged_stays_different_until_a_checkpoint() -> None:
    entropy = Dice(1)
    one, other = Twin(0.999, entropy), Twin()
    assert one.ask(1) != other.ask(1)
    entropy.is_quiet = True
    other.machine.advance(one.machine.registers.step)
    before, after = other.machine.registers, one.machine.registers
    assert (before.counter, before.step) == (after.counter, after.step), "nothing else makes them differ"
    assert one.ask(2) != other.ask(2)
    one.run_for(Time(BEACON_MS, 0))
    other.run_for(Time(BEACON_MS, 0))
    assert one.beacons != other.beacons
    other.become(one)
    assert one.ask(3) == other.ask(3)


def test_entropy_changes_what_is_written_too() -> None:
    twins = [Twin(1.0, Dice(seed)) for seed in range(8)]
    for twin in twins:
        twin.dirty[:] = bytes(PAGES)
        twin.ask(1)
        assert twin.check() == twin.machine.registers, "each is whole"
        assert 2 <= sum(twin.dirty) <= 1 + DIVERGENT_STEPS_MAX
    assert len({bytes(twin.dirty) for twin in twins}) > 1


@pytest.mark.parametrize("probability", [0.003, 0.05, 0.5])
def test_so_many_answers_diverge(probability: float) -> None:
    asked = 20_000
    twin = Twin(probability, Dice(7))
    draws = [twin.ask(0).draws for _ in range(asked)]
    expected = asked * probability
    assert abs(draws[-1] - expected) < 4 * math.sqrt(expected * (1 - probability))
    assert all(after - before in (0, 1) for before, after in zip([0, *draws], draws, strict=False))


def test_none_or_all_diverge_at_the_ends_of_the_scale() -> None:
    assert Twin(0.0, no_entropy).ask(1).draws == 0
    for word in (0, WORD_MAX):
        always = Twin(1.0, lambda word=word: word)  # type: ignore[misc]
        assert [always.ask(0).draws for _ in range(3)] == [1, 2, 3]
    with pytest.raises(InvariantError):
        Twin(0.5, no_entropy).ask(1)
    with pytest.raises(InvariantError, match="probability"):
        Twin(1.5, Dice(1))


def test_arp_and_what_is_not_answered_do_not_diverge() -> None:
    twin = Twin(1.0, Dice(1))
    twin.take(arp_request(PEERS[0]))
    twin.take(OWN.mac + bytes(60))
    assert twin.machine.registers == Registers(SEED, frames_in=2)
