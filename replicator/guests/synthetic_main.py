"""The synthetic guest's process: `python -m replicator.guests.synthetic_main JSON`.

One thread, one loop: control messages, frames, steps. A message is handled between two steps, so a pause falls
on a whole step. RAM, dirty map and control socket are inherited descriptors; their numbers and everything else
are in the JSON argument (see `Settings`). The control socket carries msgpack maps behind a u32 length; every
command gets one answer, events come unasked. When its other end closes, the process ends: a synthetic guest never
outlives its daemon.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import selectors
import socket
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NoReturn

import msgpack

from replicator.errors import GuestError
from replicator.guests.synthetic_frames import Address, parse_mac
from replicator.guests.synthetic_machine import SyntheticMachine
from replicator.guests.synthetic_service import SyntheticService
from replicator.limits import FRAME_BYTES_MAX
from replicator.units import NS_PER_MS, PAGE_SIZE

#: Control message: u32 length, then msgpack.
LENGTH = struct.Struct("!I")
_TURN_S = 0.001
_STEPS_A_TURN_MAX = 64
#: Frames that wait for room in the relay's socket.
_FRAMES_WAITING_MAX = 256
_FRAMES_A_TURN_MAX = 64
#: Steps that a slow host owes beyond this are forgiven, as a slow CPU does less work.
_STEP_DEBT_NS_MAX = 20 * NS_PER_MS


@dataclass(frozen=True, slots=True)
class Settings:
    """What the parent decides for the process."""

    control_fd: int
    ram_fd: int
    dirty_fd: int
    ram_bytes: int
    seed: int
    working_pages: int
    steps_per_ms: float
    state_bytes: int
    beacon_ms: int
    divergence: float
    mac: str
    ip: str
    #: Empty when the guest has no NIC.
    guest_path: str
    relay_path: str
    #: Wait for `load` instead of starting from zeroed RAM.
    incoming: bool


class Machine:
    """The loop around a SyntheticMachine."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        ram = mmap.mmap(settings.ram_fd, settings.ram_bytes)
        dirty = mmap.mmap(settings.dirty_fd, settings.ram_bytes // PAGE_SIZE)
        self._machine = SyntheticMachine(
            memoryview(ram),
            memoryview(dirty),
            settings.seed,
            settings.working_pages,
            divergence=settings.divergence,
            entropy=_draw_entropy,
        )
        own = Address(parse_mac(settings.mac), IPv4Address(settings.ip))
        self._service = SyntheticService(self._machine, own, settings.beacon_ms * NS_PER_MS)
        self._control = socket.socket(fileno=settings.control_fd)
        self._nic = self._open_nic() if settings.guest_path else None
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._control, selectors.EVENT_READ)
        self._running = False
        self._loaded = not settings.incoming
        #: CLOCK_MONOTONIC from which on the machine's running time was not counted yet.
        self._runs_since_ns = 0
        self._steps_due_ns = 0
        self._frames_lost = 0
        self._waiting: deque[bytes] = deque()
        if self._loaded:
            self._machine.power_on()
            self._machine.clocks.wall_offset_ns = time.time_ns()

    def _open_nic(self) -> socket.socket:
        path = Path(self._settings.guest_path)
        path.unlink(missing_ok=True)
        nic = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        nic.bind(str(path))
        path.chmod(0o600)
        nic.setblocking(False)
        return nic

    def run(self) -> NoReturn:
        self._send({"event": "ready"})
        while True:
            for key, _ in self._selector.select(self._patience_s()):
                if key.fileobj is self._control:
                    self._handle_command()
                elif self._running:
                    self._handle_frames()
            if self._running:
                self._flush_frames()
                self._do_steps()
                self._send_beacon()

    def _patience_s(self) -> float | None:
        """How long to wait for a message or frame; None: there is nothing else to do."""
        has_work = self._settings.steps_per_ms or self._settings.beacon_ms or self._waiting
        return _TURN_S if self._running and has_work else None

    # Control.

    def _handle_command(self) -> None:
        command = msgpack.unpackb(self._receive(LENGTH.unpack(self._receive(LENGTH.size))[0]))
        try:
            answer = self._execute(command)
        except GuestError as error:
            answer = {"error": str(error)}
        self._send({"answer": answer})

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._control.recv(size - len(data))
            if not piece:
                sys.exit(0)
            data += piece
        return data

    def _send(self, message: dict[str, Any]) -> None:
        data = msgpack.packb(message)
        try:
            self._control.sendall(LENGTH.pack(len(data)) + data)
        except OSError:
            sys.exit(0)

    def _execute(self, command: dict[str, Any]) -> dict[str, Any]:
        name = command["command"]
        if name == "pause":
            self._set_running(False)
        elif name == "read_time":
            return {"time_ns": self._read_wall_clock()}
        elif name == "set_time":
            self._machine.clocks.wall_offset_ns += command["time_ns"] - self._read_wall_clock()
        elif name == "resume":
            self._resume()
        elif name == "save":
            return {"state": self._save()}
        elif name == "load":
            self._load(command["state"])
        elif name == "reload":
            self._reload(command["state"])
        elif name == "step":
            self._machine.advance(command["steps"])
        elif name == "reset":
            self._machine.reset()
            self._send({"event": "reset"})
        elif name == "panic":
            self._set_running(False)
            self._send({"event": "panicked", "reason": command["reason"]})
        elif name == "shutdown":
            self._send({"answer": {}})
            self._send({"event": "powered_off"})
            sys.exit(0)
        elif name != "query":
            raise GuestError(f"unknown command {name}")
        return self._describe()

    def _describe(self) -> dict[str, Any]:
        registers = self._machine.registers
        return {
            "running": self._running,
            "step": registers.step,
            "counter": registers.counter,
            "frames_in": registers.frames_in,
            "boots": registers.boots,
            "frames_lost": self._frames_lost,
        }

    def _resume(self) -> None:
        if not self._loaded:
            raise GuestError("nothing was loaded yet")
        self._set_running(True)

    def _set_running(self, running: bool) -> None:
        if running == self._running:
            return
        self._count_running_time()
        self._running = running
        self._steps_due_ns = time.monotonic_ns()
        if self._nic is None:
            return
        if running:
            self._selector.register(self._nic, selectors.EVENT_READ)
        else:
            self._selector.unregister(self._nic)
            self._drop_waiting_frames()

    def _count_running_time(self) -> None:
        now = time.monotonic_ns()
        if self._running:
            self._machine.clocks.running_ns += now - self._runs_since_ns
        self._runs_since_ns = now

    def _read_wall_clock(self) -> int:
        self._count_running_time()
        return self._machine.clocks.wall_offset_ns + self._machine.clocks.running_ns

    def _save(self) -> bytes:
        if self._running or not self._loaded:
            raise GuestError("the machine is not paused")
        return self._machine.save(self._settings.state_bytes)

    def _load(self, state: bytes) -> None:
        if self._loaded:
            raise GuestError("the machine was loaded or started already")
        self._machine.load(state)
        self._loaded = True

    def _reload(self, state: bytes) -> None:
        if self._running or not self._loaded:
            raise GuestError("the machine is not paused")
        self._machine.load(state)

    # Work.

    def _do_steps(self) -> None:
        if not self._settings.steps_per_ms:
            return
        now = time.monotonic_ns()
        self._steps_due_ns = max(self._steps_due_ns, now - _STEP_DEBT_NS_MAX)
        step_ns = NS_PER_MS / self._settings.steps_per_ms
        steps = min(int((now - self._steps_due_ns) / step_ns), _STEPS_A_TURN_MAX)
        if steps:
            self._steps_due_ns += int(steps * step_ns)
            self._machine.advance(steps)

    def _send_beacon(self) -> None:
        self._count_running_time()
        # Of several that are late, one a turn: a guest that was held up catches up without a flood.
        beacon = self._service.next_beacon()
        if beacon is not None:
            self._send_frame(beacon)

    def _handle_frames(self) -> None:
        if self._nic is None:
            return
        for _ in range(_FRAMES_A_TURN_MAX):
            try:
                frame = self._nic.recv(FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            answer = self._service.take_frame(frame)
            if answer is not None:
                self._send_frame(answer)

    def _send_frame(self, frame: bytes) -> None:
        """Queue a frame for the relay, behind those that wait already."""
        if len(self._waiting) >= _FRAMES_WAITING_MAX:
            self._frames_lost += 1
            return
        self._waiting.append(frame)
        self._flush_frames()

    def _flush_frames(self) -> None:
        """Send what fits into the relay's socket. Without a relay frames are lost, as on a cut wire."""
        while self._waiting and self._nic is not None:
            try:
                self._nic.sendto(self._waiting[0], self._settings.relay_path)
            except BlockingIOError:
                return
            except OSError:
                self._frames_lost += 1
            self._waiting.popleft()

    def _drop_waiting_frames(self) -> None:
        """As QEMU does when its VM stops, so the relay has to read its socket empty before."""
        self._flush_frames()
        self._frames_lost += len(self._waiting)
        self._waiting.clear()


def _draw_entropy() -> int:
    return int.from_bytes(os.urandom(8))


def main() -> NoReturn:
    settings = Settings(**json.loads(sys.argv[1]))
    os.umask(0o077)
    try:
        machine = Machine(settings)
    except (OSError, ValueError, GuestError) as error:
        data = msgpack.packb({"event": "failed", "reason": str(error)})
        with contextlib.suppress(OSError):
            socket.socket(fileno=settings.control_fd).sendall(LENGTH.pack(len(data)) + data)
        sys.exit(1)
    machine.run()


if __name__ == "__main__":
    main()
