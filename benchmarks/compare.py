"""Frames a second through the comparison of COLO, in plain Python.

    python benchmarks/compare.py [--frames 20000] [--rounds 5]

Each candidate is a mix of the two sides' frames and the inputs between them; parsing alone is the first one. Everything
must be found the same: a candidate that asks for a checkpoint ends the benchmark."""

from __future__ import annotations

import argparse
import statistics
import struct
import sys
from collections.abc import Callable, Sequence
from functools import partial

from tools import time_rounds

from replicator.compare import load_comparer
from replicator.engine.compare.effects import AskCheckpoint
from replicator.engine.compare.events import (
    CompareEvent,
    InputsArrived,
    InputsLogged,
    PrimarySaid,
    SecondarySaid,
)
from replicator.engine.compare.machine import CompareMachine
from replicator.engine.compare.packet import parse_frame
from replicator.engine.compare.shift import Shift
from replicator.engine.compare.shift_table import ShiftTable
from replicator.engine.output import Frame
from replicator.units import Epoch

EPOCH = Epoch(1)
GUEST, PEER = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2))
MASK = 0xFFFFFFFF


def tcp_frame(source: bytes, target: bytes, ports: tuple[int, int], seq: int, ack: int, data: bytes) -> bytes:
    """With timestamps; its checksums are not looked at."""
    options = b"\1\1" + struct.pack("!BBII", 8, 10, seq & MASK, 1)
    tcp = struct.pack("!HHIIBBHHH", *ports, seq & MASK, ack & MASK, 8 << 4, 0x18, 1000, 0, 0) + options + data
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0x4000, 64, 6, 0) + source + target
    return (bytes(12) + b"\x08\x00" + ip + tcp).ljust(60, b"\0")


def requests(frames: int, size: int, connections: int) -> list[CompareEvent]:
    """Request, answer of either side, over and over; three frames a turn."""
    events: list[CompareEvent] = []
    for turn in range(frames // 3):
        port = 1000 + turn % connections
        place = turn // connections * size
        asked = tcp_frame(PEER, GUEST, (port, 80), place, place, bytes(40))
        answer = tcp_frame(GUEST, PEER, (80, port), place, place + 40, bytes(size))
        events.append(InputsArrived(turn + 1, (Frame(0, asked),)))
        events.append(InputsLogged(turn + 1))
        events.append(PrimarySaid(EPOCH, turn, 0, answer))
        events.append(SecondarySaid(EPOCH, 0, answer))
    return events


def bulk(frames: int, size: int, window: int) -> list[CompareEvent]:
    """One stream; the secondary is a window behind."""
    events: list[CompareEvent] = []
    for start in range(0, frames // 2, window):
        turns = range(start, min(start + window, frames // 2))
        said = [tcp_frame(GUEST, PEER, (80, 1000), turn * size, 1, bytes(size)) for turn in turns]
        events += [PrimarySaid(EPOCH, turn, 0, frame) for turn, frame in zip(turns, said)]
        events += [SecondarySaid(EPOCH, 0, frame) for frame in said]
    return events


def run(comparer: str, events: Sequence[CompareEvent]) -> None:
    machine = CompareMachine(load_comparer(comparer).guarded(lambda: 0), epoch=EPOCH)
    for event in events:
        for effect in machine.handle(event, 0):
            if isinstance(effect, AskCheckpoint):
                sys.exit(f"{comparer} asked for a checkpoint: {effect.detail}")
    if machine.status().held_frames:
        sys.exit(f"{comparer} has left {machine.status().held_frames} frames behind")


def parse(frames: Sequence[bytes]) -> None:
    for frame in frames:
        parse_frame(frame, 0, from_guest=True)


def shift(frames: Sequence[bytes]) -> None:
    """What the secondary's side does with each input of a shifted connection."""
    table = ShiftTable()
    table.learn(parse_frame(frames[0], 0, from_guest=False).key, Shift(12345, 67))
    for frame in frames:
        table.to_guest(frame, 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--frames", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    frames = arguments.frames // 12 * 12
    plain = [tcp_frame(PEER, GUEST, (1000, 80), 100 * turn, 1, bytes(100)) for turn in range(frames)]
    candidates: dict[str, Callable[[], object]] = {
        "parse": partial(parse, plain),
        "shift inputs": partial(shift, plain),
        "requests, 1 connection": partial(run, "tcp-stream", requests(frames, 100, 1)),
        "requests, 100 connections": partial(run, "tcp-stream", requests(frames, 100, 100)),
        "requests, http comparer": partial(run, "http", requests(frames, 100, 1)),
        "bulk, 1448 bytes, 1 behind": partial(run, "tcp-stream", bulk(frames, 1448, 1)),
        "bulk, 1448 bytes, 40 behind": partial(run, "tcp-stream", bulk(frames, 1448, 40)),
    }
    times = time_rounds(candidates, arguments.rounds)
    print(f"{frames} frames, {arguments.rounds} rounds")
    for name, values in times.items():
        rates = [frames / value for value in values]
        print(
            f"  {name:<30} {statistics.median(rates):7.1f} k frames/s  ({min(rates):.1f} .. {max(rates):.1f})"
        )


if __name__ == "__main__":
    main()
