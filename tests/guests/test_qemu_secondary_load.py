"""Loading a state again, against a QEMU that follows a script; and what counts as proof that it works."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import GuestError
from replicator.guests.qemu_qmp import FastChannel
from replicator.guests.qemu_secondary_image import ROOM_BYTES_MAX, build_image
from replicator.guests.qemu_secondary_load import (
    choose_room,
    find_changes,
    make_image_file,
    open_image,
    prove,
    run_load,
    write_state,
)
from replicator.limits import LIBXL_RECORD_BYTES_MAX

JOB = "l"
#: As QEMU writes the clock of the day, between two other sections.
CLOCK = b"\x12\x0bmc146818rtc" + bytes(4) + b"\0\0\0\3"
STATE = b"QEVM before \x04\0\0\0" + CLOCK + b"12:34:56\x7e\0\0\0\x12 behind"


class ScriptedQemu:
    """The other end of the monitor. `statuses` are what it tells of the job, after its answer."""

    def __init__(self, statuses: list[str], *, error: str = "", refusal: str = ""):
        self.statuses = statuses
        self.error = error
        self.refusal = refusal
        self.asked: list[str] = []
        self.jobs: list[str] = []

    def answer(self, command: str, arguments: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self.asked.append(command)
        if command == "query-jobs":
            yield {"return": [self._describe(job) for job in ["another", *self.jobs]]}
        elif self.refusal:
            yield {"error": {"class": "GenericError", "desc": self.refusal}}
        else:
            self.jobs.append(arguments["job-id"])
            yield tell(JOB, "created")
            yield {"return": {}}
            for status in self.statuses:
                # Another job's end is none of this one's.
                yield tell("another", "concluded")
                yield tell(JOB, status)

    def _describe(self, job: str) -> dict[str, Any]:
        return {"id": job, "status": "concluded", **({"error": self.error} if self.error else {})}

    async def serve(self, end: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=end)
        while line := await reader.readline():
            message = json.loads(line)
            for reply in self.answer(message["execute"], message.get("arguments", {})):
                writer.write(json.dumps(reply).encode() + b"\n")
        writer.close()


def tell(job: str, status: str) -> dict[str, Any]:
    return {"event": "JOB_STATUS_CHANGE", "data": {"id": job, "status": status}, "timestamp": {}}


def load_with(qemu: ScriptedQemu, *, times: int = 1) -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        serving = asyncio.create_task(qemu.serve(theirs))
        channel = FastChannel(ours)
        try:
            for _ in range(times):
                await run_load(channel)
        finally:
            await channel.settle()
            channel.close()
            await serving

    asyncio.run(scenario())


def test_a_load_ends_when_its_job_has_and_asks_nothing() -> None:
    qemu = ScriptedQemu(["running", "waiting", "pending", "concluded"])
    load_with(qemu, times=2)
    assert qemu.asked == ["snapshot-load"] * 2


def test_a_job_that_failed_is_told() -> None:
    qemu = ScriptedQemu(["running", "aborting", "concluded"], error="Error -22 while loading VM state")
    with pytest.raises(GuestError, match="QEMU refuses the device state: Error -22"):
        load_with(qemu)
    assert qemu.asked == ["snapshot-load", "query-jobs"]


def test_a_command_that_is_refused_is_told() -> None:
    with pytest.raises(GuestError, match="no such node"):
        load_with(ScriptedQemu(["concluded"], refusal="no such node"))


def test_a_failed_job_that_vanishes_is_an_error() -> None:
    qemu = ScriptedQemu(["aborting", "concluded"])
    qemu.jobs = Vanishing()
    with pytest.raises(GuestError, match="lost the job"):
        load_with(qemu)


class Vanishing(list[str]):
    def append(self, job: str) -> None: ...


class SessionWithout:
    """A monitor whose QEMU can read files by some ways only."""

    def __init__(self, *known: str) -> None:
        self.known = known
        self.tried: list[str] = []

    async def execute(self, command: str, **arguments: Any) -> None:
        assert command == "blockdev-add"
        self.tried.append(arguments["file"]["aio"])
        if self.tried[-1] not in self.known:
            raise GuestError(f"no {self.tried[-1]} here")


def test_the_image_is_read_by_threads_where_there_is_no_io_uring() -> None:
    for known, tried in ((("io_uring", "threads"), ["io_uring"]), (("threads",), ["io_uring", "threads"])):
        session = SessionWithout(*known)
        asyncio.run(open_image(session))
        assert session.tried == tried


def test_an_image_that_cannot_be_read_at_all_is_told() -> None:
    with pytest.raises(GuestError, match="no threads here"):
        asyncio.run(open_image(SessionWithout()))


@given(st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=5))
def test_each_state_is_written_over_the_one_before(states: list[bytes]) -> None:
    image = build_image(300)
    fd = make_image_file(image)
    try:
        for state in states:
            write_state(fd, image, state)
            assert os.pread(fd, len(state), image.state_offset) == state
        for offset, data in image.parts:
            assert os.pread(fd, len(data), offset) == data
        assert os.fstat(fd).st_size == image.file_bytes
    finally:
        os.close(fd)


def test_a_state_without_room_is_refused() -> None:
    image = build_image(1)
    fd = make_image_file(image)
    try:
        for size in (0, image.room_bytes + 1):
            with pytest.raises(GuestError, match=f"of {size} bytes"):
                write_state(fd, image, bytes(size))
    finally:
        os.close(fd)


@given(st.integers(1, LIBXL_RECORD_BYTES_MAX))
def test_the_room_is_enough_for_a_state_that_has_grown(state_bytes: int) -> None:
    room = choose_room(state_bytes)
    assert min(8 * state_bytes, LIBXL_RECORD_BYTES_MAX) <= room <= ROOM_BYTES_MAX
    assert build_image(room).room_bytes >= room


def run(work: Coroutine[None, None, None]) -> None:
    asyncio.run(work)


class Machine:
    """Saves what was loaded, but for `change`."""

    def __init__(self, change: bytes | None = None) -> None:
        self.state, self.change = STATE, change

    async def load(self, state: bytes) -> None:
        self.state = state if self.change is None else self.change

    async def save(self) -> bytes:
        return self.state


def test_proof_is_what_is_saved_after_a_load() -> None:
    for right in (None, STATE.replace(b"12:34:56", b"12:34:57")):
        machine = Machine(right)
        run(prove(STATE, machine.load, machine.save))
    for wrong in (STATE.replace(b"behind", b"beside"), STATE + b"!", STATE.replace(b"12:34:56", b"12:3")):
        machine = Machine(wrong)
        with pytest.raises(GuestError, match="differs after a load, from byte"):
            run(prove(STATE, machine.load, machine.save))


@given(st.integers(0, len(STATE) - 1))
def test_every_changed_byte_is_found_outside_of_the_clock(at: int) -> None:
    changed = STATE[:at] + bytes([STATE[at] ^ 1]) + STATE[at + 1 :]
    clock = range(STATE.index(CLOCK) + 1, STATE.index(b"\x7e"))
    assert list(find_changes(STATE, changed)) == ([] if at in clock else [at])
