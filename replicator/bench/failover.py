"""`bench failover`: hosts that die again and again, and how long the client heard nothing.

One pair and one open connection for each kind of heartbeats. A death is SIGKILL to daemon and QEMU of the side that has
the guest, at a drawn phase of an epoch; then the dead side is started again, the guest is protected, and the next death
is the other side's. Moments come from the journals, and from a client with one request under way at a time:

    death to granted       the arbiter gave the guest to the survivor
    death to first answer  the client's first reply at or after the moment at which the survivor runs the guest
    death to first echo    the same of ICMP echo requests that are sent every 5 ms and never again
    client gap             the longest time between two replies around the death

A TCP that has lost a segment waits for its retransmission timer, 200 ms at least; the echoes show when the guest itself
is there again.

Afterwards the pair is watched for a while with a computing process on each core: a take-over then is a false one.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from replicator.bench.figures.failovers import Death, describe_death
from replicator.bench.figures.result import make_cell
from replicator.bench.rig.processes import busy_cores
from replicator.bench.run import Run, describe_error
from replicator.demo.guest_image import GuestImage
from replicator.demo.lab import CLIENT, Lab
from replicator.demo.stage import GUEST_IP, Sections, Stage
from replicator.demo.timeline import GRANTED, RUNNING, Event, parse_event
from replicator.errors import ConfigError, GuestError, ReplicatorError

OTHER: Final = {"a": "b", "b": "a"}
READY_S: Final = 60.0
_ENOUGH_REPLIES: Final = 5
_POLL_S: Final = 0.1
_EPOCH_MS: Final = 50


@dataclass(frozen=True, slots=True)
class Beats:
    """How fast a death is noticed. Milliseconds."""

    name: str
    interval: int
    misses: int
    ttl: int
    margin: int

    @property
    def sections(self) -> Sections:
        return {
            "heartbeat": {"interval_ms": self.interval, "misses": self.misses},
            "arbiter": {"ttl_ms": self.ttl, "margin_ms": self.margin},
            "epoch": {"interval_ms": _EPOCH_MS},
        }

    @property
    def label(self) -> str:
        return (
            f"{self.name} ({self.interval} ms x {self.misses}, lease {self.ttl} ms, margin {self.margin} ms)"
        )


BEATS: Final[dict[str, Beats]] = {
    beats.name: beats
    for beats in (
        Beats("default", 50, 4, 300, 30),
        Beats("quick", 20, 4, 150, 20),
        Beats("tuned", 15, 4, 100, 20),
        Beats("tight", 10, 3, 60, 10),
    )
}


def choose_beats(text: str) -> list[Beats]:
    """Names, or INTERVALxMISSES/TTL/MARGIN in milliseconds; comma-separated."""
    chosen = []
    for word in filter(None, (word.strip() for word in text.split(","))):
        chosen.append(BEATS[word] if word in BEATS else _parse_beats(word))
    if not chosen:
        raise ConfigError("--beats names none", hint=f"known are {', '.join(BEATS)}")
    return chosen


def _parse_beats(word: str) -> Beats:
    try:
        beat, ttl, margin = word.split("/")
        interval, misses = beat.split("x")
        return Beats(word, int(interval), int(misses), int(ttl), int(margin))
    except ValueError:
        raise ConfigError(
            f"--beats {word!r} is unknown",
            hint=f"name {', '.join(BEATS)}, or write as 15x4/100/20: heartbeat every 15 ms, 4 missed, a lease of "
            "100 ms, a margin of 20 ms",
        ) from None


def measure_failovers(
    run: Run, image: GuestImage, beats: Sequence[Beats], kills: int, watch_s: float, *, mode: str = "remus"
) -> None:
    """Fills the recorder: a value of each death, and one of each watch. `mode` is the pair's."""
    for one in beats:
        cell = make_cell(beats=one.label, mode=mode)
        try:
            with Lab() as lab, _Rounds(lab, image, one, mode) as rounds:
                chance = random.Random(run.seed)
                for number in range(kills):
                    run.steps.begin(f"{one.name}, death {number + 1}")
                    run.recorder.add(cell, describe_death(rounds.kill(chance)))
                run.steps.begin(f"{one.name}, watched under load")
                run.recorder.add(cell, rounds.watch(watch_s))
        except ReplicatorError as error:
            run.recorder.fail(cell, describe_error(error))


