"""The synthetic guest as a process, against the contract of guests.base."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_tools import QUIET, TIMEOUT_S, Relay, run, scan, with_nic

import replicator
from replicator.errors import GuestError
from replicator.guests.base import Died, GuestEvent, Panicked, PoweredOff, Reset
from replicator.guests.synthetic import SyntheticConfig, SyntheticGuest, SyntheticStandby, check_ram_file
from replicator.guests.synthetic_frames import (
    BEACON_SEQUENCE,
    ONCE_FLAG,
    WORK_FLAG,
)
from replicator.guests.synthetic_machine import Registers, Walk
from replicator.memory import ShadowTracker
from replicator.memory.pages import GuestLayout, GuestRam, Segment
from replicator.units import PAGE_SIZE

ROOT = Path(replicator.__file__).parent.parent


def frames_a_socket_holds() -> int:
    """Depends on the host's settings for datagram queues and send buffers."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        sender.setblocking(False)
        for count in range(1 << 20):
            try:
                sender.send(bytes(60))
            except BlockingIOError:
                return count
    raise AssertionError("the queue has no end")


async def collect(guest: SyntheticGuest) -> list[GuestEvent]:
    return [event async for event in guest.events()]


class Replica:
    """A RAM file that gets what a checkpoint contains."""

    def __init__(self, config: SyntheticConfig, path: Path) -> None:
        self.config = config
        self.path = path
        path.write_bytes(bytes(config.ram_bytes))
        self.ram = GuestRam(path, GuestLayout(config.segments))
        self.state = b""

    async def checkpoint(self, guest: SyntheticGuest) -> int:
        """One epoch as the service does it, but for the link. Returns the number of dirty pages."""
        await guest.pause()
        bitmap = guest.ram.layout.new_bitmap()
        guest.scan_dirty(bitmap)
        pfns = bitmap.pfns()
        pages = bytearray(len(pfns) * PAGE_SIZE)
        guest.ram.gather(pfns, pages)
        self.state = await guest.save_device_state()
        await guest.resume()
        self.ram.scatter(pfns, pages)
        return len(pfns)

    def check(self) -> Registers:
        registers = check_ram_file(self.config, self.path)
        assert self.state.startswith(registers.pack())
        return registers


def test_a_guest_starts_paused_or_running(tmp_path: Path) -> None:
    async def body() -> None:
        config = with_nic(replace(QUIET, beacon_ms=1), tmp_path)
        relay = Relay(*config.nics)
        guest = await SyntheticGuest.start(config, tmp_path / "ram", paused=True)
        assert relay.read_empty() == []
        await guest.resume()
        assert (await relay.next_reply()).sequence == BEACON_SEQUENCE
        assert (tmp_path / "ram").stat().st_mode & 0o777 == 0o600
        assert guest.nics[0].guest_path.stat().st_mode & 0o777 == 0o600
        assert guest.identity == config.identity
        assert guest.identity.macs == (config.mac,)
        await guest.kill()
        relay.close()

    run(body())


def test_the_first_scan_reports_all_and_the_next_ones_what_was_written() -> None:
    async def body() -> None:
        guest = await SyntheticGuest.start(QUIET, paused=True)
        assert scan(guest) == list(range(QUIET.pages))
        assert scan(guest) == []
        walk = Walk(QUIET.seed, QUIET.working_set)
        await guest.step(5)
        assert scan(guest) == sorted({0} | {walk.page_of(step) for step in range(1, 6)})
        assert scan(guest) == []
        await guest.kill()

    run(body())


def test_scans_agree_with_a_shadow_copy() -> None:
    async def body() -> None:
        guest = await SyntheticGuest.start(QUIET, paused=True)
        shadow = ShadowTracker(guest.ram)
        shadow.arm()
        for steps in (0, 1, 30, 200):
            await guest.step(steps)
            changed = guest.ram.layout.new_bitmap()
            shadow.scan(changed)
            found = scan(guest)
            assert set(changed.pfns()) <= set(found)
        shadow.close()
        await guest.kill()

    run(body())


