"""A network namespace of our own with a TAP in it, and a relay between that and a guest's socket."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from output_tools import TAP_NAME, AnyRelay, ColoAlone, GuestEnd, Heard, Network, Paths

from replicator.output.native_relay import NativeRelay
from replicator.output.relay import NicEnds, Relay
from replicator.output.tap import Tap, open_tap

_CLONE_NEWNET = 0x40000000


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    """Move the test's thread into a fresh network namespace for one module; sockets and TAPs are made there."""
    name = f"relay-{os.getpid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        there = os.open(f"/run/netns/{name}", os.O_RDONLY)
        assert libc.setns(there, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        os.close(there)
        # The kernel's own router solicitations and the like would only disturb.
        Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")
        yield name
    finally:
        assert libc.setns(home, _CLONE_NEWNET) == 0
        os.close(home)
        subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture
def tap(namespace: str) -> Iterator[Tap]:
    opened = open_tap(TAP_NAME)
    yield opened
    opened.close()


@pytest.fixture
def network(tap: Tap) -> Iterator[Network]:
    one = Network(tap.name)
    yield one
    one.socket.close()


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path / "guest.sock", tmp_path / "relay.sock")


@pytest.fixture
def guest(paths: Paths) -> Iterator[GuestEnd]:
    one = GuestEnd(paths)
    yield one
    one.socket.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(params=[Relay, NativeRelay, ColoAlone], ids=["python", "native", "colo"])
def relay_kind(request: pytest.FixtureRequest) -> type[AnyRelay]:
    """Each relay in turn: what a test says holds for both."""
    kind: type[AnyRelay] = request.param
    return kind


@pytest.fixture
def make_relay(
    relay_kind: type[AnyRelay], tap: Tap, paths: Paths, heard: Heard
) -> Iterator[Callable[..., AnyRelay]]:
    """A relay with the TAP and the guest's paths; not started."""
    made: list[AnyRelay] = []

    def make(**options: object) -> AnyRelay:
        relay = relay_kind([NicEnds(paths, tap)], callbacks=heard.callbacks(), **options)  # type: ignore[arg-type]
        made.append(relay)
        return relay

    yield make
    for relay in made:
        relay.stop()


@pytest.fixture
def tmp_path_shm() -> Iterator[Path]:
    """A folder on tmpfs, for the guest's RAM."""
    with tempfile.TemporaryDirectory(prefix="relay-", dir="/dev/shm") as folder:
        yield Path(folder)
