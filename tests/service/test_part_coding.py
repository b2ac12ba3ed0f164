"""Parts from the primary's encoder through the secondary's rebuilding, over replicas that live through several epochs."""

from __future__ import annotations

import asyncio
import os
import random
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.errors import EpochError
from replicator.limits import BATCH_PAGES_MAX
from replicator.memory.bases import BaseCache
from replicator.memory.pages import GuestLayout, GuestRam
from replicator.service.epoch_writer import copy_part, part_bytes
from replicator.service.part_decoder import PartDecoder
from replicator.service.part_encoder import CodedPart, EpochEncoder, Part, PartEncoder
from replicator.service.part_rooms import PartRooms
from replicator.units import PAGE_SIZE
from replicator.wire import recording
from replicator.wire.coded_part import BLOCKS, PAGES, PLAIN
from replicator.wire.session import EpochPart

LAYOUT = GuestLayout.with_hole(24, low_pages=16, high_pfn=64)
ROOMS = PartRooms(part_bytes(BATCH_PAGES_MAX))
FRAMES = list(LAYOUT.pfns())


class Pair:
    """A guest's RAM, its replica, and the encoder between them."""

    def __init__(self, guest: GuestRam, replica: GuestRam, bases_pages: int) -> None:
        self.guest, self.replica = guest, replica
        self.encoder = PartEncoder(BaseCache(bases_pages, LAYOUT.pfn_limit))

    def write(self, pfn: int, text: bytes, offset: int = 0) -> None:
        page = bytearray(self.guest.read_page(pfn))
        page[offset : offset + len(text)] = text
        self.guest.scatter(array("Q", [pfn]), page)

    def send(
        self, epoch: EpochEncoder, batches: Sequence[Sequence[int]], *, full: bool = False
    ) -> list[bytes]:
        """What the secondary rebuilds of one round of an epoch; it must be what was put in."""
        parts = [copy_part(self.guest, array("Q", batch), ROOMS.take()) for batch in batches]
        rebuilt = []
        for index, coded in enumerate(asyncio.run(epoch.encode(parts))):
            epoch.note_sent(coded)
            ram = None if full else self.replica
            rebuilt.append(
                bytes(PartDecoder().rebuild(header_of(coded, index), memoryview(coded.payload), ram))
            )
        assert rebuilt == [bytes(part.data) for part in parts]
        return rebuilt

    def commit(self, rebuilt: Sequence[bytes]) -> None:
        for part in rebuilt:
            pfns, offset = recording.parse_page_data_header(part, LAYOUT.pfn_limit)
            self.replica.scatter(pfns, part[offset:])


def header_of(coded: CodedPart, index: int = 0) -> EpochPart:
    return EpochPart(bytes(16), 1, index, len(coded.payload), coded.encoding, coded.part_bytes, coded.check)


@contextmanager
def make_pair(bases_pages: int = 8) -> Iterator[Pair]:
    fds = [os.memfd_create(name) for name in ("guest", "replica")]
    for fd in fds:
        os.ftruncate(fd, LAYOUT.file_bytes)
    with GuestRam(fds[0], LAYOUT) as guest, GuestRam(fds[1], LAYOUT) as replica:
        for fd in fds:
            os.close(fd)
        yield Pair(guest, replica, bases_pages)


def encode_one(epoch: EpochEncoder, part: Part) -> CodedPart:
    (coded,) = asyncio.run(epoch.encode([part]))
    return coded


def random_page(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE_SIZE)


@given(st.integers(0, 1 << 32), st.sampled_from([1, 5, 24]))
@settings(max_examples=60, deadline=None)
def test_replicas_follow_through_epochs_of_all_kinds(seed: int, bases_pages: int) -> None:
    rng = random.Random(seed)
    with make_pair(bases_pages) as pair:
        pair.commit(pair.send(pair.encoder.open(full=True), [FRAMES[:10], FRAMES[10:]], full=True))
        for _ in range(12):
            epoch = pair.encoder.open(full=False)
            rebuilt = []
            for _ in range(rng.choice((1, 1, 3))):
                frames = sorted(rng.sample(FRAMES, rng.randint(1, 12)))
                for pfn in frames:
                    size = rng.choice((0, 1, 9, 300, PAGE_SIZE))
                    text = bytes(size) if rng.random() < 0.2 else rng.randbytes(size)
                    pair.write(pfn, text, rng.randint(0, PAGE_SIZE - size))
                rebuilt += pair.send(epoch, [frames[:5], frames[5:]] if len(frames) > 5 else [frames])
            if rng.random() < 0.3:
                pair.encoder.forget()  # it got lost: all that was in it is owed again
                rebuilt = pair.send(pair.encoder.open(full=False), [FRAMES])
            pair.commit(rebuilt)
            for pfn in FRAMES:
                if pair.guest.read_page(pfn) != pair.replica.read_page(pfn):
                    pytest.fail(f"frame {pfn} differs")