def test_frames_behind_a_hole_are_named_as_the_guest_names_them() -> None:
    async def body() -> None:
        layout = (Segment(0, 0, 40), Segment(1000, 40, 24))
        guest = await SyntheticGuest.start(replace(QUIET, layout=layout), paused=True)
        everything = [*range(40), *range(1000, 1024)]
        assert scan(guest) == everything
        await guest.step(QUIET.pages * 2)
        assert scan(guest) == everything
        await guest.kill()

    run(body())


def test_every_checkpoint_of_a_running_guest_is_whole(tmp_path: Path) -> None:
    async def body() -> None:
        config = with_nic(replace(QUIET, ram_bytes=256 * PAGE_SIZE, steps_per_ms=5, beacon_ms=1), tmp_path)
        relay, replica = Relay(*config.nics), Replica(config, tmp_path / "replica")
        guest = await SyntheticGuest.start(config, tmp_path / "ram")
        steps, dirty = [], []
        for _ in range(8):
            relay.read_empty()  # said before the last checkpoint
            for _ in range(3):
                await relay.next_reply()
            dirty.append(await replica.checkpoint(guest))
            steps.append(replica.check().step)
        assert dirty[0] == config.pages
        assert min(dirty[1:]) > 1
        assert steps == sorted(set(steps))
        await guest.kill()
        relay.close()

    run(body())


def test_a_standby_goes_on_where_the_checkpoint_was(tmp_path: Path) -> None:
    async def body() -> None:
        replica = Replica(QUIET, tmp_path / "replica")
        standby = SyntheticStandby(QUIET)
        await standby.start(replica.path)
        guest = await SyntheticGuest.start(QUIET)
        await guest.step(100)
        await replica.checkpoint(guest)
        await guest.step(11)
        await guest.kill()
        survivor = await standby.activate(replica.state)
        await standby.kill()
        assert (await survivor.registers()).step == 100
        assert replica.check().step == 100
        assert (await survivor.step(300)).step == 400
        assert check_ram_file(QUIET, replica.path).step == 400
        assert scan(survivor) == list(range(QUIET.pages))
        await survivor.kill()

    run(body())


def test_a_standby_writes_nothing_before_it_is_activated(tmp_path: Path) -> None:
    async def body() -> None:
        path = tmp_path / "ram"
        content = os.urandom(QUIET.ram_bytes)
        path.write_bytes(content)
        standby = SyntheticStandby(QUIET)
        await standby.start(path)
        with pytest.raises(GuestError, match="not the state"):
            await standby.activate(bytes(4096))
        await standby.kill()
        assert path.read_bytes() == content

    run(body())


def test_a_torn_replica_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        replica = Replica(QUIET, tmp_path / "replica")
        guest = await SyntheticGuest.start(QUIET, paused=True)
        await replica.checkpoint(guest)
        await guest.pause()
        await guest.step(1)
        standby = SyntheticStandby(QUIET)
        await standby.start(replica.path)
        with pytest.raises(GuestError, match="RAM is at step 0, the device state at step 1"):
            await standby.activate(await guest.save_device_state())
        await standby.kill()
        await guest.kill()

    run(body())


def test_activation_works_once_and_after_a_start(tmp_path: Path) -> None:
    async def body() -> None:
        with pytest.raises(GuestError, match="not started"):
            await SyntheticStandby(QUIET).activate(b"")
        await SyntheticStandby(QUIET).kill()
        replica = Replica(QUIET, tmp_path / "replica")
        guest = await SyntheticGuest.start(QUIET, paused=True)
        await replica.checkpoint(guest)
        await guest.kill()
        standby = SyntheticStandby(QUIET)
        await standby.start(replica.path)
        survivor = await standby.activate(replica.state)
        with pytest.raises(GuestError, match="activated before"):
            await standby.activate(replica.state)
        await survivor.kill()

    run(body())


