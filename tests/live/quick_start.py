"""The README's two-host quick start between two network namespaces, its commands and files taken from the README.

Only folders differ: /etc/replicator, /srv/web and /var/lib/etcd are each host's own, in the lab's scratch folder, and
so is what a host sees at /dev/shm/replicator (a mount namespace each). The kernel is the demonstration's; the initrd
is too, with an address for the guest in it, since the README's command line names none.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.demo import guest_scripts
from replicator.demo.guest_image import GUEST_ADDRESS, GuestImage, default_cache_dir, ensure_guest_image
from replicator.demo.initramfs import build_initramfs, regular
from replicator.demo.lab import CLIENT, HOST_A, HOST_B, SWITCH, TAP_NAME, Lab, kill_inside, run_ip
from replicator.demo.promises import Report, load_report
from replicator.demo.timeline import Event, parse_event
from replicator.errors import TransportError
from replicator.service.config import STATE_ROOT
from replicator.service.control import ask_daemon

README = Path(__file__).parents[2] / "README.md"
GUEST_IP = GUEST_ADDRESS.partition("/")[0]
ETCD_ADDRESS = ("10.79.0.254", 2379)
HOSTS = (HOST_A, HOST_B)
TIMEOUT_S = 30.0
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class QuickStartText:
    """The code blocks of the README's section."""

    install: str
    etcd: str
    prepare: tuple[str, ...]
    guest_file: str
    config_file: str
    start: tuple[str, ...]


