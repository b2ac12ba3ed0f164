"""What a frame's way through a COLO pair costs: round trips of a client through both guests, beside those of a plain
relay in the same run.

    python benchmarks/colo_frames.py [--seconds 2] [--rounds 3] [--keys]

The client's frame goes from the TAP to the primary's relay, from there to its guest and over a channel on TCP to the
secondary's relay and guest; both echo it, the secondary's echo goes back over the channel, and the primary's leaves.
Runs in a network namespace of its own (needs root), each relay, guest and client in a process of its own. The ways take
turns. Exit code 1 when the median of the compared way misses its goal."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import zmq
from relay import TAP_NAME, Paths, child, echo, enter_namespace, ping

from replicator.compare import load_comparer
from replicator.engine.output import OutputMode
from replicator.link.base import LinkConfig
from replicator.link.frame_channel import FrameDialler, FrameListener
from replicator.link.keys import Keys
from replicator.output.colo_base import ColoCallbacks
from replicator.output.colo_relay import ColoRelay
from replicator.output.native_relay import NativeRelay
from replicator.output.relay import NicEnds, Relay
from replicator.output.secondary_relay import SecondaryRelay
from replicator.output.tap import open_tap
from replicator.units import Epoch

GOAL_MS = 0.5
SESSION = bytes(range(16))
WAIT_S = 5.0


def make_guard():
    return load_comparer().guarded(time.monotonic_ns)


def make_keys() -> tuple[Keys, Keys]:
    pairs = [tuple(part.decode() for part in zmq.curve_keypair()) for _ in range(2)]
    (a_public, a_secret), (b_public, b_secret) = pairs
    return (
        Keys(a_public, a_secret, frozenset([b_public])),
        Keys(b_public, b_secret, frozenset([a_public])),
    )


class Pair:
    """Paths and keys of both sides."""

    def __init__(self, folder: Path, with_keys: bool) -> None:
        self.primary = Paths(folder / "p-guest", folder / "p-relay")
        self.secondary = Paths(folder / "s-guest", folder / "s-relay")
        self.keys = make_keys() if with_keys else (None, None)


def run_secondary(pair: Pair, told: int) -> None:
    """The secondary's process: says its port, then relays until it is killed."""
    listener = FrameListener(LinkConfig("b", "127.0.0.1", keys=pair.keys[1]), SESSION)
    relay = SecondaryRelay([pair.secondary], make_guard())
    relay.start()
    relay.attach(listener)
    relay.loaded(Epoch(1), 0)
    relay.resume_input()
    os.write(told, b"%d\n" % listener.port)
    signal.pause()


def run_ping(seconds: float) -> list[float]:
    """Median, p99 and maximum in ms, and how many."""
    read, write = os.pipe()
    with child(lambda: ping(seconds, write)):
        select.select([read], [], [], seconds + WAIT_S)
        found = [float(word) for word in os.read(read, 4096).split()]
    os.close(read), os.close(write)
    return found


@contextlib.contextmanager
def plain_way(kind: Callable, pair: Pair) -> Iterator[None]:
    tap = open_tap(TAP_NAME)
    relay = kind([NicEnds(pair.primary, tap)])
    relay.start()
    try:
        with child(lambda: echo(pair.primary)):
            wait_until(lambda: relay.stats().connected)
            yield
    finally:
        relay.stop()
        tap.close()


@contextlib.contextmanager
def compared_way(pair: Pair) -> Iterator[None]:
    opened = threading.Event()
    read, write = os.pipe()
    tap = open_tap(TAP_NAME)
    asked: list[object] = []
    with (
        child(lambda: echo(pair.primary)),
        child(lambda: echo(pair.secondary)),
        child(lambda: run_secondary(pair, write)),
    ):
        port = int(os.read(read, 64))
        public = pair.keys[1].public if pair.keys[1] else ""
        dialler = FrameDialler(
            LinkConfig("a", "127.0.0.1", keys=pair.keys[0]),
            SESSION,
            host="127.0.0.1",
            port=port,
            public_key=public,
        )
        relay = ColoRelay(
            [NicEnds(pair.primary, tap)],
            make_guard(),
            mode=OutputMode.HOLD,
            colo=ColoCallbacks(on_channel_open=opened.set, on_ask_checkpoint=asked.append),
        )
        relay.start()
        relay.attach(dialler)
        try:
            assert opened.wait(WAIT_S), "the channel does not open"
            wait_until(lambda: relay.stats().connected)
            relay.hold_input()
            relay.drain_and_mark(Epoch(1))
            relay.resume_input()
            assert relay.compare(Epoch(1))
            yield
            if asked:
                print(f"  checkpoints were asked for: {asked[0]}")
        finally:
            relay.stop()
            tap.close()
    os.close(read), os.close(write)


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.001)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keys", action="store_true", help="sealed messages on the channel")
    options = parser.parse_args()
    enter_namespace()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(Path(folder), options.keys)
        ways = {
            "native relay": lambda: plain_way(NativeRelay, pair),
            "Python relay": lambda: plain_way(Relay, pair),
            "compared": lambda: compared_way(pair),
        }
        medians: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, way in ways.items():
                with way():
                    median, p99, worst, count = run_ping(options.seconds)
                medians[name].append(median)
                print(
                    f"{name:14} median {median:.3f}  p99 {p99:.3f}  max {worst:.2f} ms  ({count:.0f} trips)"
                )
    middle = {name: statistics.median(found) for name, found in medians.items()}
    for name, found in middle.items():
        print(f"{name:14} {found:.3f} ms, {found / middle['Python relay']:.2f} of the Python relay")
    return int(middle["compared"] > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
