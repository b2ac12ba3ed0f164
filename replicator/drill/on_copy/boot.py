"""Runs the copy of a guest in a network that ends in this process, until it has answered.

The guest's NICs are unix datagram sockets whose other end is ours (output/nic_socket.py): there is no way from them to
any network. What is asked of the guest, and what counts as an answer, says neighbour.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from replicator.drill.on_copy.neighbour import Heard, Neighbour
from replicator.errors import DrillFailed
from replicator.guests.base import Died, Guest, Panicked, PoweredOff
from replicator.output.nic_socket import NicSocket
from replicator.service.guest_kit import GuestKit

ANSWER_TIMEOUT_S = 30.0
ASK_S = 0.1
#: After the first answer: who else answers.
GRACE_S = 0.5
FRAMES_A_TURN = 64
#: A guest without a network: in this time it must have written pages.
WRITE_S = 0.5


@dataclass(frozen=True, slots=True)
class Boot:
    """Times in milliseconds: from the start of the process, and from the moment at which the guest ran."""

    boot_to_answer_ms: float
    run_to_answer_ms: float
    boot_to_run_ms: float
    answers: tuple[Heard, ...]
    frames_heard: int


async def boot_copy(
    kit: GuestKit, ram: Path, state: Path, run_dir: Path, addresses: Sequence[Sequence[IPv4Address]]
) -> Boot:
    """DrillFailed when the guest ends or does not answer in time, GuestError when it cannot be started. In the end its
    process is gone."""
    began_ns = time.monotonic_ns()
    standby = kit.make_standby(run_dir)
    try:
        await standby.start(ram)
        # It is mapped: whatever becomes of us, its memory goes with the last process that has it.
        ram.unlink()
        device_state = state.read_bytes()
        state.unlink()
        guest = await standby.activate(device_state)
    except BaseException:
        await standby.kill()
        raise
    try:
        return await _run(guest, began_ns, addresses)
    finally:
        await guest.kill()


async def _run(guest: Guest, began_ns: int, addresses: Sequence[Sequence[IPv4Address]]) -> Boot:
    given = [*addresses, *([()] * len(guest.nics))]
    with contextlib.ExitStack() as opened:
        wires = [
            opened.enter_context(Wire(NicSocket(nic), Neighbour(nic.mac, known)))
            for nic, known in zip(guest.nics, given, strict=False)
        ]
        await guest.resume()
        ran_ns = time.monotonic_ns()
        ending = asyncio.create_task(_await_end(guest))
        answering = asyncio.create_task(_ask(wires) if wires else _watch_writes(guest))
        try:
            await asyncio.wait((ending, answering), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise DrillFailed(f"the copy ended before it had answered: {ending.result()}")
            answered_ns, answers = answering.result()
        finally:
            for task in (ending, answering):
                task.cancel()
            await asyncio.gather(ending, answering, return_exceptions=True)
    return Boot(
        (answered_ns - began_ns) / 1e6,
        (answered_ns - ran_ns) / 1e6,
        (ran_ns - began_ns) / 1e6,
        answers,
        sum(wire.neighbour.frames_heard for wire in wires),
    )


async def _await_end(guest: Guest) -> str:
    async for event in guest.events():
        if isinstance(event, PoweredOff):
            return "it powered off"
        if isinstance(event, Panicked):
            return f"it panicked {event.reason}".rstrip()
        if isinstance(event, Died):
            return event.reason
    return "no reason given"


async def _ask(wires: Sequence[Wire]) -> tuple[int, tuple[Heard, ...]]:
    """When the first answer came, and all that came."""
    first = [asyncio.create_task(wire.answered.wait()) for wire in wires]
    asking = [asyncio.create_task(wire.keep_asking()) for wire in wires]
    try:
        done, _ = await asyncio.wait(
            {*first, *asking}, timeout=ANSWER_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
        )
        if not done:
            raise DrillFailed(_describe_silence(wires), hint="--address names the guest's address")
        for task in done:
            # Who asks never ends but by an error.
            task.result()
        answered_ns = min(wire.answered_ns for wire in wires if wire.answered_ns)
        # Not for the guest's sake: the report names every way in which it answers.
        await asyncio.sleep(GRACE_S)
        return answered_ns, tuple(heard for wire in wires for heard in wire.neighbour.answers)
    finally:
        for task in (*first, *asking):
            task.cancel()


def _describe_silence(wires: Sequence[Wire]) -> str:
    heard = sum(wire.neighbour.frames_heard for wire in wires)
    asked = ", ".join(str(address) for wire in wires for address in wire.neighbour.addresses)
    some = ", ".join(f"{answer.how} {answer.address}" for wire in wires for answer in wire.neighbour.answers)
    return (
        f"the copy did not answer within {ANSWER_TIMEOUT_S:.0f} s: {heard} frames were heard, "
        f"asked was {asked or 'nobody, for no address is known'}, answers: {some or 'none'}"
    )


async def _watch_writes(guest: Guest) -> tuple[int, tuple[Heard, ...]]:
    """Without a network, that it goes on writing is all that can be seen."""
    pages = guest.ram.layout.new_bitmap()
    await asyncio.to_thread(guest.scan_dirty, pages)
    pages.clear_all()
    await asyncio.sleep(WRITE_S)
    await asyncio.to_thread(guest.scan_dirty, pages)
    if not pages.count():
        raise DrillFailed(f"the copy has no network and wrote no page in {WRITE_S} s")
    return time.monotonic_ns(), (Heard(f"{pages.count()} pages written", "no network"),)


class Wire:
    """One NIC of the guest and its neighbour."""

    def __init__(self, socket: NicSocket, neighbour: Neighbour) -> None:
        self._socket = socket
        self.neighbour = neighbour
        self.answered = asyncio.Event()
        self.answered_ns = 0
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Wire:
        self._socket.open()
        self._loop.add_reader(self._socket.fileno(), self._hear)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._loop.remove_reader(self._socket.fileno())
        self._socket.close()

    def _hear(self) -> None:
        for _ in range(FRAMES_A_TURN):
            frame = self._socket.recv()
            if frame is None:
                break
            self._send(self.neighbour.hear(frame))
        if self.neighbour.is_answered and not self.answered_ns:
            self.answered_ns = time.monotonic_ns()
            self.answered.set()

    async def keep_asking(self) -> None:
        while True:
            self._send(self.neighbour.ask())
            await asyncio.sleep(ASK_S)

    def _send(self, frames: Sequence[bytes]) -> None:
        """What the guest has no room for is asked again."""
        if not self._socket.connected:
            self._socket.connect()
        for frame in frames:
            self._socket.send(frame)
