"""A COLO pair in memory with guests by hand: datagram guests that answer by what they have heard, and TCP guests."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from output_tools import ETHERTYPE, GUEST_MAC

from replicator.compare import Guard, load_comparer
from replicator.deadline import SharedDeadline
from replicator.engine.compare.effects import AskCheckpoint
from replicator.engine.output import Frame, OutputMode
from replicator.output.base import RelayCallbacks
from replicator.output.colo_base import ColoCallbacks
from replicator.output.colo_memory import MemoryColo, MemoryColoOutput, MemorySecondary
from replicator.output.frame_channel_memory import Carry, make_memory_pair
from replicator.output.memory import MemoryPort
from replicator.units import NS_PER_MS, Epoch

sys.path.insert(0, str(Path(__file__).parents[1] / "engine" / "compare"))
from compare_frames import FIN, SYN, Ends, read_segment
from compare_peers import End

FOREVER = (1 << 63) - 1


def make_guard() -> Guard:
    return load_comparer().guarded(lambda: 0)


@dataclass
class Side:
    """What a relay's callbacks said."""

    asked: list[AskCheckpoint] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    opened: int = 0

    def callbacks(self) -> ColoCallbacks:
        return ColoCallbacks(self._open, self.broken.append, self.asked.append)

    def _open(self) -> None:
        self.opened += 1


class ColoPair:
    """Both relays of one NIC, and the steps of their checkpoints."""

    def __init__(self, **options: int) -> None:
        self.now_ns = 0
        self.deadline = SharedDeadline(FOREVER)
        self.heard = Side(), Side()
        #: (number, frame) as they reached the replica's log.
        self.mirrored: list[tuple[int, Frame]] = []
        self.primary: MemoryColo = MemoryColoOutput(
            [MemoryPort()],
            make_guard(),
            deadline=self.deadline,
            callbacks=RelayCallbacks(
                on_input=lambda first, frames: self.mirrored.extend(enumerate(frames, first))
            ),
            colo=self.heard[0].callbacks(),
            mode=OutputMode.HOLD,
            clock=self.clock,
        )
        self.secondary = self.make_secondary(self.heard[1], **options)
        self.primary.start()
        self.sessions = 0
        self.epoch = 0

    def clock(self) -> int:
        return self.now_ns

    def make_secondary(self, heard: Side, **options: int) -> MemorySecondary:
        made = MemorySecondary(
            [MemoryPort()], make_guard(), colo=heard.callbacks(), clock=self.clock, **options
        )
        made.start()
        return made

    def connect(self, carry: Carry | None = None) -> None:
        """A channel between the two, of a session that was never used."""
        self.sessions += 1
        session = self.sessions.to_bytes(16, "big")
        ends = make_memory_pair(session, carry=carry) if carry else make_memory_pair(session)
        self.secondary.attach(ends[1])
        self.primary.attach(ends[0])

    def suspend(self) -> None:
        self.primary.hold_input()
        self.secondary.suspend()
        self.primary.quiesce_input(0.0)
        self.secondary.quiesce_input(0.0)

    def checkpoint(self, copy_guest: Callable[[], None] = lambda: None) -> bool:
        """Whole; `copy_guest` makes the secondary's guest the primary's. Returns whether it is compared now."""
        self.suspend()
        self.epoch += 1
        mark = self.primary.drain_and_mark(Epoch(self.epoch))
        self.primary.resume_input()
        copy_guest()
        self.secondary.loaded(Epoch(self.epoch), mark.input_seq)
        self.secondary.resume_input()
        return self.primary.compare(Epoch(self.epoch))

    def pass_time(self, ms: float) -> None:
        self.now_ns += int(ms * NS_PER_MS)
        self.primary.pump()
        self.secondary.pump()


def left(relay: MemoryColo, nic: int = 0) -> list[bytes]:
    """What has left since the last look."""
    found = relay.ports[nic].left
    out = list(found)
    found.clear()
    return out


# Datagrams.


def peer_mac(flow: int) -> bytes:
    return bytes.fromhex("5254000001") + bytes([flow])


def ask(flow: int, number: int) -> bytes:
    return (GUEST_MAC + peer_mac(flow) + ETHERTYPE + number.to_bytes(4, "big")).ljust(60, b".")


def tell(flow: int, content: bytes) -> bytes:
    return (peer_mac(flow) + GUEST_MAC + ETHERTYPE + content).ljust(60, b"\0")


def flow_of(frame: bytes) -> int:
    """Of an output."""
    return frame[5]


@dataclass
class AnsweringGuest:
    """Answers each input with its flow's count and what it heard there."""

    heard: dict[int, list[bytes]] = field(default_factory=dict)
    said: dict[int, list[bytes]] = field(default_factory=dict)

    def hear(self, frame: bytes, entropy: bytes = b"") -> bytes:
        flow = frame[11]
        inputs = self.heard.setdefault(flow, [])
        inputs.append(frame)
        content = len(inputs).to_bytes(4, "big") + frame[14:18] + entropy
        answer = tell(flow, content)
        self.said.setdefault(flow, []).append(answer)
        return answer

    def become(self, other: AnsweringGuest) -> None:
        self.heard, self.said = copy.deepcopy(other.heard), copy.deepcopy(other.said)


# TCP.


class TcpGuest:
    """A server that says each request back in brackets. Initial sequence numbers and clock are its host's own."""

    def __init__(self, isn: int, clock: int) -> None:
        self.isn = isn
        self.clock = clock
        self.ends: dict[int, End] = {}

    def tick(self, ms: int) -> None:
        self.clock += ms
        for end in self.ends.values():
            end.clock = self.clock

    def hear(self, frame: bytes) -> list[bytes]:
        segment = read_segment(frame)
        port = int.from_bytes(frame[34:36], "big")
        if segment.flags & SYN:
            self.ends[port] = End(Ends(target_port=port), self.isn, self.clock)
            self.isn = (self.isn + 64_000) & 0xFFFFFFFF
            self.ends[port].hears(frame)
            return [self.ends[port].opens()]
        end = self.ends[port]
        before = len(end.heard)
        end.hears(frame)
        out = []
        if request := end.heard[before:]:
            out.append(end.says(b"<" + request + b">"))
        if segment.flags & FIN:
            out.append(end.says(fin=True))
        return out

    def become(self, other: TcpGuest) -> None:
        """All but what is of the host: a clock goes on from the checkpoint's."""
        self.ends = copy.deepcopy(other.ends)
        self.clock, self.isn = other.clock, other.isn


@dataclass
class Client:
    """One connection to the guest."""

    port: int
    isn: int = 500
    end: End = field(init=False)

    def __post_init__(self) -> None:
        self.end = End(Ends("10.0.0.2", self.port, "10.0.0.1", 80), self.isn, 100)

    def hears_all(self, frames: list[bytes]) -> None:
        for frame in frames:
            if int.from_bytes(frame[36:38], "big") == self.port:
                self.end.hears(frame)