def read_quick_start() -> QuickStartText:
    section = README.read_text().split("\n## Two hosts\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"(?:^    .*\n(?:\n(?=    ))?)+", section, re.MULTILINE)
    install, etcd, prepare, guest, config, start = (
        "\n".join(line[4:] for line in block.splitlines()) for block in blocks
    )
    return QuickStartText(
        install, etcd, tuple(prepare.splitlines()), guest + "\n", config + "\n", tuple(start.splitlines())
    )


def swap(text: str) -> str:
    """What the README tells of host-a, for host-b."""
    names = {"host-a": "host-b", "host-b": "host-a", "10.78.0.1": "10.78.0.2", "10.78.0.2": "10.78.0.1"}
    return re.sub("|".join(map(re.escape, names)), lambda match: names[match[0]], text)


def wait_until(what: str, done: Callable[[], bool], timeout_s: float = TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(POLL_S)


class TwoHosts:
    """Both hosts as the README has them set up, the etcd, and a client of the guest."""

    def __init__(self, lab: Lab, image: GuestImage) -> None:
        self.lab = lab
        self.text = read_quick_start()
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._client: subprocess.Popen[bytes] | None = None
        self._etcd: subprocess.Popen[bytes] | None = None
        STATE_ROOT.mkdir(mode=0o700, exist_ok=True)
        for host in HOSTS:
            self._prepare(host, image)
        self._exchange_keys()

    # Set-up.

    def folder(self, host: str) -> Path:
        return self.lab.scratch / host

    def etc(self, host: str) -> Path:
        return self.folder(host) / "etc-replicator"

    def _prepare(self, host: str, image: GuestImage) -> None:
        for name in ("shm", "srv-web"):
            (self.folder(host) / name).mkdir(parents=True)
        (self.folder(host) / "srv-web" / "vmlinuz").symlink_to(image.kernel)
        (self.folder(host) / "srv-web" / "initrd.img").write_bytes(_with_address(image))
        # The lab has a TAP already; here it is the README that makes it.
        run_ip(["-n", self.lab.namespaces[host], "link", "del", TAP_NAME])
        for command in self.text.prepare:
            self.run(host, command if host == HOST_A else swap(command))
        (self.etc(host) / "guest.toml").write_text(self._mapped(host, self.text.guest_file))
        config = self.text.config_file if host == HOST_A else swap(self.text.config_file)
        (self.etc(host) / "web.toml").write_text(self._mapped(host, config))

    def _exchange_keys(self) -> None:
        for host, other in (HOSTS, HOSTS[::-1]):
            shutil.copy(self.etc(host) / f"{host}.key", self.etc(other))

    def _mapped(self, host: str, text: str) -> str:
        folder = self.folder(host)
        for path, name in (("/etc/replicator", "etc-replicator"), ("/srv/web", "srv-web"), ("/var/lib/", "")):
            text = text.replace(path, str(folder / name))
        return text

    # Commands.

    def command(self, beginning: str) -> str:
        """The one command of the README's last block that begins so."""
        (found,) = [line for line in self.text.start if line.startswith(beginning)]
        return found

    def start(self, host: str, command: str, **options: Any) -> subprocess.Popen[bytes]:
        """A command line on a host; its pid is the program's own."""
        state = self.folder(host) / "shm"
        script = f"mount --bind {state} {STATE_ROOT} && exec {self._mapped(host, command)}"
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
        return self.lab.run(host, argv, env=environment, **options)

    def ask(self, host: str, command: str) -> tuple[int, str]:
        """A command line to its end: exit code, and all that it said."""
        child = self.start(host, command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        said, _ = child.communicate(timeout=TIMEOUT_S)
        return child.returncode, said.decode()

    def run(self, host: str, command: str) -> str:
        code, said = self.ask(host, command)
        assert code == 0, f"{command}: {said}"
        return said

    # Daemons.

    def start_daemon(self, host: str, role: str) -> None:
        with self.log(host).open("ab") as log:
            command = self.command(f"replicator {role}")
            self.daemons[host] = self.start(host, command, stdout=log, stderr=log)

    def log(self, host: str) -> Path:
        return self.folder(host) / "log"

    def state(self, host: str) -> str:
        """The state word of the daemon, or how it ended."""
        code = self.daemons[host].poll()
        if code is not None:
            return f"exit code {code}"
        try:
            return str(ask_daemon(self.folder(host) / "shm" / host, "status")["state"])
        except TransportError:
            return "does not answer"

    def wait_state(self, host: str, beginning: str, timeout_s: float = TIMEOUT_S) -> int:
        """Until the state word begins so; CLOCK_REALTIME of the moment."""
        deadline = time.monotonic() + timeout_s
        while not (word := self.state(host)).startswith(beginning):
            assert time.monotonic() < deadline, f"{host} is {word!r}, not {beginning!r}: {self.said()}"
            time.sleep(POLL_S)
        return time.time_ns()

    def stay(self, host: str, beginning: str, seconds: float) -> None:
        """The state word begins so during all of this time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            word = self.state(host)
            assert word.startswith(beginning), f"{host} is {word!r}, no more {beginning!r}: {self.said()}"
            time.sleep(POLL_S)

    def said(self) -> str:
        """The end of all logs."""
        logs = [self.log(host) for host in HOSTS] + [self.lab.scratch / "client.log"]
        return "\n".join(f"{path}: {path.read_text()[-1500:]}" for path in logs if path.exists())

    def power_off(self, host: str) -> int:
        """Everything on the host dies at once and its memory is lost. CLOCK_REALTIME after that."""
        kill_inside([self.lab.namespaces[host]])
        off_ns = time.time_ns()
        self.daemons[host].wait()
        shutil.rmtree(self.folder(host) / "shm" / host)
        return off_ns

    # Etcd.

    def start_etcd(self) -> None:
        """Returns when it takes connections."""
        with (self.lab.scratch / "etcd.log").open("ab") as log:
            argv = self._mapped(SWITCH, self.text.etcd).split()
            self.folder(SWITCH).mkdir(exist_ok=True)
            self._etcd = self.lab.run(SWITCH, argv, stdout=log, stderr=log)
        probe = f"import socket; socket.create_connection({ETCD_ADDRESS}, 1)"

        def answers() -> bool:
            argv = [sys.executable, "-c", probe]
            child = self.lab.run(SWITCH, argv, stderr=subprocess.DEVNULL)
            return child.wait(TIMEOUT_S) == 0

        wait_until("etcd answers", answers)

    def kill_etcd(self) -> None:
        assert self._etcd is not None
        self._etcd.send_signal(signal.SIGKILL)
        self._etcd.wait()

    # Client.

    def start_client(self) -> None:
        """Returns when the guest's redis has let it in."""

        def connected() -> bool:
            if self._client is None or self._client.poll() is not None:
                with (self.lab.scratch / "client.log").open("wb") as log:
                    argv = [sys.executable, "-m", "replicator.demo.client", GUEST_IP]
                    self._client = self.lab.run(CLIENT, argv, stdin=subprocess.PIPE, stdout=log)
            return any(event.name == "connected" for event in self._client_events())

        wait_until("the guest's redis answers", connected)

    def _client_events(self) -> list[Event]:
        lines = (self.lab.scratch / "client.log").read_bytes().split(b"\n")
        return [event for line in lines if (event := parse_event(line, "client")) is not None]

    def count_increments(self) -> int:
        counts = [event.fields["increments"] for event in self._client_events() if event.name == "progress"]
        return int(counts[-1]) if counts else 0

    def client_goes_on(self, increments: int = 20) -> None:
        """Until so many more increments were acknowledged on the connection that was there from the start."""
        assert self._client is not None
        wanted = self.count_increments() + increments
        wait_until("the client goes on", lambda: self.count_increments() >= wanted)
        assert self._client.poll() is None, self.said()

    def stop_client(self) -> Report:
        assert self._client is not None and self._client.stdin is not None
        self._client.stdin.close()
        self._client.wait(TIMEOUT_S)
        (report,) = [event for event in self._client_events() if event.name == "report"]
        return load_report(report.fields)


def _with_address(image: GuestImage) -> bytes:
    """The image's initrd with a guest in it that knows its address: a later archive's file replaces an earlier's."""
    init = guest_scripts.fill_in(guest_scripts.INIT).replace("\naddress=\n", f"\naddress={GUEST_ADDRESS}\n")
    return image.initrd.read_bytes() + build_initramfs({"init": regular(init.encode(), executable=True)})


def vcpu_runtime_ns(pid: int) -> int:
    """CPU time of a QEMU's busiest thread, which is its vCPU."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return max(int(text.split()[0]) for text in stats)


def child_of(pid: int) -> int:
    """The one process that `pid` started: a daemon's QEMU."""
    words: Sequence[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        words = [*words, *(task / "children").read_text().split()]
    (child,) = words
    return int(child)


@contextlib.contextmanager
def two_hosts() -> Iterator[TwoHosts]:
    image = ensure_guest_image(default_cache_dir(), print)
    try:
        with Lab() as lab:
            yield TwoHosts(lab, image)
    finally:
        with contextlib.suppress(OSError):
            STATE_ROOT.rmdir()