def test_a_paused_guest_neither_writes_nor_speaks(tmp_path: Path) -> None:
    async def body() -> None:
        config = with_nic(replace(QUIET, steps_per_ms=5, beacon_ms=1), tmp_path)
        relay = Relay(*config.nics)
        guest = await SyntheticGuest.start(config, tmp_path / "ram")
        relay.connect()
        await relay.next_reply()
        await guest.pause()
        relay.read_empty()
        before = (tmp_path / "ram").read_bytes()
        await relay.ask(1)
        registers = [await guest.registers() for _ in range(20)]
        assert len(set(map(repr, registers))) == 1
        assert relay.read_empty() == []
        assert (tmp_path / "ram").read_bytes() == before
        await guest.resume()
        while (reply := await relay.next_reply()).sequence == BEACON_SEQUENCE:
            pass
        assert (reply.sequence, reply.counter) == (1, 1)
        await guest.kill()
        relay.close()

    run(body())


def test_a_burst_waits_for_a_slow_relay(tmp_path: Path) -> None:
    async def body() -> None:
        config = with_nic(QUIET, tmp_path)
        relay = Relay(*config.nics)
        guest = await SyntheticGuest.start(config)
        relay.connect()
        burst = frames_a_socket_holds() + 100
        for sequence in range(burst):
            await relay.ask(sequence)
        await served(guest, burst)
        replies = [await relay.next_reply() for _ in range(burst)]
        assert [(reply.sequence, reply.counter) for reply in replies] == [(n, n + 1) for n in range(burst)]
        assert await guest.frames_lost() == 0
        await guest.kill()
        relay.close()

    run(body())


def test_a_request_can_be_safe_to_repeat_or_ask_for_work(tmp_path: Path) -> None:
    async def body() -> None:
        config = with_nic(QUIET, tmp_path)
        relay = Relay(*config.nics)
        guest = await SyntheticGuest.start(config)
        relay.connect()
        for sequence in (ONCE_FLAG | 5, ONCE_FLAG | 5, WORK_FLAG | 20, 6):
            await relay.ask(sequence)
        replies = [await relay.next_reply() for _ in range(4)]
        assert [reply.counter for reply in replies] == [1, 1, 1, 2]
        assert [reply.work for reply in replies] == [0, 0, 20, 20]
        assert (await guest.registers()).step == 20
        await guest.kill()
        relay.close()

    run(body())


def test_frames_that_nobody_read_before_the_pause_are_lost_and_counted(tmp_path: Path) -> None:
    async def body() -> None:
        config = with_nic(QUIET, tmp_path)
        relay = Relay(*config.nics)
        guest = await SyntheticGuest.start(config)
        relay.connect()
        burst = frames_a_socket_holds() + 100
        for sequence in range(burst):
            await relay.ask(sequence)
        await served(guest, burst)
        await guest.pause()
        assert await guest.frames_lost() == 100
        assert len(relay.read_empty()) == burst - 100
        await guest.kill()
        relay.close()

    run(body())


async def served(guest: SyntheticGuest, count: int) -> None:
    while (await guest.registers()).counter < count:
        pass


def test_a_guest_without_a_relay_runs_on(tmp_path: Path) -> None:
    async def body() -> None:
        guest = await SyntheticGuest.start(with_nic(replace(QUIET, beacon_ms=1), tmp_path))
        while not await guest.frames_lost():
            pass
        await guest.kill()

    run(body())


