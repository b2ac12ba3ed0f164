"""The relay without sockets, threads or devices: for tests and simulations of the rest.

The same core as the real one. The caller plays guest and network, and everything happens within the calls."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from replicator.engine.output import Frame, OutputMode
from replicator.limits import HOLD_BYTES_MAX
from replicator.output.announce import NicAddresses
from replicator.output.base import UNLIMITED, BarrierMark, Deadline, RelayCallbacks, RelayStats
from replicator.output.core import RelayCore, boottime_ns
from replicator.output.nic_socket import Sent
from replicator.units import Epoch

#: Frames the guest's socket takes before they are read, as with unix datagrams.
GUEST_QUEUE_FRAMES = 10


class MemoryPort:
    """One NIC. `from_guest` and `from_network` are what comes in, `unread` and `left` what came out."""

    def __init__(self, mac: str = "52:54:00:00:00:01") -> None:
        self.mac = mac
        self.connected = True
        self.from_guest: deque[bytes] = deque()
        self.from_network: deque[bytes] = deque()
        #: Given to the guest, which has not read them.
        self.unread: deque[bytes] = deque()
        #: Written to the network, in order.
        self.left: list[bytes] = []

    def recv_guest(self) -> bytes | None:
        return self.from_guest.popleft() if self.from_guest else None

    def recv_network(self) -> bytes | None:
        return self.from_network.popleft() if self.from_network else None

    def send(self, data: bytes) -> Sent:
        if not self.connected:
            return Sent.GONE
        if len(self.unread) >= GUEST_QUEUE_FRAMES:
            return Sent.FULL
        self.unread.append(data)
        return Sent.GIVEN

    def unread_bytes(self) -> int:
        return sum(map(frame_cost, map(len, self.unread)))

    def send_network(self, data: bytes) -> bool:
        self.left.append(data)
        return True


def frame_cost(size: int) -> int:
    """What an unread frame counts here: never 0, as in the kernel."""
    return size + 1


class MemoryCosts:
    """Of `MemoryPort`."""

    def cost(self, size: int) -> int:
        return frame_cost(size)


class MemoryOutput:
    """An OutputPort over `ports`. `guest_sends`, `network_sends` and `guest_reads` are the world around it.

    After the world changed by other means (a clock, a deadline) call `pump`."""

    def __init__(
        self,
        ports: Sequence[MemoryPort],
        *,
        deadline: Deadline = UNLIMITED,
        callbacks: RelayCallbacks | None = None,
        mode: OutputMode = OutputMode.PASS,
        hold_bytes_max: int = HOLD_BYTES_MAX,
        clock: Callable[[], int] = boottime_ns,
        core: RelayCore | None = None,
    ) -> None:
        """`core`, with these ports, takes the place of one that is made of the other arguments."""
        self.ports = tuple(ports)
        self._core = core or RelayCore(
            self.ports,
            MemoryCosts(),
            deadline,
            callbacks or RelayCallbacks(),
            mode=mode,
            hold_bytes_max=hold_bytes_max,
            clock=clock,
        )
        self.running = False

    # The world.

    def guest_sends(self, data: bytes, nic: int = 0) -> None:
        self.ports[nic].from_guest.append(data)
        self.pump()

    def network_sends(self, data: bytes, nic: int = 0) -> None:
        self.ports[nic].from_network.append(data)
        self.pump()

    def guest_reads(self, nic: int = 0) -> list[bytes]:
        """Everything in the guest's queue; makes room for what waits."""
        read = list(self.ports[nic].unread)
        self.ports[nic].unread.clear()
        self.pump()
        return read

    def pump(self) -> None:
        """What the real relay's thread does."""
        if not self.running:
            return
        core = self._core
        for nic, port in enumerate(self.ports):
            while port.from_guest and core.read_guest(nic):
                pass
            while port.from_network and core.read_network(nic):
                pass
            core.inputs[nic].deliver()
        while core.write_network():
            pass
        core.deliver_notices()

    # The port.

    def start(self) -> None:
        self.running = True
        self.pump()

    def stop(self) -> None:
        self.running = False

    def hold_input(self) -> None:
        self._core.hold_input()
        self.pump()

    def quiesce_input(self, timeout_s: float) -> int:
        """Nobody reads while we wait here, so nothing is waited for."""
        return self._core.note_unread()

    def drain_and_mark(self, epoch: Epoch) -> BarrierMark:
        mark = self._core.drain_and_mark(epoch)
        self.pump()
        return mark

    def resume_input(self) -> None:
        self._core.resume_input()
        self.pump()

    def release(self, epoch: Epoch) -> int:
        released = self._core.release(epoch)
        self.pump()
        return released

    def set_mode(self, mode: OutputMode) -> int:
        let_go = self._core.set_mode(mode)
        self.pump()
        return let_go

    def discard_output(self) -> int:
        return self._core.discard_output()

    def set_deadline(self, deadline: Deadline) -> None:
        self._core.set_deadline(deadline)
        self.pump()

    def restart_inputs(self) -> None:
        self._core.restart_inputs()

    def replay(self, frames: Sequence[Frame]) -> None:
        self._core.replay(frames)
        self.pump()

    def announce(self, frames: Sequence[Frame]) -> None:
        self._core.announce(frames)
        self.pump()

    def addresses(self) -> tuple[NicAddresses, ...]:
        return self._core.addresses()

    @property
    def muted(self) -> bool:
        """Whether the deadline keeps frames back that could leave."""
        return self._core.muted

    def held_age_ns(self) -> int:
        return self.stats().oldest_held_age_ns

    def stats(self) -> RelayStats:
        return self._core.stats()
