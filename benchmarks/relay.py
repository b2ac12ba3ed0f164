"""Speed of the relay: round trip and frames a second through a real TAP and real unix sockets.

    python benchmarks/relay.py [--seconds 2]

Runs in a network namespace of its own (needs root) with three processes: the relay, a guest that echoes or floods,
and a client on a packet socket. The native relay and the one in Python are measured one after the other in each
measurement, and again while the main thread of the relay's process computes, which shows what the interpreter's lock
costs. Exit code 1 when the native one misses a goal while the main thread is idle."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import socket
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from replicator.engine.output import OutputMode
from replicator.output.native_relay import NativeRelay
from replicator.output.relay import NicEnds, Relay
from replicator.output.tap import open_tap
from replicator.units import Epoch

RTT_GOAL_MS = 0.3
RATE_GOAL = 20_000

AnyRelay = Relay | NativeRelay

GUEST_MAC = bytes.fromhex("525400000001")
CLIENT_MAC = bytes.fromhex("525400000002")
ETHERTYPE = 0x88B5
TO_CLIENT = CLIENT_MAC + GUEST_MAC + ETHERTYPE.to_bytes(2, "big")
TO_GUEST = GUEST_MAC + CLIENT_MAC + ETHERTYPE.to_bytes(2, "big")
TAP_NAME = "bench0"
CLONE_NEWNET = 0x40000000
#: <asm/socket.h>: a receive buffer beyond the system's bound.
SO_RCVBUFFORCE = 33


@dataclass(frozen=True)
class Paths:
    guest_path: Path
    relay_path: Path
    name: str = "nic0"
    mac: str = "52:54:00:00:00:01"


def enter_namespace() -> None:
    """A fresh network namespace for this process; it ends with it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        sys.exit(f"cannot make a network namespace: {os.strerror(ctypes.get_errno())} (run as root)")
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")


def guest_socket(paths: Paths) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        paths.guest_path.unlink()
    one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.bind(str(paths.guest_path))
    return one


def client_socket() -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETHERTYPE))
    one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
    one.bind((TAP_NAME, ETHERTYPE))
    return one


