"""The relay around a real QEMU guest: checkpoints under traffic, and a take-over with replayed inputs."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from output_tools import AnyRelay

from replicator.demo.golden import Golden, ensure_golden, guest_config, start_from_golden
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.demo.guest_scripts import COUNTER_PORT, REDIS_PORT
from replicator.engine.output import Frame, InputLog, OutputMode
from replicator.guests.base import Guest, NicEndpoint
from replicator.guests.qemu_standby import QemuStandby
from replicator.output.announce import build_announcement
from replicator.output.base import BarrierMark, RelayCallbacks
from replicator.output.relay import NicEnds
from replicator.output.tap import Tap
from replicator.units import Epoch

pytestmark = pytest.mark.live

GUEST_IP = "10.77.0.10"
TIMEOUT_S = 30.0


@pytest.fixture(scope="module")
def golden() -> Golden:
    image = ensure_guest_image(default_cache_dir(), lambda _line: None)
    return ensure_golden(image, default_cache_dir(), guest_config(image))


@pytest.fixture
def host(tap: Tap) -> Tap:
    """The TAP as the network's own interface."""
    subprocess.run(["ip", "addr", "add", "10.77.0.1/24", "dev", tap.name], check=True)
    return tap


@dataclass
class Pair:
    """A guest, its relay and what a secondary would have: checkpoint files and the input log."""

    golden: Golden
    relay_kind: type[AnyRelay]
    tap: Tap
    scratch: Path
    log: InputLog = field(default_factory=InputLog)
    epoch: int = 0
    state: bytes = b""
    mark: BarrierMark | None = None

    async def begin(self) -> None:
        self.guest: Guest = await start_from_golden(
            self.golden, self.scratch / "ram", self.scratch / "run", paused=True
        )
        self.relay = self._make_relay(self.guest.nics, OutputMode.HOLD)
        self.relay.start()
        await self.guest.resume()

    async def end(self) -> None:
        self.relay.stop()
        await self.guest.kill()

    async def checkpoint(self, *, keep: bool = False) -> None:
        """One epoch by the book; with `keep` its state is kept for a take-over."""
        self.epoch += 1
        self.relay.hold_input()
        self.relay.quiesce_input(0.002)
        await self.guest.pause()
        self.mark = self.relay.drain_and_mark(Epoch(self.epoch))
        if keep:
            self.state = await self.guest.save_device_state()
            shutil.copyfile(self.scratch / "ram", self.scratch / "kept")
        await self.guest.resume()
        self.relay.resume_input()
        self.log.trim(self.mark.input_seq)

    def commit(self) -> None:
        self.relay.release(Epoch(self.epoch))

    async def take_over(self) -> int:
        """The guest dies with what it held; another goes on from the kept checkpoint. Returns frames replayed."""
        addresses = self.relay.addresses()
        await self.guest.kill()
        self.relay.discard_output()
        self.relay.stop()
        replay = self.log.after(self.mark.input_seq if self.mark else 0)
        assert replay.missing == 0
        shutil.move(self.scratch / "kept", self.scratch / "ram")
        standby = QemuStandby(self.golden.config, self.scratch / "run-2")
        await standby.start(self.scratch / "ram")
        self.guest = await standby.activate(self.state)
        self.relay = self._make_relay(self.guest.nics, OutputMode.PASS)
        self.relay.replay(replay.frames)
        self.relay.start()
        await self.guest.resume()
        self.relay.announce(
            [Frame(nic, one) for nic, known in enumerate(addresses) for one in build_announcement(known)]
        )
        return len(replay.frames)

    def _make_relay(self, nics: Sequence[NicEndpoint], mode: OutputMode) -> AnyRelay:
        callbacks = RelayCallbacks(on_input=lambda first, frames: self.log.append(first, frames))
        if mode is OutputMode.PASS:
            callbacks = RelayCallbacks()
        return self.relay_kind([NicEnds(nic, self.tap) for nic in nics], mode=mode, callbacks=callbacks)


@asynccontextmanager
async def running(golden: Golden, kind: type[AnyRelay], tap: Tap, scratch: Path) -> AsyncIterator[Pair]:
    pair = Pair(golden, kind, tap, scratch)
    await pair.begin()
    try:
        yield pair
    finally:
        await pair.end()


