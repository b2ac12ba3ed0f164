"""A copy is run in a network that ends here: it answers, or it is said why not, and its process is gone either way."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from replicator.drill.on_copy.boot import Boot, boot_copy
from replicator.errors import DrillFailed, GuestError
from replicator.guests.synthetic import SyntheticConfig, SyntheticGuest, SyntheticStandby
from replicator.service.guest_kit import SyntheticKit

ADDRESS = IPv4Address("10.77.0.2")


class Place:
    """A guest's RAM and device state of one instant, in a folder with short paths."""

    def __init__(self, folder: Path) -> None:
        self.ram, self.state, self.run = folder / "ram", folder / "device-state", folder / "run"
        self.run.mkdir()

    async def fill(self) -> None:
        guest = await SyntheticGuest.start(SyntheticConfig(), self.ram)
        await guest.step(100)
        await guest.pause()
        self.state.write_bytes(await guest.save_device_state())
        await guest.kill()

    def boot(self, kit: SyntheticKit, *addresses: IPv4Address) -> Boot:
        async def work() -> Boot:
            await self.fill()
            return await boot_copy(kit, self.ram, self.state, self.run, [addresses])

        return asyncio.run(work())


@pytest.fixture
def place() -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="replicator-copy-", dir="/dev/shm"))
    children = set(children_of_ours())
    yield Place(folder)
    assert set(children_of_ours()) <= children, "the copy's process is still there"
    shutil.rmtree(folder)


def children_of_ours() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


@pytest.fixture
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.drill.on_copy.boot.ANSWER_TIMEOUT_S", 0.4)


def test_it_answers_its_neighbour(place: Place) -> None:
    boot = place.boot(SyntheticKit(SyntheticConfig(), has_nic=True), ADDRESS)
    assert [heard.how for heard in boot.answers] == ["arp", "udp-echo"]
    assert {heard.address for heard in boot.answers} == {str(ADDRESS)}
    assert 0 < boot.run_to_answer_ms < boot.boot_to_answer_ms
    assert not place.ram.exists() and not place.state.exists()


def test_without_a_network_its_writes_are_seen(place: Place) -> None:
    boot = place.boot(SyntheticKit(SyntheticConfig(), has_nic=False))
    assert "pages written" in boot.answers[0].how


@pytest.mark.usefixtures("short_patience")
def test_whom_nobody_knows_nobody_asks(place: Place) -> None:
    with pytest.raises(DrillFailed, match="no address is known") as caught:
        place.boot(SyntheticKit(SyntheticConfig(), has_nic=True))
    assert "--address" in caught.value.hint


@pytest.mark.usefixtures("short_patience")
def test_silence_is_described(place: Place) -> None:
    with pytest.raises(DrillFailed, match=r"0 frames were heard, asked was 10\.77\.0\.9, answers: none"):
        place.boot(SyntheticKit(SyntheticConfig(), has_nic=True), IPv4Address("10.77.0.9"))


@pytest.mark.usefixtures("short_patience")
def test_a_guest_that_writes_nothing_does_not_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.drill.on_copy.boot.WRITE_S", 0.1)
    with pytest.raises(DrillFailed, match="wrote no page"):
        place.boot(SyntheticKit(SyntheticConfig(steps_per_ms=0), has_nic=False))


def test_a_torn_copy_is_not_started(place: Place) -> None:
    class Torn(SyntheticKit):
        def make_standby(self, run_dir: Path) -> SyntheticStandby:
            raw = bytearray(place.state.read_bytes())
            raw[24] ^= 1
            place.state.write_bytes(raw)
            return SyntheticStandby(self._for_side(run_dir))

    with pytest.raises(GuestError):
        place.boot(Torn(SyntheticConfig(), has_nic=False))


def test_a_copy_that_panics_is_no_answer(place: Place) -> None:
    class Panicking(SyntheticStandby):
        async def activate(self, device_state: bytes) -> SyntheticGuest:
            guest = await super().activate(device_state)
            resume = guest.resume

            async def resume_and_panic() -> None:
                await resume()
                await guest.panic("in the drill")

            guest.resume = resume_and_panic  # type: ignore[method-assign]
            return guest

    class PanickingKit(SyntheticKit):
        def make_standby(self, run_dir: Path) -> Panicking:
            return Panicking(self._for_side(run_dir))

    with pytest.raises(DrillFailed, match="the copy ended before it had answered: it panicked in the drill"):
        place.boot(PanickingKit(SyntheticConfig(), has_nic=True), IPv4Address("10.77.0.9"))
