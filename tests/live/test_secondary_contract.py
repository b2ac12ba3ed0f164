"""What every guests.base.SecondaryVm must do: QEMU's in both ways, and the synthetic one. A new kind adds a line."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from secondary_pair import (
    FIRST_WAYS,
    OpenPair,
    Pair,
    copy_pages,
    find_differing,
    qemu_pair,
    read_ram,
    synthetic_pair,
)

from replicator.demo.golden import ensure_golden, guest_config
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.errors import GuestError
from replicator.guests.base import Died
from replicator.memory import pfn_array

TIMEOUT_S = 60.0
KINDS = [
    "synthetic",
    *(pytest.param(way, marks=pytest.mark.live) for way in FIRST_WAYS),
]


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="replicator-live-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(params=KINDS)
def open_pair(request: pytest.FixtureRequest) -> OpenPair:
    if request.param == "synthetic":
        return synthetic_pair
    image = ensure_guest_image(default_cache_dir(), lambda _line: None)
    golden = ensure_golden(image, default_cache_dir(), guest_config(image))
    return lambda place: qemu_pair(golden, place, FIRST_WAYS[request.param])


def run(open_pair: OpenPair, place: Path, scenario: Callable[[Pair], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S), open_pair(place) as pair:
            await scenario(pair)

    asyncio.run(bounded())


def scan(pair: Pair) -> set[int]:
    bitmap = pair.secondary.ram.layout.new_bitmap()
    assert pair.secondary.scan_dirty(bitmap) == bitmap.count()
    return set(bitmap.pfns())


def file_pages(pair: Pair, pfns: set[int]) -> set[int]:
    """Numbers in what `read_ram` gives."""
    place = {pfn: number for number, pfn in enumerate(pair.secondary.ram.layout.pfns())}
    return {place[pfn] for pfn in pfns}


def test_it_is_equal_at_first_and_after_every_checkpoint(open_pair: OpenPair, place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        assert pair.secondary.identity == pair.primary.identity
        assert pair.count_differing() == 0
        for _ in range(5):
            asked_primary, asked_secondary = await pair.run_apart(times=20)
            # Equal at the checkpoint before.
            assert asked_secondary == asked_primary + 1
            assert pair.count_differing() > 0
            copied = await pair.checkpoint()
            assert 0 < copied < pair.primary.ram.layout.pages
            assert pair.count_differing() == 0
            saved = await pair.secondary.save_device_state()
            assert pair.secondary.read_clock(saved) == pair.primary.read_clock(pair.state)

    run(open_pair, place, scenario)


def test_the_first_scan_does_not_report_every_page(open_pair: OpenPair, place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        assert len(scan(pair)) < pair.secondary.ram.layout.pages // 2
        assert scan(pair) == set()

    run(open_pair, place, scenario)


def test_every_page_that_changed_is_reported(open_pair: OpenPair, place: Path) -> None:
    """By the guest or by a load, before the first reload and after others."""

    async def scenario(pair: Pair) -> None:
        for _ in range(3):
            before = read_ram(pair.secondary.ram)
            await pair.run_apart(times=5)
            changed = find_differing(before, read_ram(pair.secondary.ram))
            reported = scan(pair)
            assert changed
            assert changed <= file_pages(pair, reported)
            dirty = pair.primary.ram.layout.new_bitmap()
            pair.primary.scan_dirty(dirty)
            copy_pages(pair.primary.ram, pair.secondary.ram, pfn_array(sorted({*dirty.pfns(), *reported})))
            await pair.secondary.reload(await pair.primary.save_device_state())
            assert pair.count_differing() == 0

    run(open_pair, place, scenario)


def test_it_is_paused_after_a_reload(open_pair: OpenPair, place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        await pair.run_apart(times=1)
        await pair.checkpoint()
        scan(pair)
        before = read_ram(pair.secondary.ram)
        first = await pair.secondary.save_device_state()
        second = await pair.secondary.save_device_state()
        assert pair.secondary.read_clock(first) == pair.secondary.read_clock(second)
        assert read_ram(pair.secondary.ram) == before
        assert scan(pair) == set()

    run(open_pair, place, scenario)


def test_it_may_be_reloaded_without_having_run(open_pair: OpenPair, place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        for _ in range(3):
            await pair.secondary.reload(pair.state)
        asked_primary, asked_secondary = await pair.run_apart(times=3)
        assert asked_secondary == asked_primary + 1

    run(open_pair, place, scenario)


def test_pages_written_and_not_asked_for_before_a_reload_are_told_later(
    open_pair: OpenPair, place: Path
) -> None:
    async def scenario(pair: Pair) -> None:
        before = read_ram(pair.secondary.ram)
        await pair.secondary.resume()
        await pair.secondary_talk.ask("something", 5)
        await pair.secondary.pause()
        changed = find_differing(before, read_ram(pair.secondary.ram))
        pfns = pair.secondary.ram.layout.pfns()
        copy_pages(
            pair.primary.ram, pair.secondary.ram, pfn_array(pfns[number] for number in sorted(changed))
        )
        await pair.secondary.reload(pair.state)
        assert changed <= file_pages(pair, scan(pair))

    run(open_pair, place, scenario)


def test_the_paths_of_its_nics_stay(open_pair: OpenPair, place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        nics = pair.secondary.nics
        for _ in range(3):
            await pair.run_apart(times=1)
            await pair.checkpoint()
            assert pair.secondary.nics == nics
            assert all(nic.guest_path.is_socket() for nic in nics)

    run(open_pair, place, scenario)


def test_it_goes_on_as_a_primary(open_pair: OpenPair, place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        await pair.run_apart(times=2)
        await pair.checkpoint()
        await pair.secondary.resume()
        asked = await pair.secondary_talk.ask("x", 1)
        await pair.primary.kill()
        for number in range(1, 4):
            assert await pair.secondary_talk.ask("x", 1) == asked + number
            await pair.secondary.pause()
            assert 0 < len(scan(pair)) < pair.secondary.ram.layout.pages
            assert await pair.secondary.save_device_state()
            await pair.secondary.resume()

    run(open_pair, place, scenario)


def test_its_death_is_an_event_and_ends_all(open_pair: OpenPair, place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        await pair.run_apart(times=1)
        await pair.checkpoint()
        os.kill(pair.secondary.pid, signal.SIGKILL)
        events = [event async for event in pair.secondary.events()]
        assert [type(event) for event in events] == [Died]
        with pytest.raises(GuestError):
            await pair.secondary.reload(pair.state)

    run(open_pair, place, scenario)


def test_reloads_are_no_events_and_a_kill_is_none(open_pair: OpenPair, place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        for _ in range(3):
            await pair.run_apart(times=1)
            await pair.checkpoint()
        await asyncio.gather(pair.secondary.kill(), pair.secondary.kill())
        assert [event async for event in pair.secondary.events()] == []
        with pytest.raises(GuestError):
            await pair.secondary.reload(pair.state)

    run(open_pair, place, scenario)


def test_a_state_that_is_none_is_refused(open_pair: OpenPair, place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        with pytest.raises(GuestError):
            await pair.secondary.reload(b"nonsense" * 100)
        await pair.secondary.kill()

    run(open_pair, place, scenario)
