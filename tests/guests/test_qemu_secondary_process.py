"""Folders and spares of a secondary's VM, without any QEMU."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import GuestError
from replicator.guests.base import NicEndpoint
from replicator.guests.qemu_secondary_process import (
    DEAD_SPARES_MAX,
    Folders,
    SecondaryProcess,
    SparePool,
    prepare_place,
)


class Spare:
    """What the pool needs of a SecondaryProcess."""

    def __init__(self, number: int, *, dead: bool = False) -> None:
        self.number = number
        self.has_ended = dead
        self.was_ended = False
        self.machine = SimpleNamespace(process=SimpleNamespace(log_tail=lambda: "dead"))

    async def end(self) -> None:
        assert not self.was_ended
        self.was_ended = True


class Starter:
    """Makes spares. `dead` are ended when their turn comes; `failing` cannot be started; all wait for
    `gate`."""

    def __init__(self, *, dead: set[int] = frozenset(), failing: set[int] = frozenset()) -> None:
        self.made: list[Spare] = []
        self.begun = 0
        self.dead, self.failing = dead, failing
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self) -> Any:
        number, self.begun = self.begun, self.begun + 1
        await self.gate.wait()
        if number in self.failing:
            raise GuestError(f"spare {number} does not start")
        self.made.append(Spare(number, dead=number in self.dead))
        return self.made[-1]


def test_a_spare_is_taken_once_and_in_order() -> None:
    async def scenario() -> None:
        starter = Starter()
        pool = SparePool(starter, size=2)
        pool.fill()
        pool.fill()
        assert [(await pool.take()).number for _ in range(3)] == [0, 1, 2]
        assert starter.begun == 3  # the third was started when it was asked for
        pool.fill()
        await pool.close()
        assert [spare.was_ended for spare in starter.made[:3]] == [False] * 3

    asyncio.run(scenario())


def test_spares_that_died_are_passed_over_and_ended() -> None:
    async def scenario() -> None:
        starter = Starter(dead={0, 1})
        pool = SparePool(starter, size=2)
        pool.fill()
        assert (await pool.take()).number == 2
        assert [spare.was_ended for spare in starter.made] == [True, True, False]

    asyncio.run(scenario())


def test_spares_that_always_die_are_an_error() -> None:
    async def scenario() -> None:
        starter = Starter(dead=set(range(100)))
        with pytest.raises(GuestError, match="end by themselves"):
            await SparePool(starter).take()
        assert starter.begun == DEAD_SPARES_MAX + 1
        assert all(spare.was_ended for spare in starter.made)

    asyncio.run(scenario())


def test_a_spare_that_does_not_start_is_an_error_of_its_own_turn() -> None:
    async def scenario() -> None:
        pool = SparePool(Starter(failing={1}), size=3)
        pool.fill()
        assert (await pool.take()).number == 0
        with pytest.raises(GuestError, match="spare 1 does not start"):
            await pool.take()
        assert (await pool.take()).number == 2

    asyncio.run(scenario())


def test_closing_ends_those_that_are_ready_and_those_that_will_be() -> None:
    async def scenario() -> None:
        starter = Starter(failing={1})
        pool = SparePool(starter, size=3)
        pool.fill()
        while len(starter.made) < 2:
            await asyncio.sleep(0)
        starter.gate.clear()
        assert (await pool.take()).number == 0
        pool.fill()
        while starter.begun < 4:
            await asyncio.sleep(0)
        closing = asyncio.create_task(pool.close())
        while not starter.made[1].was_ended:
            await asyncio.sleep(0)
        assert not closing.done()
        starter.gate.set()
        await closing
        await pool.close()
        assert [(spare.number, spare.was_ended) for spare in starter.made] == [
            *((0, False), (2, True), (3, True)),
        ]

    asyncio.run(scenario())


@given(st.lists(st.integers(0, 5), max_size=30))
def test_folders_in_use_differ_and_their_names_stay_few(choices: list[int]) -> None:
    folders = Folders(Path("/nowhere"))
    taken: list[Path] = []
    most = 0
    for choice in choices:
        if choice < len(taken):
            folders.give_back(taken.pop(choice))
        else:
            taken.append(folders.take())
        most = max(most, len(taken))
        assert len(set(taken)) == len(taken)
        assert {path.name for path in taken} <= {f"vm{number}" for number in range(most)}


def test_what_an_earlier_daemon_left_is_removed(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (run_dir / "vm7").mkdir(parents=True)
    (run_dir / "vm7" / "nic0.guest").touch()
    (run_dir / "vmware").mkdir()
    folders = prepare_place(run_dir)
    assert [path.name for path in run_dir.iterdir()] == ["vmware"]
    assert folders.take() == run_dir / "vm0"
    assert run_dir.stat().st_mode & 0o777 == 0o700


def test_a_process_takes_the_place_of_another_one_behind_a_path(tmp_path: Path) -> None:
    public = NicEndpoint("nic0", "", tmp_path / "nic0.guest", tmp_path / "nic0.relay")
    relay = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with relay:
        for number in range(2):
            own = NicEndpoint("nic0", "", tmp_path / f"vm{number}.guest", public.relay_path)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guest:
                guest.bind(str(own.guest_path))
                machine = SimpleNamespace(nics=(own,))
                process = SecondaryProcess(machine, None, tmp_path, Folders(tmp_path))
                process.take_paths((public,))
                relay.connect(str(public.guest_path))
                relay.send(b"for %d" % number)
                assert guest.recv(16) == b"for %d" % number
        with pytest.raises(GuestError, match="cannot take over"):
            process.take_paths((public,))
