"""What the synthetic guest says: frames it takes, frames it answers with, and frames it says unasked.

Two guests in equal states that take equal frames in equal order answer with equal frames in equal order, however fast
each of them steps: no frame tells of a step that time brought, or of another frame that may come sooner or later than
it. Beacons are due by the running time, which is part of the state, and each follows from its number. So with a
divergence of 0 only the moment of a beacon among the answers is a matter of time. With more each frame but ARP may
bring entropy, which stays in the state: until both guests are equal again, every frame differs.

No I/O, no clock.
"""

from __future__ import annotations

from replicator.guests.synthetic_frames import (
    BEACON_SEQUENCE,
    ONCE_FLAG,
    Address,
    Reply,
    answer_frame,
    encode_beacon,
    work_in,
)
from replicator.guests.synthetic_machine import SyntheticMachine


class SyntheticService:
    """The service of one machine. `beacon_ns`: running time from one beacon to the next; 0: it says none."""

    def __init__(self, machine: SyntheticMachine, own: Address, beacon_ns: int) -> None:
        self._machine = machine
        self._own = own
        self._beacon_ns = beacon_ns

    def take_frame(self, frame: bytes) -> bytes | None:
        """Take a frame that has arrived; the answer to it, or None."""
        self._machine.count_frame()
        return answer_frame(frame, self._own, self._serve)

    def next_beacon(self) -> bytes | None:
        """The oldest beacon that is due and was not said, or None."""
        if not self._beacon_ns or self._beacons_due() <= self._machine.registers.beacons:
            return None
        number = self._machine.count_beacon()
        return encode_beacon(self._own.mac, self._speak(BEACON_SEQUENCE, number, 0))

    def _beacons_due(self) -> int:
        return self._machine.clocks.running_ns // self._beacon_ns

    def _serve(self, sequence: int) -> Reply:
        machine = self._machine
        if steps := work_in(sequence):
            machine.do_work(steps)
        elif sequence & ONCE_FLAG:
            machine.serve_once(sequence)
        else:
            machine.serve_request()
        return self._speak(sequence, machine.registers.counter, machine.registers.work)

    def _speak(self, sequence: int, counter: int, work: int) -> Reply:
        self._machine.maybe_diverge()
        registers = self._machine.registers
        return Reply(sequence, counter, work, registers.boots, registers.draws, registers.noise)