@contextlib.contextmanager
def child(run: Callable[[], None]) -> Iterator[int]:
    """Run a function in a forked process until the block ends."""
    pid = os.fork()
    if pid == 0:
        try:
            run()
        finally:
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            os._exit(1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def echo(paths: Paths) -> None:
    """The guest answers each frame."""
    guest = guest_socket(paths)
    while True:
        data = guest.recv(65536)
        guest.sendto(TO_CLIENT + data[14:], str(paths.relay_path))


def flood(paths: Paths, size: int, seconds: float) -> None:
    """The guest sends as fast as it can."""
    guest = guest_socket(paths)
    data = TO_CLIENT.ljust(size, b".")
    target = str(paths.relay_path)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(64):
            guest.sendto(data, target)
    signal.pause()


def sink(paths: Paths) -> None:
    guest = guest_socket(paths)
    while True:
        guest.recv(65536)


def ping(seconds: float, out: int) -> None:
    """The client's side of `echo`: round trips in ms, as one line of statistics."""
    client = client_socket()
    client.settimeout(1.0)
    trips: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        begin = time.perf_counter_ns()
        client.send(TO_GUEST.ljust(60, b"."))
        while client.recvfrom(2048)[1][2] == socket.PACKET_OUTGOING:
            pass
        trips.append((time.perf_counter_ns() - begin) / 1e6)
    trips.sort()
    line = f"{statistics.median(trips)} {trips[int(len(trips) * 0.99)]} {trips[-1]} {len(trips)}"
    os.write(out, line.encode())


def blast(seconds: float, size: int) -> None:
    """The client sends as fast as it can."""
    client = client_socket()
    data = TO_GUEST.ljust(size, b".")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for _ in range(64):
            with contextlib.suppress(OSError):
                client.send(data)
    signal.pause()


def wait(seconds: float, busy: bool, until: int | None = None) -> None:
    """Let time pass, idle or computing; or until the pipe `until` has something."""
    end = time.monotonic() + seconds
    if not busy:
        if until is None:
            time.sleep(seconds)
        else:
            select.select([until], [], [], seconds)
        return
    while time.monotonic() < end:
        sum(range(2000))
        if until is not None and select.select([until], [], [], 0)[0]:
            return


def wait_connected(relay: AnyRelay) -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end and not relay.stats().connected:
        time.sleep(0.005)


class Bench:
    """One kind of relay, beside a main thread that is idle or computes."""

    def __init__(self, kind: type[AnyRelay], folder: Path, seconds: float, busy: bool) -> None:
        self.kind = kind
        self.name = f"{'native' if kind is NativeRelay else 'python'}{', busy' if busy else ''}"
        self.folder = folder
        self.seconds = seconds
        self.busy = busy
        self.missed = False

    def round_trip(self) -> None:
        paths = self._paths()
        read_end, write_end = os.pipe()
        with self._relay(paths) as relay, child(lambda: echo(paths)):
            wait_connected(relay)
            with child(lambda: ping(self.seconds, write_end)):
                os.set_blocking(read_end, False)
                wait(self.seconds + 5, self.busy, read_end)
                median, p99, worst, count = map(float, os.read(read_end, 200).split())
        os.close(read_end)
        os.close(write_end)
        trips = f"median {median:.3f} ms, p99 {p99:.3f}, max {worst:.3f} ({count:.0f} trips)"
        print(f"{self.name:13} round trip, pass mode: {trips}")
        self._goal(median <= RTT_GOAL_MS, f"median round trip <= {RTT_GOAL_MS} ms")

    def outgoing(self, size: int, mode: OutputMode) -> None:
        """Frames a second from guest to TAP; in HOLD mode with a barrier and a release each 50 ms."""
        paths = self._paths()
        with self._relay(paths, mode) as relay, child(lambda: flood(paths, size, 60)):
            wait_connected(relay)
            begin_s, before, epochs = time.monotonic(), relay.stats().output, 0
            marks: list[float] = []
            while time.monotonic() < begin_s + self.seconds:
                wait(0.05, self.busy)
                if mode is OutputMode.HOLD:
                    epochs += 1
                    marks.append(self._checkpoint(relay, epochs))
            after = relay.stats().output
            rate = (after.left_frames - before.left_frames) / (time.monotonic() - begin_s)
        more = f", mark median {statistics.median(marks):.2f} ms" if marks else ""
        way = f"guest -> TAP, {mode.value}, {size} bytes"
        print(f"{self.name:13} {way}: {rate:,.0f} frames/s{more}, lost {after.lost_frames}")
        self._goal(rate >= RATE_GOAL, f"{RATE_GOAL} frames/s")

    def incoming(self, size: int) -> None:
        paths = self._paths()
        with self._relay(paths) as relay, child(lambda: sink(paths)):
            wait_connected(relay)
            with child(lambda: blast(60, size)):
                begin_s, before = time.monotonic(), relay.stats().input
                wait(self.seconds, self.busy)
                after = relay.stats().input
                rate = (after.given_frames - before.given_frames) / (time.monotonic() - begin_s)
        way = f"TAP -> guest, {size} bytes"
        print(f"{self.name:13} {way}: {rate:,.0f} frames/s, dropped {after.dropped_frames}")
        self._goal(rate >= RATE_GOAL, f"{RATE_GOAL} frames/s")

    def _checkpoint(self, relay: AnyRelay, epoch: int) -> float:
        """One barrier while the guest floods on; returns what hold and mark took, in ms."""
        begin_ns = time.perf_counter_ns()
        relay.hold_input()
        relay.drain_and_mark(Epoch(epoch))
        took_ms = (time.perf_counter_ns() - begin_ns) / 1e6
        relay.resume_input()
        relay.release(Epoch(epoch))
        return took_ms

    def _paths(self) -> Paths:
        return Paths(self.folder / "guest", self.folder / "relay")

    @contextlib.contextmanager
    def _relay(self, paths: Paths, mode: OutputMode = OutputMode.PASS) -> Iterator[AnyRelay]:
        tap = open_tap(TAP_NAME)
        relay = self.kind([NicEnds(paths, tap)], mode=mode)
        relay.start()
        try:
            yield relay
        finally:
            relay.stop()
            tap.close()

    def _goal(self, reached: bool, goal: str) -> None:
        if not reached and not self.busy and self.kind is NativeRelay:
            print(f"  missed: {goal}")
            self.missed = True


MEASUREMENTS: list[Callable[[Bench], None]] = [
    Bench.round_trip,
    lambda bench: bench.outgoing(60, OutputMode.PASS),
    lambda bench: bench.outgoing(1514, OutputMode.PASS),
    lambda bench: bench.outgoing(1514, OutputMode.HOLD),
    lambda bench: bench.incoming(1514),
]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement")
    parser.add_argument(
        "--switch-ms", type=float, default=5.0, help="sys.setswitchinterval of the relay's process"
    )
    options = parser.parse_args()
    sys.setswitchinterval(options.switch_ms / 1000)
    enter_namespace()
    with tempfile.TemporaryDirectory() as folder:
        benches = [
            Bench(kind, Path(folder), options.seconds, busy)
            for busy in (False, True)
            for kind in (NativeRelay, Relay)
        ]
        for measure in MEASUREMENTS:
            for bench in benches:
                measure(bench)
    return int(any(bench.missed for bench in benches))


if __name__ == "__main__":
    sys.exit(main())
