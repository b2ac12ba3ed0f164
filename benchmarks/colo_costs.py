"""What a request costs the relays of a COLO pair in processor time, without sockets: the cores, the comparison and the
messages between the two.

    python benchmarks/colo_costs.py [--requests 20000] [--connections 50] [--turn 2] [--profile]

Clients of one TCP server send a request and get an answer of the same size as redis's to a SET, `turn` of them in each
turn of the relays. Both guests answer alike. Prints microseconds a request of the primary's and of the secondary's
relay: the best of five runs. `--profile` shows where they go."""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable
from pathlib import Path

from replicator.compare import load_comparer
from replicator.engine.compare.compared_output import ComparedOutput
from replicator.engine.output import OutputMode
from replicator.output.base import UNLIMITED, RelayCallbacks
from replicator.output.colo_base import ColoCallbacks
from replicator.output.colo_core import ColoCore
from replicator.output.frame_channel_memory import make_memory_pair
from replicator.output.memory import MemoryCosts, MemoryPort
from replicator.output.secondary_core import SecondaryCore
from replicator.units import Epoch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "engine" / "compare"))
from compare_frames import Ends, tcp_frame, times

REQUEST = b"*3\r\n$3\r\nSET\r\n$16\r\nkey:000000012345\r\n$3\r\nxxx\r\n"
ANSWER = b"+OK\r\n"
RUNS = 5


class Connections:
    """The frames of some connections that are open, request after request."""

    def __init__(self, count: int) -> None:
        self._ends = [Ends("10.0.0.2", 40000 + at, "10.0.0.1", 6379) for at in range(count)]
        self._turn = 0

    def exchange(self) -> tuple[bytes, bytes]:
        """The next request and its answer."""
        ends = self._ends[self._turn % len(self._ends)]
        number = self._turn // len(self._ends)
        self._turn += 1
        asked, told = 1000 + number * len(REQUEST), 5000 + number * len(ANSWER)
        clock = 100 + self._turn
        request = tcp_frame(ends, asked, ack=told, data=REQUEST, options=times(clock, clock - 1))
        answer = tcp_frame(
            ends.flipped(), told, ack=asked + len(REQUEST), data=ANSWER, options=times(clock, clock)
        )
        return request, answer


class Pair:
    """Both cores, comparing, and how long each has worked."""

    def __init__(self) -> None:
        guard = load_comparer().guarded(time.monotonic_ns)
        self.ports = MemoryPort(), MemoryPort()
        costs, callbacks = MemoryCosts(), RelayCallbacks()
        output = ComparedOutput(guard, mode=OutputMode.HOLD)
        self.primary = ColoCore([self.ports[0]], costs, UNLIMITED, callbacks, ColoCallbacks(), output)
        output = ComparedOutput(load_comparer().guarded(time.monotonic_ns))
        self.secondary = SecondaryCore([self.ports[1]], costs, callbacks, ColoCallbacks(), output)
        ends = make_memory_pair(bytes(16))
        self.secondary.attach(ends[1])
        self.primary.attach(ends[0])
        self.secondary.serve_channel()
        self.primary.serve_channel()
        self.primary.hold_input()
        mark = self.primary.drain_and_mark(Epoch(1))
        self.primary.resume_input()
        self.secondary.loaded(Epoch(1), mark.input_seq)
        self.secondary.resume_input()
        assert self.primary.compare(Epoch(1))
        self.took_ns = [0, 0]

    def turn(self, exchanges: list[tuple[bytes, bytes]]) -> None:
        """These requests come in, and what both guests answer leaves."""
        self.ports[0].from_network.extend(request for request, _ in exchanges)
        self._work(0, lambda: self.primary.read_network(0))
        self._work(1, self._hear_inputs)
        for port in self.ports:
            assert len(port.unread) == len(exchanges)
            port.unread.clear()
            port.from_guest.extend(answer for _, answer in exchanges)
        self._work(1, lambda: self.secondary.read_guest(0))
        self._work(0, self._compare)
        assert len(self.ports[0].left) == len(exchanges)
        self.ports[0].left.clear()

    def _hear_inputs(self) -> None:
        self.secondary.serve_channel()
        self.secondary.pass_time()

    def _compare(self) -> None:
        self.primary.read_guest(0)
        self.primary.serve_channel()
        self.primary.pass_time()
        self.primary.write_network()
        self.primary.deliver_notices()

    def _work(self, side: int, do: Callable[[], object]) -> None:
        begin_ns = time.thread_time_ns()
        do()
        self.took_ns[side] += time.thread_time_ns() - begin_ns


def run(options: argparse.Namespace) -> list[float]:
    """Microseconds a request of each side."""
    connections, pair = Connections(options.connections), Pair()
    turns = [
        [connections.exchange() for _ in range(options.turn)] for _ in range(options.requests // options.turn)
    ]
    for exchanges in turns:
        pair.turn(exchanges)
    return [took_ns / 1e3 / options.requests for took_ns in pair.took_ns]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=50)
    parser.add_argument("--turn", type=int, default=2, help="requests in one turn")
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    if options.profile:
        with cProfile.Profile() as profile:
            run(options)
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return
    runs = [run(options) for _ in range(RUNS)]
    for name, took in zip(("primary", "secondary"), zip(*runs, strict=True), strict=True):
        print(f"{name:9} {min(took):6.1f} us a request")


if __name__ == "__main__":
    main()
