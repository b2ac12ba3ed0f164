"""The QEMU adapter with a real Linux guest: checkpoints, take-over, and every way in which a guest or QEMU can end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from qemu_live import Golden, Replica, Wire, make_config, make_golden

from replicator import urgency
from replicator.demo.guest_scripts import COMMAND_PORT
from replicator.errors import GuestError
from replicator.guests.base import Died, GuestEvent, Panicked, PoweredOff, Reset
from replicator.guests.qemu_config import DiskConfig
from replicator.guests.qemu_guest import QemuGuest, start_guest
from replicator.guests.qemu_launch import MONITOR_THREAD, identify_guest
from replicator.guests.qemu_process import PID_FILE, read_start_time
from replicator.guests.qemu_standby import QemuStandby
from replicator.memory import Segment, pfn_array
from replicator.units import PAGE_SIZE

pytestmark = pytest.mark.live

EVENT_TIMEOUT_S = 60.0


@pytest.fixture(scope="session")
def shm() -> Iterator[Path]:
    """A directory on tmpfs, where RAM files belong."""
    folder = Path(tempfile.mkdtemp(prefix="replicator-live-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session", params=[1, 2], ids=["1cpu", "2cpus"])
def any_golden(request: pytest.FixtureRequest, shm: Path) -> Golden:
    folder = shm / f"golden-{request.param}"
    folder.mkdir()
    return asyncio.run(make_golden(make_config(request.param), folder))


@pytest.fixture(scope="session")
def golden(shm: Path) -> Golden:
    folder = shm / "golden"
    folder.mkdir()
    return asyncio.run(make_golden(make_config(), folder))


@pytest.fixture
def place(shm: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="test-", dir=shm))
    yield folder
    shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def awake(golden: Golden, place: Path) -> AsyncIterator[tuple[QemuGuest, Wire]]:
    guest = await golden.wake(place / "ram", place / "run")
    try:
        with Wire(guest.nics[0]) as wire:
            yield guest, wire
    finally:
        await guest.kill()


async def next_event(guest: QemuGuest) -> GuestEvent:
    async for event in guest.events():
        return event
    raise AssertionError("the events ended")


async def expect_event(guest: QemuGuest) -> GuestEvent:
    return await asyncio.wait_for(next_event(guest), EVENT_TIMEOUT_S)


async def expect_no_more_events(guest: QemuGuest) -> None:
    async with asyncio.timeout(EVENT_TIMEOUT_S):
        assert [event async for event in guest.events()] == []


def test_checkpoints_and_take_over(any_golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(any_golden, place) as (guest, wire):
            standby = QemuStandby(any_golden.config, place / "run-b")
            replica = Replica(place / "replica", guest)
            await standby.start(replica.path)
            assert standby.identity == guest.identity
            before, _ = await wire.count("x")
            assert replica.synchronize() == guest.ram.layout.pages
            for number in range(1, 21):
                assert await wire.count("x") == (before + number, number + 1)
                assert 0 < await replica.checkpoint() < guest.ram.layout.pages
            assert guest.tracker_name == "uffd"
            await replica.checkpoint(resume=False)
            assert replica.equals_guest()
            await guest.kill()
            survivor = await standby.activate(replica.state)
            try:
                with Wire(survivor.nics[0]) as other_wire:
                    await survivor.resume()
                    assert await other_wire.count("x") == (before + 21, 22)
            finally:
                await survivor.kill()
                replica.close()

    asyncio.run(scenario())


def test_survivor_is_tracked_and_taken_over_again(golden: Golden, place: Path) -> None:
    """A -> B -> A': the standby's userfaultfd works once it is the primary."""

    async def scenario() -> None:
        guest = await golden.wake(place / "ram-0", place / "run-0")
        total = 1
        for turn in range(1, 4):
            with Wire(guest.nics[0]) as wire:
                replica = Replica(place / f"ram-{turn}", guest)
                standby = QemuStandby(golden.config, place / f"run-{turn}")
                await standby.start(replica.path)
                replica.synchronize()
                for _ in range(6):
                    total += 1
                    assert (await wire.count("y"))[0] == total
                    await replica.checkpoint()
                assert guest.tracker_name == "uffd"
                await replica.checkpoint(resume=False)
                await guest.kill()
                guest = await standby.activate(replica.state)
                await guest.resume()
                replica.close()
        with Wire(guest.nics[0]) as wire:
            assert await wire.count("y") == (total + 1, total)
        await guest.kill()

    asyncio.run(scenario())


def test_a_paused_guest_writes_nothing(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (guest, wire):
            bitmap = guest.ram.layout.new_bitmap()
            guest.scan_dirty(bitmap)
            await wire.command("dirty 8")
            await guest.pause()
            bitmap.clear_all()
            assert guest.scan_dirty(bitmap) > 0
            state = await guest.save_device_state()
            bitmap.clear_all()
            assert guest.scan_dirty(bitmap) == 0
            assert await guest.query_status() == "paused"
            assert len(await guest.save_device_state()) == len(state)
            await guest.pause()
            await guest.resume()
            await wire.command("ping")

    asyncio.run(scenario())


def test_a_guest_goes_on_by_itself_once_its_state_is_saved(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (guest, wire):
            for _ in range(3):
                await guest.pause()
                whole = await guest.save_device_state()
                assert len(await guest.save_device_state(runs_on=True)) == len(whole)
                await wire.command("ping")
                assert await guest.query_status() == "running"
                await guest.resume()
                await wire.command("ping")

    asyncio.run(scenario())


def test_pauses_without_a_save_do_not_confuse_the_monitor(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (guest, wire):
            for _ in range(10):
                await guest.pause()
                await guest.resume()
            await guest.pause()
            await guest.pause()
            assert (await guest.save_device_state()).startswith(b"QEVM")
            await guest.resume()
            await wire.command("ping")

    asyncio.run(scenario())


def test_the_thread_that_reads_the_monitors_runs_in_real_time(
    golden: Golden, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> list[str]:
        async with awake(golden, place) as (guest, _):
            tasks = Path(f"/proc/{guest.pid}/task")
            return [
                (task / "comm").read_text().strip()
                for task in tasks.iterdir()
                if os.sched_getscheduler(int(task.name)) & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
            ]

    monkeypatch.setattr(urgency, "_begun", True)
    assert asyncio.run(scenario()) == [MONITOR_THREAD], "and no vCPU"


def test_reset_goes_through(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (guest, wire):
            pid = guest.pid
            assert (await wire.count("z"))[1] == 1
            wire.send(COMMAND_PORT, "reboot")
            assert await expect_event(guest) == Reset()
            await wire.wait_ready()
            assert await wire.count("z") == (1, 1)  # another life of the same machine
            assert guest.pid == pid
            await guest.reset()
            assert await expect_event(guest) == Reset()

    asyncio.run(scenario())


def test_power_off(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (guest, wire):
            wire.send(COMMAND_PORT, "poweroff")
            assert await expect_event(guest) == PoweredOff()
            await expect_no_more_events(guest)
            assert await guest.query_status() == "shutdown"
            with pytest.raises(GuestError, match="[Rr]esetting the Virtual Machine is required"):
                await guest.resume()

    asyncio.run(scenario())


def test_panic(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (guest, wire):
            wire.send(COMMAND_PORT, "crash")
            event = await expect_event(guest)
            assert isinstance(event, Panicked)
            assert "panicked" in event.reason
            assert await guest.query_status() == "guest-panicked"

    asyncio.run(scenario())


def test_death_of_the_process(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (guest, _):
            bitmap = guest.ram.layout.new_bitmap()
            guest.scan_dirty(bitmap)
            os.kill(guest.pid, signal.SIGKILL)
            assert await expect_event(guest) == Died("killed by SIGKILL")
            await expect_no_more_events(guest)
            for refused in (guest.pause, guest.save_device_state, guest.resume, guest.reset, guest.shutdown):
                with pytest.raises(GuestError):
                    await refused()
            with pytest.raises(GuestError, match="is gone"):
                guest.scan_dirty(bitmap)

    asyncio.run(scenario())


def test_death_while_an_answer_is_awaited(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (guest, _):
            os.kill(guest.pid, signal.SIGSTOP)
            pausing = asyncio.create_task(guest.pause())
            await asyncio.sleep(0)
            assert not pausing.done()
            os.kill(guest.pid, signal.SIGKILL)
            with pytest.raises(GuestError, match="out of reach"):
                await asyncio.wait_for(pausing, EVENT_TIMEOUT_S)

    asyncio.run(scenario())


def test_kill_is_no_death_and_leaves_nothing(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (guest, _):
            await asyncio.gather(guest.kill(), guest.kill())
            await expect_no_more_events(guest)
            assert read_start_time(guest.pid) is None
            assert {path.name for path in (place / "run").iterdir()} == {"qemu.log", "nic0.relay"}

    asyncio.run(scenario())


def test_files_belong_to_their_owner_alone(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        ram = place / "fresh-ram"
        guest = await start_guest(golden.config, ram, place / "run", paused=True)
        try:
            assert (place / "run").stat().st_mode & 0o777 == 0o700
            names = {path.name for path in (place / "run").iterdir()}
            assert names == {"qemu.log", PID_FILE, "nic0.guest"}
            for path in [ram, *(place / "run").iterdir()]:
                assert path.stat().st_mode & 0o077 == 0, path
        finally:
            await guest.kill()

    asyncio.run(scenario())


def test_wrong_device_state_is_refused_in_qemus_words(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        for index, state in enumerate((b"nonsense" * 100, golden.state[: len(golden.state) // 2])):
            shutil.copyfile(golden.ram_path, place / "ram")
            standby = QemuStandby(golden.config, place / f"run-{index}")
            await standby.start(place / "ram")
            with pytest.raises(GuestError, match="QEMU refuses the device state: .+"):
                await standby.activate(state)
            assert not standby.is_alive
            await standby.kill()

    asyncio.run(scenario())


def test_standby_writes_no_page_and_may_be_ended(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        shutil.copyfile(golden.ram_path, place / "ram")
        standby = QemuStandby(golden.config, place / "run")
        with pytest.raises(GuestError, match="not started"):
            await standby.activate(golden.state)
        with pytest.raises(GuestError, match="No such file"):
            await standby.start(place / "none")
        await standby.start(place / "ram")
        assert standby.is_alive
        assert (place / "ram").read_bytes() == golden.ram_path.read_bytes()
        await standby.kill()
        assert not standby.is_alive
        with pytest.raises(GuestError, match="was ended"):
            await standby.activate(golden.state)

    asyncio.run(scenario())


def test_qemu_that_cannot_start_says_why(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        config = dataclasses.replace(golden.config, cpu="no-such-cpu")
        with pytest.raises(GuestError, match="QEMU ended: .*no-such-cpu"):
            await start_guest(config, place / "ram", place / "run")
        assert {path.name for path in (place / "run").iterdir()} == {"qemu.log"}

    asyncio.run(scenario())


def test_leftover_of_an_earlier_run_is_ended(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (old, _):
            new = await start_guest(golden.config, place / "new-ram", place / "run", paused=True)
            assert isinstance(await expect_event(old), Died)
            await old.kill()
            assert read_start_time(new.pid) is not None
            assert (place / "run" / PID_FILE).read_text().startswith(f"{new.pid} ")
            await new.kill()

    asyncio.run(scenario())


def test_identity_can_be_asked_without_a_guest(golden: Golden, place: Path) -> None:
    async def scenario() -> None:
        async with awake(golden, place) as (guest, _):
            assert await identify_guest(golden.config, place / "identify") == guest.identity
            disk = place / "disk.raw"
            disk.write_bytes(b"one" + bytes(1 << 20))
            config = dataclasses.replace(golden.config, vcpus=2, disks=(DiskConfig(disk),))
            other = await identify_guest(config, place / "identify")
            assert other.machine != guest.identity.machine
            disk.write_bytes(b"two" + bytes(1 << 20))
            changed = await identify_guest(config, place / "identify")
            assert changed.machine == other.machine
            assert [name for name, _ in changed.disks] == ["disk0", "firmware", "kernel", "initrd"]
            assert [one == two for one, two in zip(other.disks, changed.disks, strict=True)] == [
                False,
                True,
                True,
                True,
            ]

    asyncio.run(scenario())


def test_layout_above_the_hole(place: Path) -> None:
    """4 GiB on q35, sparse and never run: what we write to frame N is what QEMU shows at that address."""

    async def scenario() -> None:
        config = dataclasses.replace(make_config(), machine="q35", memory_mib=4096)
        guest = await start_guest(config, place / "ram", place / "run", paused=True, reserve=False)
        try:
            assert guest.identity.layout == (Segment(0, 0, 0x80000), Segment(0x100000, 0x80000, 0x80000))
            for pfn in (0x7FFFF, 0x100000, 0x17FFFF):
                guest.ram.scatter(pfn_array([pfn]), pfn.to_bytes(8, "little") * (PAGE_SIZE // 8))
                shown = await guest.ask_human(f"xp /1gx {pfn * PAGE_SIZE:#x}")
                assert int(shown.split()[-1], 16) == pfn
        finally:
            await guest.kill()

    asyncio.run(scenario())
