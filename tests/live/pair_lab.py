"""A protected pair around a real VM, a client that checks every reply, and an ear for who speaks as the guest."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType

from replicator.demo.golden import Golden, ensure_golden
from replicator.demo.guest_image import default_cache_dir, ensure_guest_image
from replicator.demo.guest_scripts import COMMAND_PORT, COUNTER_PORT
from replicator.demo.lab import CLIENT, Lab
from replicator.demo.stage import GUEST_IP, HOSTS, Sections, Stage, children_of
from replicator.demo.timeline import RUNNING, Event
from replicator.drill.history.verdict import check_journals
from replicator.drill.stand.voice import GuestVoice, call_inside
from replicator.errors import GuestError
from replicator.guests.qemu_command import QEMU
from replicator.guests.qemu_config import load_guest_file

Daemon = subprocess.Popen[bytes]
PATIENCE_S = 30.0
#: Of a UDP request before it is repeated.
TRY_S = 0.25
#: Each takes an epoch: replies of a second, so the guest really goes on.
ENOUGH_INCREMENTS = 20
NEVER = "never"
SIDES = {host: name for name, host in HOSTS.items()}
OTHER = {"a": "b", "b": "a"}


class Udp:
    """Talks to one service of the guest from the client's host."""

    def __init__(self, lab: Lab, port: int) -> None:
        self._socket = call_inside(
            lab.namespaces[CLIENT], lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        )
        self._socket.connect((GUEST_IP, port))
        #: Every answer, in the order they came.
        self.heard: list[str] = []

    def close(self) -> None:
        self._socket.close()

    def send(self, request: str) -> None:
        # The answer to an earlier one may have been that nobody listens yet.
        with contextlib.suppress(ConnectionRefusedError):
            self._socket.send(request.encode())

    def hear(self, timeout_s: float) -> str | None:
        """The next answer, None when there is none in time."""
        self._socket.settimeout(timeout_s)
        try:
            self.heard.append(self._socket.recv(2048).decode().strip())
        except (TimeoutError, ConnectionRefusedError):
            return None
        return self.heard[-1]

    def ask(self, request: str) -> str:
        """Repeat the request until the answer that ends with it comes."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.send(request)
            while (answer := self.hear(TRY_S)) is not None:
                if answer.endswith(request):
                    return answer
        raise AssertionError(f"the guest never answered {request!r}")


class Pair:
    """Both daemons of a stage. Side "a" begins as the primary."""

    def __init__(self, lab: Lab, stage: Stage, golden: Golden, voice: GuestVoice) -> None:
        self.lab, self.stage, self.voice = lab, stage, voice
        self._golden = golden
        self.daemons: dict[str, Daemon] = {}
        self._client: Daemon | None = None
        self.counter, self.commands = Udp(lab, COUNTER_PORT), Udp(lab, COMMAND_PORT)

    def close(self) -> None:
        """End the daemons at once; by SIGTERM they would give their guest time to power off."""
        for daemon in self.daemons.values():
            daemon.kill()
        for daemon in self.daemons.values():
            daemon.wait(PATIENCE_S)
        self.counter.close()
        self.commands.close()

    def check_history(self) -> None:
        """Nothing that the daemons wrote down may break a rule. They have ended: journals are read one by one."""
        paths = sorted(self.stage.scratch.glob("*.events"))
        if self._client is not None and self._client.poll() is not None:
            paths.append(self.stage.scratch / "client.log")
        verdict = check_journals(paths)
        assert not verdict.violations, "\n".join(verdict.violations)
        assert verdict.checks > 0

    # Daemons.

    def start(self, name: str, role: str, *, phase: str = NEVER) -> Daemon:
        """A daemon whose guest starts from its golden state; `phase` is where it dies when it is armed."""
        path = self.stage.scratch / name
        self.daemons[name] = self.stage.start_python(
            name,
            [
                str(Path(__file__).with_name("pair_daemon.py")),
                phase,
                str(self._golden.ram_path.parent),
                "-v",
                role,
                f"{path}.toml",
                "--events",
                f"{path}.events",
            ],
        )
        return self.daemons[name]

    def protect(self, *, phases: tuple[str, str] = (NEVER, NEVER)) -> None:
        """Start both sides; the guest runs on "a"."""
        self.start("a", "primary", phase=phases[0])
        self.start("b", "secondary", phase=phases[1])
        self.wait_protected("a")

    def wait_protected(self, primary: str) -> None:
        self.wait(
            f"the guest on {primary} is protected",
            lambda: str(self.stage.status(primary)["state"]).startswith("protected"),
            *self.daemons.values(),
        )

    def heal(self, name: str, *, phase: str = NEVER) -> None:
        """Start the dead side as the secondary and wait until the survivor's guest is protected again."""
        self.start(name, "secondary", phase=phase)
        self.wait_protected(OTHER[name])

    def wait_state(self, name: str, beginning: str) -> None:
        self.wait(
            f"{name} is {beginning!r}",
            lambda: str(self.stage.status(name)["state"]).startswith(beginning),
            self.daemons[name],
        )

    def wait(self, what: str, done: Callable[[], bool], *alive: Daemon) -> None:
        try:
            self.stage.wait_until(what, PATIENCE_S, done, *alive)
        except GuestError as error:
            states = {name: self.stage.status(name) for name in self.daemons}
            raise AssertionError(f"{error}\nturns {self.turns}, {states}\n{error.hint}") from None

    def qemu_of(self, name: str) -> int:
        """Process number of the guest, or of the standby, of a side."""
        (pid,) = self.qemus_of(name)
        return pid

    def qemus_of(self, name: str) -> list[int]:
        return [pid for pid in children_of(self.daemons[name].pid) if is_qemu(pid)]

    def kill_host(self, name: str) -> None:
        """Daemon and QEMU at once."""
        self.stage.kill_host(self.daemons[name])
        self.daemons.pop(name).wait(PATIENCE_S)

    def kill_daemon(self, name: str) -> None:
        """Only the daemon; its QEMU may not outlive it."""
        qemu = os.pidfd_open(self.qemu_of(name))
        try:
            self.daemons[name].kill()
            self.daemons.pop(name).wait(PATIENCE_S)
            assert has_ended(qemu), "QEMU outlived its daemon"
        finally:
            os.close(qemu)

    def kill_qemu(self, name: str) -> None:
        """Only the guest's process, or the standby's."""
        os.kill(self.qemu_of(name), signal.SIGKILL)

    def replace_standby(self, name: str) -> None:
        """Kill the process that waits for the guest and wait for the next one."""
        old = self.qemu_of(name)
        os.kill(old, signal.SIGKILL)
        self.wait("a new standby", lambda: self.qemus_of(name) not in ([], [old]), self.daemons[name])

    @contextlib.contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """The daemon stands still, its QEMU runs on."""
        self.daemons[name].send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.daemons[name].send_signal(signal.SIGCONT)

    def die_at_phase(self, name: str) -> None:
        """Arm a side and await its death."""
        self.arm(name)
        self.wait_death(name)

    def arm(self, name: str) -> None:
        """The side dies in its phase of the next epoch."""
        self.daemons[name].send_signal(signal.SIGUSR1)

    def wait_death(self, name: str) -> None:
        assert self.daemons.pop(name).wait(PATIENCE_S) == -signal.SIGKILL, self.said(name)

    def wait_end(self, name: str) -> int:
        """Exit code of a daemon that ends by itself."""
        return self.daemons.pop(name).wait(PATIENCE_S)

    def said(self, name: str) -> str:
        """What the present daemon of a side printed."""
        return self.stage.logs()[name]

    def take_overs(self) -> list[Event]:
        return [event for event in self.stage.collect_events() if event.name == RUNNING]

    # Client.

    def start_client(self) -> None:
        self._client = self.stage.start_client(self.daemons["a"])
        self.wait_increments()

    def wait_increments(self) -> None:
        """Until the client's open connections have carried some more replies."""
        assert self._client is not None
        wanted = self.stage.count_increments() + ENOUGH_INCREMENTS
        self.wait("the client goes on", lambda: self.stage.count_increments() >= wanted, self._client)

    def judge(self, turns: str) -> None:
        """End the load: no promise may be broken, and the guest was heard from these sides in this order only."""
        assert self._client is not None
        report = self.stage.stop_client(self._client)
        assert report is not None, self.said("client")
        assert report.broken == ()
        assert report.consecutive
        assert self.turns == turns
        assert self.voice.lost() == 0

    @property
    def turns(self) -> str:
        """Who spoke as the guest, one after the other: "ab" after one take-over."""
        return "".join(SIDES[host] for host in self.voice.speakers())

    def expect_silence(self, seconds: float) -> None:
        """Nobody speaks as the guest, though it is asked."""
        since_ns = time.time_ns()
        self.counter.send("is anybody there")
        assert self.counter.hear(seconds) is None
        assert self.voice.words(since_ns) == []


def is_qemu(pid: int) -> bool:
    """Whether this process runs QEMU; one that is just ending does not."""
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith(QEMU)
    except OSError:
        return False


def has_ended(pidfd: int) -> bool:
    """Whether the process has ended, or does within the patience."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(PATIENCE_S * 1000))


@contextlib.contextmanager
def open_pair(
    *,
    vcpus: int = 1,
    interval_ms: int = 50,
    agent: bool = False,
    settings: Sections = MappingProxyType({}),
) -> Iterator[Pair]:
    """A lab with both configurations; nothing is started yet. At the end the journals are checked."""
    image = ensure_guest_image(default_cache_dir(), print)
    with Lab() as lab:
        stage = Stage(lab, image, vcpus=vcpus, interval_ms=interval_ms, agent=agent, settings=settings)
        config = load_guest_file(stage.scratch / "guest.toml")
        golden = ensure_golden(image, default_cache_dir(), config, print)
        with GuestVoice(lab, config.nics[0].mac) as voice:
            pair = Pair(lab, stage, golden, voice)
            try:
                yield pair
            finally:
                pair.close()
            pair.check_history()
