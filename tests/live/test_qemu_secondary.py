"""A real Linux guest and its secondary's VM side by side: many checkpoints, and what only QEMU can do wrong."""

from __future__ import annotations

import asyncio
import shutil
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from secondary_pair import FIRST_WAYS, LinuxTalk, Pair, qemu_pair

from replicator.demo.golden import Golden, ensure_golden, guest_config, start_from_golden
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.errors import GuestError
from replicator.guests.base import Panicked, PoweredOff
from replicator.guests.qemu_process import PID_FILE, read_start_time
from replicator.guests.qemu_secondary import QemuSecondaryVm, QemuVmStarter
from replicator.guests.qemu_secondary_process import SecondaryProcess
from replicator.guests.qemu_secondary_ways import SNAPSHOT_LOAD, ReloadWay

pytestmark = pytest.mark.live

TIMEOUT_S = 100.0
CHECKPOINTS = 20
WAYS = tuple(FIRST_WAYS)


@pytest.fixture
def place() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="replicator-live-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


def make_golden(**hardware: int | str) -> Golden:
    image = ensure_guest_image(default_cache_dir(), lambda _line: None)
    return ensure_golden(image, default_cache_dir(), guest_config(image, **hardware))  # type: ignore[arg-type]


def run(golden: Golden, place: Path, way: str, scenario: Callable[[Pair], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT_S), qemu_pair(golden, place, FIRST_WAYS[way]) as pair:
            await scenario(pair)

    asyncio.run(bounded())


def its_vm(pair: Pair) -> QemuSecondaryVm:
    assert isinstance(pair.secondary, QemuSecondaryVm)
    return pair.secondary


@pytest.mark.parametrize("hardware", [{}, {"vcpus": 2}, {"machine": "q35"}], ids=["pc", "2cpus", "q35"])
@pytest.mark.parametrize("way", WAYS)
def test_many_checkpoints(way: str, hardware: dict[str, int | str], place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        vm = its_vm(pair)
        assert vm.way == way
        assert (vm.way_reason == "") == (way == SNAPSHOT_LOAD)
        await pair.run_apart()
        assert pair.count_differing() > 0
        for _ in range(CHECKPOINTS):
            await pair.run_apart()
            assert 0 < await pair.checkpoint() < pair.primary.ram.layout.pages
            assert pair.count_differing() == 0
        # The audit is over, and found nothing to complain about.
        assert vm.tracker_name == "uffd"
        asked_primary, asked_secondary = await pair.run_apart(times=1)
        assert asked_secondary == asked_primary + 1
        figures = sorted(pair.reload_ms)
        print(
            f"reload, {way} {hardware}: min {figures[0]:.1f}, median {statistics.median(figures):.1f}, "
            f"p95 {figures[round(0.95 * (len(figures) - 1))]:.1f}, max {figures[-1]:.1f} ms; "
            f"after the audit: median {statistics.median(pair.reload_ms[6:]):.1f} ms"
        )

    run(make_golden(**hardware), place, way, scenario)


@pytest.mark.parametrize("way", WAYS)
def test_a_survivor_goes_on_and_gets_a_secondary_of_its_own(way: str, place: Path) -> None:
    golden = make_golden()

    async def scenario(pair: Pair) -> None:
        await pair.run_apart(times=5)
        await pair.checkpoint()
        await pair.secondary.resume()
        asked = await pair.secondary_talk.ask("secondary", 1)
        await pair.primary.kill()
        await pair.secondary.pause()
        pair.secondary.scan_dirty(pair.secondary.ram.layout.new_bitmap())
        shutil.copyfile(place / "b-ram", place / "c-ram")
        state = await pair.secondary.save_device_state()
        starter = QemuVmStarter(golden.config, place / "c-ram", place / "c", first_way=FIRST_WAYS[way])
        third = await starter.start(state)
        talk = LinuxTalk(third.nics[0])
        try:
            next_pair = Pair(pair.secondary, third, pair.secondary_talk, talk, state)
            for number in range(1, 4):
                _, total = await next_pair.run_apart(times=1)
                assert total == asked + number + 1
                await next_pair.checkpoint()
                assert next_pair.count_differing() == 0
        finally:
            talk.close()
            await third.kill()

    run(golden, place, way, scenario)


def test_the_pool_is_the_way_out_even_of_a_process_that_died(place: Path) -> None:
    """What it wrote nobody can tell: the state and the RAM must be sent again, and then the pool is taken at once."""
    golden = make_golden()

    async def die(process: SecondaryProcess) -> ReloadWay:
        await process.machine.process.kill()
        raise GuestError("it died of the load")

    async def scenario() -> None:
        primary = await start_from_golden(golden, place / "a-ram", place / "a", paused=True)
        state = await primary.save_device_state()
        await primary.kill()
        starter = QemuVmStarter(golden.config, place / "a-ram", place / "b", first_way=die)
        with pytest.raises(GuestError, match="may have been written by a load that failed"):
            await starter.start(state)
        vm = await starter.start(state)
        assert (vm.way, vm.way_reason) == ("standby-pool", "it died of the load")
        await vm.resume()
        await vm.pause()
        await vm.reload(state)
        await vm.kill()
        await starter.close()
        assert list((place / "b").iterdir()) == []

    asyncio.run(scenario())


def test_a_panic_of_the_secondary_alone_is_undone_by_a_reload(place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        await pair.secondary.resume()
        assert isinstance(pair.secondary_talk, LinuxTalk)
        pair.secondary_talk.order("crash")
        async for event in pair.secondary.events():
            assert isinstance(event, Panicked)
            break
        await pair.secondary.pause()
        await pair.checkpoint()
        assert pair.count_differing() == 0
        asked_primary, asked_secondary = await pair.run_apart(times=2)
        assert asked_secondary == asked_primary + 1

    run(make_golden(), place, SNAPSHOT_LOAD, scenario)


@pytest.mark.parametrize("way", WAYS)
def test_a_powered_off_secondary_is_over(way: str, place: Path) -> None:
    async def scenario(pair: Pair) -> None:
        await pair.secondary.resume()
        assert isinstance(pair.secondary_talk, LinuxTalk)
        pair.secondary_talk.order("poweroff")
        assert [event async for event in pair.secondary.events()] == [PoweredOff()]
        await pair.secondary.pause()
        with pytest.raises(GuestError, match="has ended"):
            await pair.secondary.reload(pair.state)

    run(make_golden(), place, way, scenario)


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left_behind(way: str, place: Path) -> None:
    golden = make_golden()

    async def scenario() -> None:
        primary = await start_from_golden(golden, place / "a-ram", place / "a", paused=True)
        state = await primary.save_device_state()
        await primary.kill()
        shutil.copyfile(place / "a-ram", place / "b-ram")
        starter = QemuVmStarter(golden.config, place / "b-ram", place / "b", first_way=FIRST_WAYS[way])
        vm = await starter.start(state)
        await vm.reload(state)
        pids = [int(file.read_text().split()[0]) for file in (place / "b").rglob(PID_FILE)]
        assert vm.pid in pids
        await vm.kill()
        await vm.kill()
        assert [read_start_time(pid) for pid in pids] == [None] * len(pids)
        assert list((place / "b").iterdir()) == []

    asyncio.run(scenario())


def test_a_process_that_was_prepared_takes_the_state_or_ends(place: Path) -> None:
    golden = make_golden()

    async def scenario() -> None:
        primary = await start_from_golden(golden, place / "a-ram", place / "a", paused=True)
        state = await primary.save_device_state()
        await primary.kill()
        starter = QemuVmStarter(golden.config, place / "a-ram", place / "b")
        starter.prepare()
        starter.prepare()
        vm = await starter.start(state)
        assert len(list((place / "b").rglob(PID_FILE))) == 1
        await vm.kill()
        starter.prepare()
        await starter.close()
        await starter.close()
        assert list((place / "b").iterdir()) == []

    asyncio.run(scenario())


def test_a_start_that_fails_leaves_nothing_either(place: Path) -> None:
    golden = make_golden()

    async def scenario() -> None:
        shutil.copyfile(golden.ram_path, place / "ram")
        with pytest.raises(GuestError, match="QEMU refuses the device state"):
            await QemuVmStarter(golden.config, place / "ram", place / "b").start(b"nonsense" * 100)
        assert list((place / "b").iterdir()) == []
        with pytest.raises(GuestError, match="cannot use RAM file"):
            await QemuVmStarter(golden.config, place / "none", place / "b").start(b"")

    asyncio.run(scenario())
