"""A guest run by QEMU. Implements guests.base.Guest for guests that we start, that take over, or that are attached.

The guest's process outlives none of us (docs/adr/0002-orphan-guests.md). A power-off or panic leaves a process of ours
paused, so that the event is never mistaken for a death; `kill` ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from replicator import urgency
from replicator.errors import GuestError
from replicator.guests.base import (
    Died,
    GuestEvent,
    GuestIdentity,
    NicEndpoint,
    Panicked,
    PoweredOff,
    Reset,
)
from replicator.guests.qemu_agent import AgentChannel
from replicator.guests.qemu_command import CONSOLE_BYTES, CONSOLE_ID
from replicator.guests.qemu_config import QemuGuestConfig
from replicator.guests.qemu_launch import Machine, launch, make_ram_file
from replicator.guests.qemu_state import read_virtual_clock
from replicator.memory import DirtyBitmap, GuestRam

#: How long after the end of the process its last words are waited for.
LAST_WORDS_TIMEOUT_S = 2.0
#: Reasons of QEMU's SHUTDOWN that are no decision of the guest: the end of the process tells more.
_HOST_REASONS = ("host-error", "host-signal", "host-qmp-quit", "guest-panic")


class QemuGuest:
    """A QEMU machine that runs or is paused. Belongs to the event loop in which it was made."""

    def __init__(self, machine: Machine, *, running: bool) -> None:
        self._machine = machine
        self._running = running
        self._killed = False
        self._is_off = False
        self._console = ""
        #: None: no more events.
        self._events: asyncio.Queue[GuestEvent | None] = asyncio.Queue()
        self._watch = asyncio.create_task(self._watch_machine())

    @property
    def identity(self) -> GuestIdentity:
        return self._machine.identity

    @property
    def ram(self) -> GuestRam:
        return self._machine.ram

    @property
    def nics(self) -> tuple[NicEndpoint, ...]:
        return self._machine.nics

    @property
    def agent(self) -> AgentChannel | None:
        return self._machine.agent

    @property
    def pid(self) -> int:
        return self._machine.process.pid

    @property
    def tracker_name(self) -> str:
        """Which dirty tracker is at work, for the status."""
        return self._machine.tracker.name

    async def pause(self, *, will_save: bool = True) -> None:
        """`will_save`: QEMU saves the device state at once, while the caller has other things to do."""
        # QEMU's main thread makes the pause, and its vCPUs have threads of their own. Only now: with frames to carry it
        # would be woken for each of them.
        if not self._machine.process.has_ended():
            urgency.hurry_thread(self.pid)
        await self._machine.control.stop(will_save=will_save)
        self._running = False

    async def resume(self) -> None:
        # Before the answer: it may run already when the answer is lost.
        self._running = True
        try:
            await self._machine.control.cont()
        finally:
            # The number of a process that has ended may be another's.
            if not self._machine.process.has_ended():
                urgency.relax_thread(self.pid)

    async def save_device_state(self, *, runs_on: bool = False) -> bytes:
        # Before the answer, as in `resume`.
        self._running = self._running or runs_on
        return await self._machine.control.save(runs_on=runs_on)

    def read_clock(self, device_state: bytes) -> int | None:
        return read_virtual_clock(device_state)

    def scan_dirty(self, bitmap: DirtyBitmap) -> int:
        """See guests.base.Guest. The first scan arms the tracker; some scans after it are audited and take longer."""
        return self._machine.tracker.scan(bitmap, live=self._running)

    def activity(self) -> int | None:
        return self._machine.activity.read()

    async def events(self) -> AsyncIterator[GuestEvent]:
        while (event := await self._events.get()) is not None:
            yield event

    async def shutdown(self) -> None:
        """Press the power button. A guest that does not listen to it (ACPI) does not obey."""
        await self._machine.session.execute("system_powerdown")

    async def kill(self) -> None:
        self._killed = True
        await self._machine.process.kill()
        await self._end_watch()
        await self._machine.kill()

    # Beyond the contract: for the operator and for tests.

    async def reset(self) -> None:
        """Press the reset button."""
        await self._machine.session.execute("system_reset")

    async def ask_human(self, line: str) -> str:
        """The answer of QEMU's human monitor."""
        return await self._machine.session.ask_human(line)

    async def query_status(self) -> str:
        """QEMU's word for what the machine does: "running", "paused", "shutdown", "guest-panicked", ..."""
        return str((await self._machine.session.execute("query-status"))["status"])

    async def read_console(self) -> str:
        """The last part of what the guest wrote to its serial console. Only of guests started by us."""
        data = await self._machine.session.execute("ringbuf-read", device=CONSOLE_ID, size=CONSOLE_BYTES)
        self._console = (self._console + str(data))[-CONSOLE_BYTES:]
        return self._console

    async def let_go(self) -> None:
        """Stop caring for an attached guest, which runs on. GuestError for one of ours: it would die with us."""
        if self._machine.process.is_child:
            raise GuestError("a guest that was started here cannot be let go: it ends with this process")
        self._killed = True
        self._watch.cancel()
        await self._end_watch()
        self._events.put_nowait(None)
        await self._machine.let_go()

    async def _end_watch(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await self._watch

    async def _watch_machine(self) -> None:
        """Turn what QEMU says, and its end, into events."""
        listening = asyncio.create_task(self._listen())
        try:
            how = await self._machine.process.wait()
        finally:
            listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await listening
        for message in await self._machine.session.drain_events(LAST_WORDS_TIMEOUT_S):
            self._handle(message)
        if self._is_off:
            return
        if not self._killed:
            self._events.put_nowait(Died(self._machine.process.log_tail() or how))
        self._events.put_nowait(None)

    async def _listen(self) -> None:
        while True:
            self._handle(await self._machine.session.next_event())

    def _handle(self, message: Any) -> None:
        event = translate_event(str(message["event"]), message.get("data") or {})
        if event is None or self._is_off:
            return
        self._events.put_nowait(event)
        if isinstance(event, PoweredOff):
            self._is_off = True
            self._events.put_nowait(None)


def translate_event(name: str, data: dict[str, Any]) -> GuestEvent | None:
    """Our word for an event of QEMU's; None for one that means nothing to us."""
    if name == "RESET":
        return Reset()
    if name == "GUEST_PANICKED":
        return Panicked(_describe_panic(data))
    if name == "SHUTDOWN" and data.get("reason") not in _HOST_REASONS:
        return PoweredOff()
    return None


def _describe_panic(data: dict[str, Any]) -> str:
    info = data.get("info")
    return "the guest's kernel panicked" if not info else f"the guest's kernel panicked: {info}"


async def start_guest(
    config: QemuGuestConfig, ram_path: Path, run_dir: Path, *, paused: bool = False, reserve: bool = True
) -> QemuGuest:
    """Boot a guest from new, zeroed RAM at `ram_path`; an older file there is removed.

    `reserve` takes the memory now, so that a full file system is an error here and not the guest's death later. The
    caller's thread must live as long as the guest."""
    make_ram_file(ram_path, config.ram_bytes, reserve=reserve)
    machine = await launch(config, ram_path, run_dir, incoming=False)
    guest = QemuGuest(machine, running=False)
    if not paused:
        await guest.resume()
    return guest
