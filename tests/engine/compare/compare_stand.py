"""A comparison machine with hands: frames in by name of the side, effects out as lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from compare_frames import ACK, FIN, RST, SYN, SYN_OPTIONS, Ends, tcp_frame, times

from replicator.compare import load_comparer
from replicator.engine.compare.effects import AskCheckpoint, CompareEffect, Drop, Release, TellShift
from replicator.engine.compare.events import (
    Committed,
    CompareEvent,
    InputsArrived,
    InputsLogged,
    PrimarySaid,
    SecondarySaid,
    ShiftsKnown,
    TimePassed,
)
from replicator.engine.compare.machine import CompareMachine, CompareSettings
from replicator.engine.compare.shift_table import ShiftTable
from replicator.engine.output import Frame
from replicator.units import Epoch

FIRST = Epoch(5)
MS = 1_000_000
ENDS = Ends()


class Stand:
    """Confirms inputs and shifts by itself, unless `confirms` is False."""

    def __init__(
        self,
        comparer: str = "tcp-stream",
        options: dict[str, Any] | None = None,
        settings: CompareSettings | None = None,
        *,
        confirms: bool = True,
    ) -> None:
        guard = load_comparer(comparer, options).guarded(lambda: 0)
        self.machine = CompareMachine(guard, epoch=FIRST, settings=settings or CompareSettings())
        self.table = ShiftTable()
        self.confirms = confirms
        self.now_ns = 0
        self.frames: dict[int, bytes] = {}
        self.inputs = 0
        self.released: list[int] = []
        self.dropped: list[int] = []
        self.asked: list[AskCheckpoint] = []
        self.told: list[TellShift] = []

    def primary(self, frame: bytes, epoch: int | None = None) -> int:
        number = len(self.frames) + 1
        self.frames[number] = frame
        self._play(PrimarySaid(self._epoch(epoch), number, 0, frame))
        return number

    def secondary(self, frame: bytes, epoch: int | None = None) -> None:
        self.table.from_guest(frame, 0)
        self._play(SecondarySaid(self._epoch(epoch), 0, frame))

    def both(self, frame: bytes, other: bytes | None = None) -> int:
        number = self.primary(frame)
        self.secondary(frame if other is None else other)
        return number

    def input(self, frame: bytes) -> bytes:
        """Returns it as the secondary's guest gets it."""
        self.inputs += 1
        self._play(InputsArrived(self.inputs, (Frame(0, frame),)))
        if self.confirms:
            self._play(InputsLogged(self.inputs))
        return self.table.to_guest(frame, 0)

    def log_inputs(self, upto: int | None = None) -> None:
        self._play(InputsLogged(self.inputs if upto is None else upto))

    def know_shifts(self, upto: int) -> None:
        self._play(ShiftsKnown(upto))

    def commit(self, epoch: int | None = None) -> None:
        self._play(Committed(self._epoch(epoch), self.inputs))
        self.table.commit()

    def wait(self, ms: float) -> None:
        self.now_ns += int(ms * MS)
        self._play(TimePassed())

    @property
    def held(self) -> int:
        return self.machine.status().held_frames

    def reasons(self) -> list[str]:
        return [one.reason.value for one in self.asked]

    def _epoch(self, epoch: int | None) -> Epoch:
        return self.machine.epoch if epoch is None else Epoch(epoch)

    def _play(self, event: CompareEvent) -> None:
        for effect in self.machine.handle(event, self.now_ns):
            self._note(effect)

    def _note(self, effect: CompareEffect) -> None:
        match effect:
            case Release(numbers):
                for number in numbers:
                    assert number in self.frames and number not in self.released, f"{number} twice"
                    self.released.append(number)
            case Drop(numbers):
                self.dropped += numbers
            case AskCheckpoint():
                self.asked.append(effect)
            case TellShift():
                self.told.append(effect)
                if self.confirms:
                    assert self.table.learn(effect.key, effect.shift)
                    self._play(ShiftsKnown(effect.number))


@dataclass
class Talker:
    """A guest's end of one connection. Places count from the first byte."""

    isn: int = 1000
    #: Its timestamps; None for a connection without.
    ts: int | None = None
    ends: Ends = ENDS
    peer_isn: int = 7000
    ack: int = field(default=0)

    def __post_init__(self) -> None:
        self.ack = self.ack or self.peer_isn + 1

    def syn_ack(self, *, options: bytes = SYN_OPTIONS) -> bytes:
        stamp = b"" if self.ts is None else times(self.ts, 1)
        return tcp_frame(self.ends, self.isn, ack=self.peer_isn + 1, flags=SYN, options=options + stamp)

    def syn(self) -> bytes:
        stamp = b"" if self.ts is None else times(self.ts)
        return tcp_frame(self.ends, self.isn, flags=SYN, options=SYN_OPTIONS + stamp)

    def says(self, place: int, data: bytes = b"", *, fin: bool = False, ack: int | None = None) -> bytes:
        stamp = b"" if self.ts is None else times(self.ts, 1)
        return tcp_frame(
            self.ends,
            self.isn + 1 + place,
            ack=self.ack if ack is None else ack,
            flags=FIN if fin else 0,
            data=data,
            options=stamp,
        )

    def resets(self, place: int = 0) -> bytes:
        return tcp_frame(self.ends, self.isn + 1 + place, flags=RST | ACK, ack=self.ack)