class _Rounds:
    """Context manager: a protected pair with a client. `active` is the side that has the guest."""

    def __init__(self, lab: Lab, image: GuestImage, beats: Beats, mode: str) -> None:
        self._lab = lab
        sections = {**beats.sections, "epoch": {**beats.sections["epoch"], "mode": mode}}
        self._stage = Stage(lab, image, settings=sections)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._log, self._echo_log = lab.scratch / "probe.log", lab.scratch / "pulse.log"
        self.active = "a"

    def __enter__(self) -> _Rounds:
        try:
            self._daemons["a"] = self._stage.start_daemon("a", "primary")
            self._probe = self._start_probe()
            self._start_pulse()
            self._heal()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        """At once; by SIGTERM the guests would be given time to power off."""
        for daemon in self._daemons.values():
            if daemon.poll() is None:
                self._stage.kill_host(daemon)
                daemon.wait()

    def _start_probe(self) -> subprocess.Popen[bytes]:
        """The guest may still be booting: the client is started until it is let in."""
        argv = [sys.executable, "-m", "replicator.bench.loads.probe", GUEST_IP, "redis", "--until-told"]
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            with self._log.open("wb") as log:
                probe = self._lab.run(
                    CLIENT, argv, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.DEVNULL
                )
            while probe.poll() is None:
                if self._replies():
                    return probe
                time.sleep(_POLL_S)
        raise GuestError("the guest's redis never answered the client")

    def _start_pulse(self) -> None:
        argv = [sys.executable, "-m", "replicator.bench.loads.pulse", GUEST_IP]
        with self._echo_log.open("wb") as log:
            self._lab.run(CLIENT, argv, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.DEVNULL)

    def _replies(self) -> list[Event]:
        return _read_events(self._log)

    def kill(self, chance: random.Random) -> Death:
        """One death, and the guest protected again."""
        time.sleep(chance.uniform(0, 2 * _EPOCH_MS) / 1000)
        survivor = OTHER[self.active]
        dead = self._daemons.pop(self.active)
        killed = self._stage.kill_host(dead)
        dead.wait()
        self._await_replies(killed.at_ns, survivor)
        self.active = survivor
        death = Death(
            killed.at_ns,
            self._moment(survivor, GRANTED, killed.at_ns),
            self._moment(survivor, RUNNING, killed.at_ns),
            tuple(reply.at_ns for reply in self._replies()),
            tuple(echo.at_ns for echo in _read_events(self._echo_log)),
        )
        self._heal()
        return death

    def _await_replies(self, killed_ns: int, survivor: str) -> None:
        """The survivor runs the guest, and the client has heard from it."""

        def goes_on() -> bool:
            running = [e.at_ns for e in self._stage.events_of(survivor) if e.name == RUNNING]
            if not running or running[-1] < killed_ns:
                return False
            return sum(reply.at_ns >= running[-1] for reply in self._replies()) >= _ENOUGH_REPLIES

        self._stage.wait_until("the client goes on", READY_S, goes_on, self._daemons[survivor], self._probe)

    def _moment(self, name: str, event: str, after_ns: int) -> int:
        found = [e.at_ns for e in self._stage.events_of(name) if e.name == event and e.at_ns >= after_ns]
        if not found:
            raise GuestError(f"the journal of {name} has no {event!r} after the death")
        return found[0]

    def _heal(self) -> None:
        """The side that is not there becomes the secondary of the one that is."""
        passive = OTHER[self.active]
        self._daemons[passive] = self._stage.start_daemon(passive, "secondary")
        self._stage.wait_protected(self.active, *self._daemons.values(), self._probe)

    def watch(self, seconds: float) -> dict[str, float]:
        """What goes wrong by itself within this time, while each core computes. Nothing is asked when it is 0."""
        if not seconds:
            return {}
        since_ns = time.monotonic_ns()
        with busy_cores():
            time.sleep(seconds)
        events = [e for name in OTHER for e in self._stage.events_of(name) if e.at_ns >= since_ns]
        return {
            "false failovers": float(sum(event.name == GRANTED for event in events)),
            "lapsed leases": float(sum(event.name == "lapsed" for event in events)),
        }


def _read_events(path: Path) -> list[Event]:
    lines = path.read_bytes().split(b"\n")
    return [event for line in lines if (event := parse_event(line, "client")) is not None]