class Redis:
    """One open connection; `replies` are those of INCR."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.replies: list[int] = []

    async def increment(self) -> None:
        self._writer.write(b"INCR relay\r\n")
        self.replies.append(int((await self._reader.readline())[1:]))

    async def increment_on(self) -> None:
        while True:
            await self.increment()

    async def fill_on(self) -> None:
        """Large values both ways, several at once."""
        value = b"x" * 20_000
        while True:
            for _ in range(8):
                self._writer.write(b"SET bulk %s\r\nGET bulk\r\n" % value)
            for _ in range(8):
                assert await self._reader.readline() == b"+OK\r\n"
                assert await self._reader.readline() == b"$20000\r\n"
                assert (await self._reader.readexactly(20_002))[:-2] == value

    def close(self) -> None:
        self._writer.close()


async def connect(pair: Pair) -> Redis:
    """Open a connection while output is held: checkpoints go on meanwhile."""
    opening = asyncio.ensure_future(asyncio.open_connection(GUEST_IP, REDIS_PORT))
    await checkpoint_until(pair, opening.done)
    return Redis(*opening.result())


async def checkpoint_until(pair: Pair, done: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not done():
        assert time.monotonic() < end, pair.relay.stats()
        await asyncio.sleep(0.02)
        await pair.checkpoint()
        pair.commit()


def run(test: Coroutine[None, None, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 2 * TIMEOUT_S))


def test_traffic_survives_a_hundred_checkpoints(
    golden: Golden, relay_kind: type[AnyRelay], host: Tap, tmp_path_shm: Path
) -> None:
    async def scenario() -> None:
        async with running(golden, relay_kind, host, tmp_path_shm) as pair:
            counter, bulk = await connect(pair), await connect(pair)
            tasks = [asyncio.ensure_future(counter.increment_on()), asyncio.ensure_future(bulk.fill_on())]
            goal = pair.epoch + 100

            def is_enough() -> bool:
                return pair.epoch >= goal and len(counter.replies) >= 40

            await checkpoint_until(pair, lambda: is_enough() or any(task.done() for task in tasks))
            assert not any(task.done() for task in tasks), tasks
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert counter.replies == list(range(1, len(counter.replies) + 1))
            stats = pair.relay.stats()
            assert (stats.output.lost_frames, stats.input.dropped_frames) == (0, 0)
            assert stats.output.left_frames > 500
            counter.close()
            bulk.close()

    run(scenario())


def test_an_open_connection_survives_a_take_over_with_replay(
    golden: Golden, relay_kind: type[AnyRelay], host: Tap, tmp_path_shm: Path
) -> None:
    async def scenario() -> None:
        async with running(golden, relay_kind, host, tmp_path_shm) as pair:
            redis = await connect(pair)
            counting = asyncio.ensure_future(redis.increment_on())
            await checkpoint_until(pair, lambda: len(redis.replies) >= 5)
            await pair.checkpoint(keep=True)
            pair.commit()
            released = pair.relay.stats().input.newest_seq
            end = time.monotonic() + TIMEOUT_S
            while pair.relay.stats().input.newest_seq == released:
                assert time.monotonic() < end
                await asyncio.sleep(0.001)
            before = len(redis.replies)
            assert await pair.take_over() >= 1
            while len(redis.replies) < before + 50:
                assert time.monotonic() < end and not counting.done()
                await asyncio.sleep(0.001)
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
            assert redis.replies == list(range(1, len(redis.replies) + 1))
            redis.close()

    run(scenario())


def test_a_request_that_only_the_dead_guest_saw_is_answered_once(
    golden: Golden, relay_kind: type[AnyRelay], host: Tap, tmp_path_shm: Path
) -> None:
    """UDP repeats nothing by itself: without replay this client would wait for ever. The same request sent again
    afterwards is executed again, as the client asked."""

    async def ask(client: socket.socket) -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        data = await asyncio.wait_for(loop.sock_recv(client, 2048), TIMEOUT_S)
        total, seen, _ = data.split()
        return int(total), int(seen)

    async def scenario() -> None:
        async with running(golden, relay_kind, host, tmp_path_shm) as pair:
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            client.connect((GUEST_IP, COUNTER_PORT))
            client.send(b"first")
            first = asyncio.ensure_future(ask(client))
            await checkpoint_until(pair, first.done)
            await pair.checkpoint(keep=True)
            pair.commit()
            held = pair.relay.stats().output.held_frames
            client.send(b"only-once")
            end = time.monotonic() + TIMEOUT_S
            while pair.relay.stats().output.held_frames == held:
                assert time.monotonic() < end
                await asyncio.sleep(0.001)
            assert await pair.take_over() >= 1
            total, seen = await ask(client)
            assert (total - first.result()[0], seen) == (1, 1)
            client.send(b"only-once")
            assert await ask(client) == (total + 1, 2)
            client.close()

    run(scenario())