def test_kill_ends_the_process_and_is_no_event(tmp_path: Path) -> None:
    async def body() -> None:
        config = with_nic(QUIET, tmp_path)
        guest = await SyntheticGuest.start(config)
        pid = guest.pid
        await guest.kill()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert await collect(guest) == []
        await guest.kill()
        assert not guest.nics[0].guest_path.exists()
        with pytest.raises(GuestError, match="not running"):
            await guest.pause()

    run(body())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_death_is_reported_to_events_and_to_waiting_commands(number: signal.Signals) -> None:
    async def body() -> None:
        guest = await SyntheticGuest.start(QUIET)
        os.kill(guest.pid, signal.SIGSTOP)
        waiting = asyncio.create_task(guest.pause())
        await asyncio.sleep(0)
        assert not waiting.done()
        os.kill(guest.pid, number)
        if number is not signal.SIGKILL:
            # Any other signal waits until the process goes on; by this one it may be gone already.
            os.kill(guest.pid, signal.SIGCONT)
        assert await collect(guest) == [Died(f"signal {number.value}")]
        with pytest.raises(GuestError, match=f"signal {number.value}"):
            await waiting
        with pytest.raises(GuestError, match="not running"):
            await guest.resume()
        await guest.kill()

    run(body())


def test_power_off_is_an_event_of_its_own() -> None:
    async def body() -> None:
        guest = await SyntheticGuest.start(QUIET)
        await guest.shutdown()
        assert await collect(guest) == [PoweredOff()]
        await guest.kill()

    run(body())


def test_reset_and_panic_are_events_of_a_guest_that_lives_on() -> None:
    async def body() -> None:
        guest = await SyntheticGuest.start(QUIET)
        await guest.step(9)
        await guest.reset()
        await guest.panic("no init found")
        events = guest.events()
        assert await anext(events) == Reset()
        assert await anext(events) == Panicked("no init found")
        assert await guest.registers() == Registers(QUIET.seed, boots=2)
        await guest.pause()
        assert check_ram_file(QUIET, guest.ram.fd).boots == 2
        await guest.kill()

    run(body())


def test_state_of_a_running_guest_is_refused() -> None:
    async def body() -> None:
        guest = await SyntheticGuest.start(QUIET)
        with pytest.raises(GuestError, match="not paused"):
            await guest.save_device_state()
        await guest.kill()

    run(body())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "ram").write_bytes(b"short"), "not a RAM file"),
        (lambda folder: (folder / "ram").mkdir(), "Is a directory"),
        (lambda folder: (folder / "ram").symlink_to(folder / "other"), "symbolic links"),
    ],
)
def test_an_unfit_ram_file_is_refused(tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    async def body() -> None:
        spoil(tmp_path)
        with pytest.raises(GuestError, match=message):
            await SyntheticStandby(QUIET).start(tmp_path / "ram")

    run(body())


def test_a_nic_that_cannot_be_bound_is_a_clear_error(tmp_path: Path) -> None:
    async def body() -> None:
        with pytest.raises(GuestError, match="No such file or directory"):
            await SyntheticGuest.start(with_nic(QUIET, tmp_path / "missing"))

    run(body())


def test_failed_starts_leave_no_descriptor(tmp_path: Path) -> None:
    async def body() -> None:
        async def attempt() -> None:
            with pytest.raises(GuestError):
                await SyntheticGuest.start(with_nic(QUIET, tmp_path / "missing"), tmp_path / "ram")

        await attempt()
        before = len(os.listdir("/proc/self/fd"))
        await attempt()
        assert len(os.listdir("/proc/self/fd")) == before

    run(body())


DAEMON = """
import asyncio
from replicator.guests.synthetic import SyntheticConfig, SyntheticGuest

async def main():
    guest = await SyntheticGuest.start(SyntheticConfig(ram_bytes=1 << 20))
    print(guest.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_guest_does_not_outlive_its_daemon() -> None:
    command, environment = [sys.executable, "-c", DAEMON], {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as daemon:
        assert daemon.stdout is not None
        guest = os.pidfd_open(int(daemon.stdout.readline()))
        daemon.kill()
    try:
        assert select.select([guest], [], [], TIMEOUT_S)[0]
    finally:
        os.close(guest)