def test_a_small_change_travels_in_few_bytes_and_a_page_that_is_there_already_in_fewer() -> None:
    with make_pair() as pair:
        pair.write(3, random_page(1))
        pair.commit(pair.send(pair.encoder.open(full=False), [[3]]))
        pair.write(3, b"changed", 100)
        changed = encode_one(
            pair.encoder.open(full=False), copy_part(pair.guest, array("Q", [3]), ROOMS.take())
        )
        assert changed.encoding == PAGES and len(changed.payload) < 60
        pair.commit(pair.send(pair.encoder.open(full=False), [[3]]))
        equal = encode_one(
            pair.encoder.open(full=False), copy_part(pair.guest, array("Q", [3]), ROOMS.take())
        )
        assert len(equal.payload) < len(changed.payload)


def test_what_does_not_shrink_travels_as_it_is() -> None:
    with make_pair() as pair:
        pair.write(3, random_page(1))
        coded = encode_one(
            pair.encoder.open(full=False), copy_part(pair.guest, array("Q", [3]), ROOMS.take())
        )
        assert (coded.encoding, coded.part_bytes, bytes(coded.payload)) == (PLAIN, 0, bytes(coded.part.data))


def test_a_device_state_travels_in_blocks() -> None:
    encoder = PartEncoder(None)
    state = memoryview(recording.checkpoint_epilogue(bytes(9000) + b"state" * 100))
    coded = encode_one(encoder.open(full=False), Part(state))
    assert coded.encoding == BLOCKS and len(coded.payload) < 1000
    assert PartDecoder().rebuild(header_of(coded), memoryview(coded.payload), None) == state


def test_a_page_carried_before_in_the_same_epoch_has_no_base() -> None:
    """The secondary keeps the parts of an epoch apart: its RAM still has what was there before the first of them."""
    with make_pair() as pair:
        pair.write(3, random_page(1))
        pair.commit(pair.send(pair.encoder.open(full=False), [[3]]))
        epoch = pair.encoder.open(full=False)
        pair.write(3, random_page(2))
        pair.send(epoch, [[3]])
        pair.write(3, b"again")
        pair.commit(pair.send(epoch, [[3]]))
        pair.write(3, b"later", 50)
        assert (
            len(
                encode_one(
                    pair.encoder.open(full=False), copy_part(pair.guest, array("Q", [3]), ROOMS.take())
                ).payload
            )
            < 60
        )


def test_another_base_than_that_of_the_sender_is_refused() -> None:
    with make_pair() as pair:
        pair.write(3, random_page(1))
        pair.send(pair.encoder.open(full=False), [[3]])  # and never committed
        pair.write(3, b"changed")
        with pytest.raises(EpochError, match="damaged, or made upon other bases"):
            pair.send(pair.encoder.open(full=False), [[3]])


@given(st.integers(0, 1 << 32))
@settings(max_examples=200, deadline=None)
def test_damaged_parts_are_refused_or_mean_the_same(seed: int) -> None:
    rng = random.Random(seed)
    with make_pair() as pair:
        for pfn in FRAMES[:6]:
            pair.write(pfn, rng.randbytes(2000), 500)
        pair.commit(pair.send(pair.encoder.open(full=False), [FRAMES[:6]]))
        for pfn in FRAMES[:5]:
            pair.write(pfn, rng.randbytes(5), 700)
        coded = encode_one(
            pair.encoder.open(full=False), copy_part(pair.guest, array("Q", FRAMES[:8]), ROOMS.take())
        )
        damaged = bytearray(coded.payload)
        for _ in range(rng.choice((1, 3))):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.3:
            del damaged[rng.randrange(len(damaged)) :]
        header = replace(header_of(coded), payload_bytes=len(damaged))
        try:
            rebuilt = PartDecoder().rebuild(header, memoryview(damaged), pair.replica)
        except EpochError as error:
            assert "part 0 is refused" in str(error)
        else:
            # As of a page of zeros that is said to be as it was: it was zeros.
            assert rebuilt == coded.part.data


def test_a_frame_that_the_guest_has_not_is_refused() -> None:
    with make_pair() as pair:
        coded = encode_one(
            pair.encoder.open(full=False), copy_part(pair.guest, array("Q", [3]), ROOMS.take())
        )
        foreign = bytearray(coded.payload)
        foreign[4:8] = (40).to_bytes(4, "little")  # in the hole
        with pytest.raises(EpochError, match="0x28"):
            PartDecoder().rebuild(header_of(coded), memoryview(foreign), pair.replica)


def test_a_full_synchronisation_may_have_no_bases() -> None:
    with make_pair() as pair:
        pair.write(3, random_page(1))
        pair.commit(pair.send(pair.encoder.open(full=False), [[3]]))
        pair.write(3, b"changed")
        coded = encode_one(
            pair.encoder.open(full=False), copy_part(pair.guest, array("Q", [3]), ROOMS.take())
        )
        with pytest.raises(EpochError, match="refused"):
            PartDecoder().rebuild(header_of(coded), memoryview(coded.payload), None)
