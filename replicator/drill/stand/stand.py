"""The stand of a drill: a lab, a pair of actors in it, an arbiter, a client; started, told, mended and ended here.

It knows how to get from anywhere to a protected pair. It makes no fault (harm/) and judges nothing (matrix/judge.py).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from replicator.demo.client import PATIENCE_S
from replicator.demo.lab import CLIENT, HOST_A, HOST_B, REPLICATION, Lab
from replicator.demo.stage import children_of
from replicator.demo.timeline import Event
from replicator.drill.actors.stop_point import ARM, GO
from replicator.drill.matrix.faults import Setting
from replicator.drill.matrix.phases import Phase, Role
from replicator.drill.stand.config import write_configs
from replicator.drill.stand.ear import ENDED, Ear
from replicator.drill.stand.etcd import Etcd
from replicator.drill.stand.guests import DrillGuest
from replicator.drill.stand.relaying import RelayProcess
from replicator.drill.stand.rooms import remove_content, room
from replicator.drill.stand.voice import GuestVoice
from replicator.errors import GuestError
from replicator.service.config import Mode

ACTOR = "replicator.drill.actors.daemon"
SIDES = {"a": HOST_A, "b": HOST_B}
OTHER = {"a": "b", "b": "a"}
READY_S = 40.0
#: From the end of a fault to a protected pair.
HEAL_S = 20.0
END_S = 10.0
POLL_S = 0.02
HIT_S = 5.0
#: How often a phase is asked for, when the pair was not protected in it.
REACH_TRIES = 5
CLIENT_S = 10.0
#: What the client must hear before and after a fault.
ENOUGH_REPLIES = 3
PROTECTED = "primary: protected"


class Stand:
    """Context manager. `primary` is the side that has the guest, as far as is known.

    `at_end` gets the journals of each pair once its daemons have ended."""

    def __init__(
        self,
        lab: Lab,
        guest: DrillGuest,
        *,
        mode: Mode = Mode.REMUS,
        leaky: bool = False,
        at_end: Callable[[Sequence[Path]], None] = lambda _: None,
    ) -> None:
        self.lab, self.guest = lab, guest
        self._at_end = at_end
        self.scratch = lab.scratch
        self.primary = "a"
        self.setting: Setting | None = None
        self._mode = mode
        self._leaky = leaky
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._client: subprocess.Popen[bytes] | None = None
        self._opened = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._opened:
            self.ear = self._opened.enter_context(Ear(self.scratch / "drill.sock"))
            for name in SIDES:
                self._opened.enter_context(room(self.scratch / name, self.guest.state_mib))
            self.voice = self._opened.enter_context(GuestVoice(self.lab, self.guest.mac))
            self.etcd = Etcd(self.lab)
            self.relays = {
                name: RelayProcess(self.lab, host, self.lab.address(SIDES[OTHER[name]], REPLICATION))
                for name, host in SIDES.items()
            }
            self._opened.callback(self.clear)
            self._opened = self._opened.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._opened.close()

    @property
    def other(self) -> str:
        return OTHER[self.primary]

    # The pair.

    def prepare(self, setting: Setting) -> None:
        """A protected pair in this setting: the one that is there, or a new one. GuestError when none comes about."""
        if setting is self.setting:
            return
        self.clear()
        self._lay_out(setting)
        self.primary = "a"
        mark = self.ear.mark
        self.start("b", Role.SECONDARY)
        self.start("a", Role.PRIMARY)
        self.wait_state(mark, "a", PROTECTED, READY_S)
        if self._mode is Mode.COLO:
            self._wait_compared(mark)
        self.setting = setting

    def clear(self) -> None:
        """End everything, and forget what the arbiter and the replicas know. What the pair left is looked at first."""
        self.end_client()
        for name in list(self._daemons):
            self.kill(name)
        if self.setting is not None:
            self._at_end([self.journal(name) for name in SIDES])
            self.setting = None
        self.etcd.end()
        for relay in self.relays.values():
            relay.end()
        for name in SIDES:
            remove_content(self.scratch / name)
            self.journal(name).unlink(missing_ok=True)

    def _lay_out(self, setting: Setting) -> None:
        if setting is Setting.ETCD:
            self.etcd.start(fresh=True)
        if setting is Setting.RELAYED:
            for relay in self.relays.values():
                relay.start()
        write_configs(self.lab, SIDES, self.guest.file_text, setting, self._mode)

    def start(self, name: str, role: Role) -> None:
        """An actor on a side where none lives."""
        path = self.scratch / f"{name}.toml"
        argv = [sys.executable, "-m", ACTOR, str(self.ear.path), role.value, str(path)]
        argv += [*self.guest.actor_options, "--events", str(self.journal(name))]
        argv += ["--leaky"] if self._leaky else []
        with self.log(name).open("ab") as log:
            self._daemons[name] = self.lab.run(SIDES[name], argv, stdout=log, stderr=subprocess.STDOUT)
        self.ear.listen_to(name, self._daemons[name])

    def wait_state(self, mark: int, name: str, beginning: str, timeout_s: float) -> Event:
        """The side's state word begins so, or did since `mark`."""

        def wanted(event: Event) -> bool:
            return (
                event.source == name
                and event.name == "state"
                and str(event.fields["word"]).startswith(beginning)
            )

        return self.ear.wait(f"{name} is {beginning!r}", mark, wanted, timeout_s)

    def heal(self, mark: int) -> Event | None:
        """Protection is there again; whoever has ended since is started as the secondary first. None: it never left."""
        for name in SIDES:
            if not self.lives(name):
                self.start(name, Role.SECONDARY)
        was_lost = self.ear.state_of(self.primary) != PROTECTED
        back = self.wait_state(mark, self.primary, PROTECTED, HEAL_S) if was_lost else None
        if self._mode is Mode.COLO:
            compared = self._wait_compared(mark)
            back = compared if was_lost else None
        return back

    def _wait_compared(self, mark: int) -> Event:
        """Both guests have run from one epoch since `mark`, and the pair is protected: the first start of a VM may take
        the secondary longer than its primary is patient."""
        name = self.primary

        def compares(event: Event) -> bool:
            return event.source == name and event.name == "comparing"

        compared = self.ear.wait(f"{name} compares", mark, compares, HEAL_S)
        now = self.ear.mark
        if self.ear.state_of(name) != PROTECTED:
            return self.wait_state(now, name, PROTECTED, HEAL_S)
        return compared

    def lives(self, name: str) -> bool:
        daemon = self._daemons.get(name)
        return daemon is not None and daemon.poll() is None

    # What is done to a side.

    def reach(self, phase: Phase) -> bool:
        """Have the daemon whose phase it is stand in it, while the pair is protected. False when it does not get there.

        A pair may lose its protection by itself for a moment, and a fault then proves nothing: whoever is not protected
        may not survive it."""
        name = self.side_of(phase)
        for _ in range(REACH_TRIES):
            if not self._stand_in(phase, name):
                return False
            if self.ear.state_of(self.primary) == PROTECTED:
                return True
            mark = self.ear.mark
            self.go_on(name)
            if self.ear.state_of(self.primary) != PROTECTED:
                self.wait_state(mark, self.primary, PROTECTED, HEAL_S)
        return False

    def _stand_in(self, phase: Phase, name: str) -> bool:
        mark = self.ear.mark
        self.ear.order(name, f"{ARM} {phase.value}")
        try:
            self.ear.wait(phase.value, mark, lambda e: e.source == name and e.name == "hit", HIT_S)
        except GuestError:
            return False
        return True

    def go_on(self, name: str) -> None:
        """Whoever stands in a phase may go on."""
        self.ear.order(name, GO)

    def side_of(self, phase: Phase) -> str:
        return self.primary if phase.role is Role.PRIMARY else self.other

    def signal(self, name: str, number: signal.Signals) -> None:
        """To the daemon alone."""
        self._daemons[name].send_signal(number)

    def guests_of(self, name: str) -> list[int]:
        """Processes that the side's daemon started: its guest, or its standby and its VM."""
        return children_of(self._daemons[name].pid) if self.lives(name) else []

    def standbys_of(self, name: str) -> list[int]:
        """Those that wait for the guest."""
        return [pid for pid in self.guests_of(name) if pid != self.vm_of(name)]

    def vm_of(self, name: str) -> int:
        """Process of the VM that ran last beside the primary's (COLO), 0 if none did."""
        told = [event for event in self.ear.since(0) if event.source == name and event.name == "vm"]
        return int(told[-1].fields["pid"]) if told else 0

    def kill(self, name: str) -> None:
        """Daemon and guest, as a power cut would end them."""
        daemon = self._daemons.pop(name)
        victims = [*children_of(daemon.pid), daemon.pid] if daemon.poll() is None else []
        for pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.ear.await_end(daemon, END_S)

    def kill_daemon(self, name: str) -> None:
        """The daemon alone; what it started may not outlive it."""
        daemon = self._daemons.pop(name)
        guests = [os.pidfd_open(pid) for pid in children_of(daemon.pid)]
        daemon.kill()
        self.ear.await_end(daemon, END_S)
        try:
            if not all(_has_ended(guest) for guest in guests):
                raise GuestError(f"the guest of {name} outlived its daemon")
        finally:
            for guest in guests:
                os.close(guest)

    def wait_end(self, name: str) -> None:
        """The daemon ends by itself. GuestError when it does not."""
        self.ear.await_end(self._daemons[name], END_S)
        self._daemons.pop(name)

    def wait_new_standby(self, name: str, old: list[int]) -> None:
        """The side's daemon has started another process in the place of those."""
        deadline = time.monotonic() + READY_S
        while set(self.standbys_of(name)) <= set(old):
            if time.monotonic() > deadline:
                raise GuestError(f"{name} started no new standby")
            time.sleep(POLL_S)

    def wait_new_vm(self, name: str, old: int) -> None:
        """A VM runs beside the primary's again, in another process than that one."""

        def wanted(event: Event) -> bool:
            return event.source == name and event.name == "vm" and event.fields["pid"] != old

        killed = max(n for n, e in enumerate(self.ear.since(0)) if e.name == "vm" and e.fields["pid"] == old)
        self.ear.wait(f"{name} runs a new VM", killed, wanted, HEAL_S)

    def pass_time(self, seconds: float) -> None:
        """For a fault that is one by its length."""
        time.sleep(seconds)

    # Client.

    def start_client(self) -> int:
        """A new client that was answered; the mark of its beginning."""
        mark = self.ear.mark
        argv = [sys.executable, *self.guest.client]
        self._client = self.lab.run(CLIENT, argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.ear.listen_to("client", self._client)
        self.await_replies(mark)
        return mark

    def count_replies(self, mark: int) -> int:
        """Of the client that was started at `mark`."""
        counts = [int(e.fields["increments"]) for e in self.ear.since(mark) if e.name == "progress"]
        return counts[-1] if counts else 0

    def await_replies(self, mark: int) -> None:
        """Some more of the client that was started at `mark`."""
        wanted = self.count_replies(mark) + ENOUGH_REPLIES

        def enough(event: Event) -> bool:
            if event.source == "client" and event.name == ENDED:
                raise GuestError("the client ended before it was told to")
            return event.name == "progress" and int(event.fields["increments"]) >= wanted

        self.ear.wait("the client is answered", mark, enough, CLIENT_S)

    def end_client(self) -> None:
        """Stop the load and wait for the client's end; it is killed if that takes too long."""
        client, self._client = self._client, None
        if client is None:
            return
        if client.stdin is not None:
            client.stdin.close()
        try:
            # Longer than it waits itself for a reply: killed, it could not tell what it waited for.
            self.ear.await_end(client, CLIENT_S + PATIENCE_S)
        except GuestError:
            client.kill()
            self.ear.await_end(client, END_S)

    # What was said.

    def log(self, name: str) -> Path:
        return self.scratch / f"{name}.log"

    def journal(self, name: str) -> Path:
        return self.scratch / f"{name}.events"

    def last_words(self) -> str:
        """The ends of both logs."""
        logs = {name: self.log(name) for name in SIDES}
        return "\n".join(
            f"{name}: {path.read_text(errors='replace')[-1500:]}"
            for name, path in logs.items()
            if path.exists()
        )


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(END_S * 1000))
