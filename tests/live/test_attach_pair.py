"""A QEMU that an operator started is attached while it runs, protected, and taken over like any other."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pair_lab import PATIENCE_S, Pair, has_ended, open_pair

from replicator.demo.lab import HOST_A
from replicator.demo.stage import MEMORY_MIB
from replicator.guests.qemu_config import QemuGuestConfig, load_guest_file

pytestmark = pytest.mark.live

GUEST_ERROR = 5


README = Path(__file__).parents[2] / "README.md"


def operators_command(config: QemuGuestConfig, folder: Path) -> list[str]:
    """The README's command, for our guest instead of its own."""
    section = README.read_text().split("\n## Attach to a QEMU that runs\n", 1)[1]
    block = section[section.index("    qemu-system") : section.index("\n\nThen")]
    ours = {
        "guest=web": f"guest={config.name}",
        "0bb8c7e4-6a0f-4d57-8a5e-5d8a4e2f7a11": config.uuid,
        "256M": f"{MEMORY_MIB}M",
        "/srv/web/vmlinuz": str(config.kernel),
        "/srv/web/initrd.img": str(config.initrd),
        '"console=ttyS0 no_timer_check tsc=reliable"': shlex.quote(config.cmdline),
        "52:54:00:77:65:62": config.nics[0].mac,
        "/run/web": str(folder),
    }
    for theirs, mine in ours.items():
        assert theirs in block, theirs
        block = block.replace(theirs, mine)
    return shlex.split(block.replace("\\\n", ""))


class Operator:
    """Starts a QEMU of their own on host a, and attaches side "a" to it."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.folder = pair.stage.scratch / "operator"
        self.folder.mkdir(mode=0o700)
        self.config = load_guest_file(pair.stage.scratch / "guest.toml")
        self.qemu: subprocess.Popen[bytes] | None = None

    def start_qemu(self, change: Callable[[list[str]], Sequence[str]] = lambda command: command) -> None:
        command = change(operators_command(self.config, self.folder))
        self.qemu = self.pair.lab.run(HOST_A, command, stdout=subprocess.DEVNULL)
        self.pair.wait("QEMU listens", lambda: (self.folder / "qmp-fast").exists(), self.qemu)

    def attach(self) -> None:
        path = self.pair.stage.scratch / "a"
        self.pair.daemons["a"] = self.pair.stage.start_python(
            "a",
            [
                *("-m", "replicator.cli.main", "-v", "primary", f"{path}.toml", "--events", f"{path}.events"),
                *("--attach", str(self.folder / "qmp"), "--attach-fast", str(self.folder / "qmp-fast")),
            ],
        )

    def protect_running(self) -> subprocess.Popen[bytes]:
        """Start a QEMU, attach to it, protect it, and let the client work on it; returns the QEMU."""
        self.start_qemu()
        assert self.qemu is not None
        self.attach()
        self.pair.counter.ask("booted")
        self.pair.start("b", "secondary")
        self.pair.wait_protected("a")
        self.pair.start_client()
        return self.qemu

    def query_status(self) -> str:
        """What QEMU says, asked by somebody else than the daemon; a monitor serves one client at a time."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(PATIENCE_S)
            monitor.connect(str(self.folder / "qmp"))
            with monitor.makefile("rw") as lines:
                lines.readline()
                for command in ("qmp_capabilities", "query-status"):
                    lines.write(json.dumps({"execute": command}))
                    lines.flush()
                    answer = json.loads(lines.readline())
        return str(answer["return"]["status"])


@pytest.fixture
def operator() -> Iterator[Operator]:
    with open_pair() as pair:
        made = Operator(pair)
        try:
            yield made
        finally:
            if made.qemu is not None:
                made.qemu.kill()
                made.qemu.wait(PATIENCE_S)


def test_a_running_guest_is_attached_protected_and_taken_over(operator: Operator) -> None:
    pair, qemu = operator.pair, operator.protect_running()
    for victim in (pair.daemons.pop("a"), qemu):
        victim.kill()
        victim.wait(PATIENCE_S)
    pair.wait_state("b", "active-alone")
    pair.wait_increments()
    pair.judge("ab")


def test_an_attached_guest_without_its_daemon_is_mute_and_ended_by_the_next(operator: Operator) -> None:
    pair, qemu = operator.pair, operator.protect_running()
    orphan = os.pidfd_open(qemu.pid)
    try:
        pair.daemons.pop("a").send_signal(signal.SIGKILL)
        pair.wait_state("b", "active-alone")
        assert qemu.poll() is None
        pair.heal("a")
        assert has_ended(orphan)
    finally:
        os.close(orphan)
    assert "which an earlier run had left behind" in pair.said("a")
    pair.wait_increments()
    pair.judge("ab")


def test_each_broken_rule_is_named_and_the_guest_runs_on(operator: Operator) -> None:
    def break_rules(command: list[str]) -> list[str]:
        text = "\n".join(command).replace(",share=on", ",share=off").replace(",romfile=", "")
        return [*text.split("\n"), "-device", "virtio-balloon-pci"]

    operator.start_qemu(break_rules)
    operator.attach()
    assert operator.pair.wait_end("a") == GUEST_ERROR
    said = operator.pair.said("a")
    for rule in ("share=on is missing", "device virtio-balloon-pci"):
        assert rule in said
    assert operator.query_status() == "running"


def test_another_guest_than_the_files_is_refused_and_runs_on(operator: Operator) -> None:
    operator.start_qemu(
        lambda command: [word.replace("52:54:00:de:30:01", "52:54:00:de:30:99") for word in command]
    )
    operator.attach()
    assert operator.pair.wait_end("a") == GUEST_ERROR
    assert "MAC addresses of the running guest is 52:54:00:de:30:99" in operator.pair.said("a")
    assert operator.query_status() == "running"
