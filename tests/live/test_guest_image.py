"""The guest image boots in QEMU and its services answer over a TAP of the lab."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.demo import guest_scripts
from replicator.demo.guest_image import (
    GuestImage,
    default_cache_dir,
    ensure_guest_image,
)
from replicator.demo.lab import CLIENT, HOST_A, Lab

pytestmark = pytest.mark.live

GUEST = "10.77.0.10"
ASK = """import socket, sys
address, port, *requests = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(5); s.connect((address, int(port)))
for request in requests:
    s.send(request.encode()); print(s.recv(2048).decode().strip())
"""
REDIS = """import socket, sys
s = socket.create_connection((sys.argv[1], 6379), timeout=5)
for command in sys.argv[2:]:
    s.sendall(command.encode() + b"\\r\\n"); print(s.recv(100).decode().strip())
"""


class Machine:
    """One QEMU with the guest, on the lab's host-a."""

    def __init__(self, lab: Lab, image: GuestImage) -> None:
        self.lab = lab
        self.console = lab.scratch / "console"
        tap = f"tap,id=n0,ifname={lab.tap_name(HOST_A)},script=no,downscript=no"
        self.process = lab.run(
            HOST_A,
            [
                "qemu-system-x86_64", "-M", "pc", "-accel", "tcg", "-m", "256", "-nodefaults", "-nographic",
                "-vga", "none", "-kernel", str(image.kernel), "-initrd", str(image.initrd),
                "-append", image.cmdline, "-serial", "stdio", "-netdev", tap,
                "-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "pvpanic", "-no-reboot",
            ],
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self.wait_for_line(guest_scripts.READY_MARK)

    def wait_for_line(self, mark: str) -> None:
        """Read the console until a line with `mark`; fail when QEMU ends before."""
        assert self.process.stdout
        seen: list[str] = []
        for line in self.process.stdout:
            seen.append(line.decode(errors="replace"))
            if mark in seen[-1]:
                return
        pytest.fail(f"QEMU ended before the guest said {mark}: " + "".join(seen)[-2000:])

    def ask(self, port: int, *requests: str) -> list[str]:
        """Send datagrams from the client's machine, return the answers."""
        argv = [sys.executable, "-c", ASK, GUEST, str(port), *requests]
        return self.lab.check_output(CLIENT, argv).splitlines()

    def redis(self, *commands: str) -> list[str]:
        """Send redis commands from the client's machine, return the answers."""
        return self.lab.check_output(CLIENT, [sys.executable, "-c", REDIS, GUEST, *commands]).splitlines()


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return ensure_guest_image(default_cache_dir(), lambda line: print(line, flush=True))


@pytest.fixture
def machine(image: GuestImage) -> Iterator[Machine]:
    with Lab() as lab:
        yield Machine(lab, image)


def test_services_answer_and_the_guest_powers_off(machine: Machine) -> None:
    assert machine.redis("INCR counter", "INCR counter", "SET key value") == [
        ":1",
        ":2",
        "+OK",
    ]
    assert machine.redis("CONFIG GET save", "INCR counter") == [
        "*2",
        "$4",
        "save",
        "$0",
        ":3",
    ]
    counter = guest_scripts.COUNTER_PORT
    assert machine.ask(counter, "a", "b", "a") == ["1 1 a", "2 1 b", "3 2 a"]
    assert machine.ask(counter, "a") == ["4 3 a"]
    commands = ("ping", "dance", "dirty 30")
    assert machine.ask(guest_scripts.COMMAND_PORT, *commands) == [
        "ok ping",
        "unknown dance",
        "ok dirty 30",
    ]
    assert machine.ask(guest_scripts.COMMAND_PORT, "ping", "poweroff") == [
        "ok ping",
        "ok poweroff",
    ]
    assert machine.process.wait(20) == 0


def test_panic_is_seen_by_qemu(machine: Machine) -> None:
    assert machine.ask(guest_scripts.COMMAND_PORT, "crash") == ["ok crash"]
    machine.wait_for_line("Kernel panic - not syncing")
    assert machine.process.wait(20) == 0


def test_reboot_is_asked_of_qemu(machine: Machine) -> None:
    assert machine.ask(guest_scripts.COMMAND_PORT, "reboot") == ["ok reboot"]
    assert machine.process.wait(20) == 0


def test_cached_image_is_what_its_name_says(image: GuestImage) -> None:
    assert ensure_guest_image(default_cache_dir(), print) == image
    assert Path(image.kernel).stat().st_size > 5_000_000
    assert 5_000_000 < Path(image.initrd).stat().st_size < 16_000_000
