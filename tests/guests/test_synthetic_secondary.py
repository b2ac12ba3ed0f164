"""Two synthetic guests that run side by side: one process is made equal to the other again and again."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_tools import QUIET, Relay, run, scan

from replicator.errors import ConfigError, GuestError
from replicator.guests.base import SecondaryVm
from replicator.guests.synthetic import SyntheticConfig, SyntheticGuest, check_ram_file
from replicator.guests.synthetic_frames import ONCE_FLAG, WORK_FLAG, decode_reply
from replicator.guests.synthetic_machine import Walk
from replicator.service.guest_kit import SyntheticKit, load_kit

BUSY = replace(QUIET, ram_bytes=256 * 4096, steps_per_ms=5, beacon_ms=1)


class Side:
    """A guest, and who talks to it."""

    def __init__(self, guest: SecondaryVm, folder: Path) -> None:
        assert isinstance(guest, SyntheticGuest)
        self.guest = guest
        self.ram_path = folder / "ram"
        self.relay = Relay(*guest.nics)
        self.relay.connect()

    async def talk(self, requests: list[int]) -> tuple[list[bytes], list[bytes]]:
        """What it says until it has answered all, and said one beacon at least."""
        for sequence in requests:
            await self.relay.ask(sequence)
        return await self.relay.hear(beacons=1, answers=len(requests))

    async def end(self) -> None:
        self.relay.close()
        await self.guest.kill()


class Pair:
    """Both are paused at first, and equal."""

    def __init__(self, primary: Side, secondary: Side) -> None:
        self.primary = primary
        self.secondary = secondary

    async def run_with(self, requests: list[int]) -> list[tuple[list[bytes], list[bytes]]]:
        """Both run and are told the same; then they stand still again. (beacons, answers) of each."""
        sides = (self.primary, self.secondary)
        for side in sides:
            await side.guest.resume()
        said = [await side.talk(requests) for side in sides]
        for side in sides:
            await side.guest.pause()
            side.relay.read_empty()
        return said

    async def checkpoint(self) -> bytes:
        """As the service does it: of both, what either has written, then the state."""
        bitmap = self.primary.guest.ram.layout.new_bitmap()
        for side in (self.primary, self.secondary):
            side.guest.scan_dirty(bitmap)
        pfns = bitmap.pfns()
        pages = bytearray(len(pfns) * 4096)
        self.primary.guest.ram.gather(pfns, pages)
        self.secondary.guest.ram.scatter(pfns, pages)
        state = await self.primary.guest.save_device_state()
        await self.secondary.guest.reload(state)
        return state

    def differing_pages(self) -> list[int]:
        mine, others = self.primary.guest.ram, self.secondary.guest.ram
        pages = range(self.primary.guest.identity.ram_bytes // 4096)
        return [pfn for pfn in pages if mine.read_page(pfn) != others.read_page(pfn)]


@asynccontextmanager
async def pair_of(config: SyntheticConfig, folder: Path) -> AsyncIterator[Pair]:
    kit = SyntheticKit(config, has_nic=True)
    own, others = folder / "a", folder / "b"
    for side in (own, others):
        side.mkdir()
    guest = await kit.start(own / "ram", own)
    assert isinstance(guest, SyntheticGuest)
    try:
        await guest.pause()
        scan(guest)
        (others / "ram").write_bytes((own / "ram").read_bytes())
        state = await guest.save_device_state()
        secondary = await kit.start_secondary_vm(others / "ram", others, state)
    except BaseException:
        await guest.kill()
        raise
    pair = Pair(Side(guest, own), Side(secondary, others))
    try:
        yield pair
    finally:
        await pair.primary.end()
        await pair.secondary.end()


def test_one_process_is_reloaded_again_and_again(tmp_path: Path) -> None:
    async def body() -> None:
        async with pair_of(replace(BUSY, divergence=1.0), tmp_path) as pair:
            primary, secondary = pair.primary.guest, pair.secondary.guest
            pid = secondary.pid
            for number in range(20):
                await pair.run_with([ONCE_FLAG | number, number, WORK_FLAG | 3])
                assert pair.differing_pages(), "otherwise there is nothing to do"
                state = await pair.checkpoint()
                assert pair.differing_pages() == []
                assert await secondary.registers() == await primary.registers()
                assert await secondary.save_device_state() == state
            assert secondary.pid == pid
            assert check_ram_file(BUSY, pair.secondary.ram_path).counter == 40

    run(body())


def test_twins_answer_byte_by_byte_alike(tmp_path: Path) -> None:
    async def body() -> None:
        async with pair_of(BUSY, tmp_path) as pair:
            for number in range(5):
                requests = [number, ONCE_FLAG | 5, WORK_FLAG | 2] * 10
                (beacons, answers), (other_beacons, other_answers) = await pair.run_with(requests)
                assert answers == other_answers
                common = min(len(beacons), len(other_beacons))
                assert beacons[:common] == other_beacons[:common]
                await pair.checkpoint()

    run(body())


def test_twins_that_diverge_say_different_things(tmp_path: Path) -> None:
    async def body() -> None:
        async with pair_of(replace(QUIET, beacon_ms=1, divergence=1.0), tmp_path) as pair:
            (_, answers), (_, other_answers) = await pair.run_with([1])
            mine, others = decode_reply(answers[0]), decode_reply(other_answers[0])
            assert mine is not None and others is not None
            assert mine.noise != others.noise
            assert (mine.sequence, mine.counter) == (others.sequence, others.counter) == (1, 1)

    run(body())


def test_tracking_goes_on_through_reloads(tmp_path: Path) -> None:
    async def body() -> None:
        async with pair_of(QUIET, tmp_path) as pair:
            guest, walk = pair.secondary.guest, Walk(QUIET.seed, QUIET.working_set)
            assert scan(guest) == [], "tracking begins before the guest runs"
            state = await pair.primary.guest.save_device_state()
            for steps in (4, 6):
                await guest.step(steps)
                guest.ram.scatter(guest.ram.layout.pfns(), pair.primary.ram_path.read_bytes())
                await guest.reload(state)
            written = {0} | {walk.page_of(step) for step in range(1, 7)}
            assert set(scan(guest)) == written, "what was written before the reload is still to be told"
            assert scan(guest) == [], "neither the load nor what was put into the RAM counts"
            await guest.step(2)
            assert scan(guest) == sorted({0, walk.page_of(1), walk.page_of(2)})

    run(body())


def test_the_secondary_goes_on_alone(tmp_path: Path) -> None:
    async def body() -> None:
        async with pair_of(BUSY, tmp_path) as pair:
            await pair.run_with([1, 2, 3])
            await pair.checkpoint()
            await pair.run_with([4, 5])
            await pair.primary.guest.kill()
            await pair.secondary.guest.resume()
            _, answers = await pair.secondary.talk([6])
            reply = decode_reply(answers[0])
            assert reply is not None and (reply.sequence, reply.counter) == (6, 6)
            await pair.secondary.guest.pause()
            assert check_ram_file(BUSY, pair.secondary.ram_path).counter == 6

    run(body())


def test_what_cannot_be_reloaded_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        async with pair_of(QUIET, tmp_path) as pair:
            guest = pair.secondary.guest
            state = await guest.save_device_state()
            await guest.resume()
            with pytest.raises(GuestError, match="not paused"):
                await guest.reload(state)
            await guest.pause()
            await guest.step(7)
            with pytest.raises(GuestError, match="RAM is at step 7, the device state at step 0"):
                await guest.reload(state)
            with pytest.raises(GuestError, match="not the state"):
                await guest.reload(bytes(4096))

    run(body())


def test_a_secondary_that_cannot_be_loaded_leaves_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async def attempt() -> None:
            with pytest.raises(GuestError, match="not the state"):
                kit = SyntheticKit(QUIET, has_nic=True)
                await kit.start_secondary_vm(tmp_path / "ram", tmp_path, bytes(4096))

        await attempt()
        before = len(os.listdir("/proc/self/fd"))
        await attempt()
        assert len(os.listdir("/proc/self/fd")) == before
        assert not (tmp_path / "nic0.guest").exists()

    run(body())


@pytest.mark.parametrize("divergence", ["1.5", "-0.1", "nan", '"often"'])
def test_a_divergence_that_is_no_probability_is_refused(tmp_path: Path, divergence: str) -> None:
    path = tmp_path / "guest.toml"
    path.write_text(f'kind = "synthetic"\ndivergence = {divergence}\n')
    with pytest.raises(ConfigError, match="divergence"):
        load_kit(path)


def test_the_guest_file_says_how_much_it_diverges(tmp_path: Path) -> None:
    async def body() -> None:
        path = tmp_path / "guest.toml"
        path.write_text('kind = "synthetic"\nmemory_mib = 1\nsteps_per_ms = 0\ndivergence = 1\n')
        kit = load_kit(path)
        guest = await kit.start(tmp_path / "ram", tmp_path)
        side = Side(guest, tmp_path)  # type: ignore[arg-type]
        await side.relay.ask(1)
        assert (await side.relay.next_reply()).draws == 1
        await side.end()

    run(body())
