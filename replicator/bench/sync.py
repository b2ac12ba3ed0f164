"""`bench sync`: the first copy of a running guest, against QEMU's own live migrations of the same guest in the same run.

Each repeat goes through all candidates. Bytes are counted on the interface of the link, of all candidates alike; the
duration of a synchronisation is from the secondary's consent to the first ack, that of a migration is QEMU's own. Two
limits are measured beside: the guest's RAM through a plain TCP socket over the same link, and through memcpy.

The downtime of a synchronisation is the pause of the epoch that ends it, after which the guest goes on here; that of a
migration is what QEMU says, after which it would go on there.
"""

from __future__ import annotations

import mmap
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final

from replicator.bench.figures.result import make_cell
from replicator.bench.loads.background import under_load
from replicator.bench.loads.sink import DONE
from replicator.bench.loads.workloads import Place, Workload
from replicator.bench.rig.attached import AttachedPair
from replicator.bench.rig.migration import METHODS, Method, migrate
from replicator.bench.rig.pair import LINK
from replicator.bench.rig.processes import interface_bytes
from replicator.bench.run import Run, describe_error
from replicator.demo.guest_image import GuestImage
from replicator.demo.lab import HOST_A, HOST_B, REPLICATION, Lab
from replicator.demo.timeline import Event
from replicator.drill.stand.voice import call_inside
from replicator.errors import GuestError, ReplicatorError
from replicator.units import NS_PER_MS, NS_PER_S

OURS, SOCKET, MEMCPY = "replicator", "plain socket", "memcpy"
REFERENCE: Final = "QEMU tcp, no limit"
_TIMEOUT_S: Final = 60.0
_PIECE_BYTES: Final = 4 << 20
Metrics = dict[str, float]


def measure_syncs(run: Run, image: GuestImage, workload: Workload) -> None:
    """Fills the recorder. The guest is loaded by `workload` while it is copied."""
    try:
        with Lab() as lab, AttachedPair(lab, image, {}) as pair:
            for repeat in range(run.repeats):
                for name, metrics in _measure_turn(run, pair, workload, repeat).items():
                    run.recorder.add(make_cell(workload=workload.name, candidate=name), metrics)
    except ReplicatorError as error:
        run.recorder.fail(make_cell(workload=workload.name), describe_error(error))


def candidates() -> dict[str, Callable[[AttachedPair], Metrics]]:
    """In the order in which they take turns."""

    def migrating(method: Method) -> Callable[[AttachedPair], Metrics]:
        return lambda pair: measure_migration(pair, method)

    return {
        OURS: measure_sync,
        **{method.name: migrating(method) for method in METHODS},
        SOCKET: measure_socket,
        MEMCPY: measure_memcpy,
    }


def _measure_turn(run: Run, pair: AttachedPair, workload: Workload, repeat: int) -> dict[str, Metrics]:
    place = Place(pair.lab, pair.orders, run.seed + repeat)
    seen: dict[str, Metrics] = {}
    for name, measure in candidates().items():
        run.steps.begin(name)
        pair.unprotect()
        if name in (SOCKET, MEMCPY):
            seen[name] = measure(pair)
            continue
        with under_load(lambda: workload.run(place, run.seconds)):
            seen[name] = measure(pair)
    rate = seen[REFERENCE]["guest RAM a second"]
    seen[OURS]["rate of QEMU's tcp migration"] = seen[OURS]["guest RAM a second"] / rate
    return seen


def measure_sync(pair: AttachedPair) -> Metrics:
    """Start the secondary and read from the journal how long the copy took."""
    # What the secondary kept of the last one would only be brought up to date.
    shutil.rmtree(pair.stage.scratch / "b", ignore_errors=True)
    began_ns, before = time.monotonic_ns(), _wire_bytes(pair)
    pair.protect()
    wire_bytes = _wire_bytes(pair) - before
    seconds, downtime_ms = read_sync(pair.stage.events_of("a"), began_ns)
    return _describe(pair, seconds, wire_bytes) | {"downtime": downtime_ms}


def read_sync(events: Iterable[Event], after_ns: int) -> tuple[float, float]:
    """Seconds from the secondary's consent to the first ack, and milliseconds of the pause before it."""
    accepted_ns = pausing_ns = resumed_ns = 0
    for event in events:
        if event.at_ns < after_ns:
            continue
        if event.name == "accepted":
            accepted_ns = event.at_ns
        elif event.name == "pausing":
            pausing_ns = event.at_ns
        elif event.name == "resumed" and not resumed_ns:
            resumed_ns, paused_ns = event.at_ns, event.at_ns - pausing_ns
        elif event.name == "acked" and accepted_ns and resumed_ns:
            return (event.at_ns - accepted_ns) / NS_PER_S, paused_ns / NS_PER_MS
    raise GuestError("the journal tells of no synchronisation", hint="did the secondary refuse?")


def measure_migration(pair: AttachedPair, method: Method) -> Metrics:
    before = _wire_bytes(pair)
    done = migrate(pair, method)
    wire_bytes = _wire_bytes(pair) - before
    return _describe(pair, done.seconds, wire_bytes) | {"downtime": done.downtime_ms}


def measure_socket(pair: AttachedPair) -> Metrics:
    """The guest's RAM, as it is, through one TCP connection from host to host."""
    address = pair.lab.address(HOST_B, REPLICATION)
    argv = [sys.executable, "-m", "replicator.bench.loads.sink", address]
    sink = pair.lab.run(HOST_B, argv, stdout=subprocess.PIPE)
    if sink.stdout is None:
        raise GuestError("the sink has no output")
    port = int(sink.stdout.readline())
    connection = call_inside(pair.lab.namespaces[HOST_A], lambda: socket.socket(socket.AF_INET))
    with connection, open_ram(pair) as ram, memoryview(ram) as view:
        connection.settimeout(_TIMEOUT_S)
        connection.connect((address, port))
        before, began = _wire_bytes(pair), time.monotonic()
        for at in range(0, len(view), _PIECE_BYTES):
            connection.sendall(view[at : at + _PIECE_BYTES])
        connection.shutdown(socket.SHUT_WR)
        if connection.recv(len(DONE), socket.MSG_WAITALL) != DONE:
            raise GuestError("the sink did not take everything")
        seconds = time.monotonic() - began
    sink.wait(_TIMEOUT_S)
    return _describe(pair, seconds, _wire_bytes(pair) - before)


def measure_memcpy(pair: AttachedPair) -> Metrics:
    """The guest's RAM copied once within this machine, into memory that is there."""
    target = bytearray(pair.config.ram_bytes)
    with open_ram(pair) as ram, memoryview(ram) as view:
        began = time.monotonic()
        for at in range(0, len(view), _PIECE_BYTES):
            target[at : at + _PIECE_BYTES] = view[at : at + _PIECE_BYTES]
        seconds = time.monotonic() - began
    return {"duration": seconds, "guest RAM a second": pair.config.ram_bytes / seconds / 1e6}


def open_ram(pair: AttachedPair) -> mmap.mmap:
    fd = os.open(pair.ram_path("source"), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, pair.config.ram_bytes, prot=mmap.PROT_READ)
    finally:
        os.close(fd)


def _wire_bytes(pair: AttachedPair) -> int:
    return interface_bytes(pair.primary.pid, LINK)


def _describe(pair: AttachedPair, seconds: float, wire_bytes: int) -> Metrics:
    return {
        "duration": seconds,
        "guest RAM a second": pair.config.ram_bytes / seconds / 1e6,
        "wire bytes a second": wire_bytes / seconds / 1e6,
        "wire bytes in all": wire_bytes / 1e6,
    }
