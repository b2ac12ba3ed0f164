"""The demonstration: protect a real VM, kill its host, show what the client saw.

The story: the guest boots, a client loads its redis over two open connections, the secondary starts and the running
guest is synchronised, the primary daemon and its QEMU are killed at a random phase of an epoch, the client goes on,
the verdict is printed. Three machines are network namespaces (lab.py); everything that was started is gone at the
end, however it ends.
"""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from replicator.demo.guest_image import GuestImage
from replicator.demo.lab import Lab
from replicator.demo.stage import Stage
from replicator.demo.timeline import (
    INCREMENTS_AFTER_KILL_MIN,
    INCREMENTS_BEFORE_KILL_MIN,
    MATCHED_BEFORE_KILL_MIN,
    Event,
    Protection,
    Verdict,
    judge,
)
from replicator.errors import ReplicatorError

LOAD_TIMEOUT_S = 60.0
AFTER_TIMEOUT_S = 40.0
#: The control's client hears nothing any more, or wrong things at once.
AFTER_CONTROL_TIMEOUT_S = 5.0
#: 20 a second: some 15 seconds under protection.
EPOCHS_BEFORE_KILL = 300
#: In COLO, whose epochs are rare.
MATCHED_BEFORE_KILL = 2 * MATCHED_BEFORE_KILL_MIN


@dataclass(frozen=True, slots=True)
class DemoResult:
    verdict: Verdict
    events: list[Event]
    logs: dict[str, str]


class Demonstration:
    """One run inside a lab. `say` gets a line for people now and then."""

    def __init__(
        self,
        lab: Lab,
        image: GuestImage,
        say: Callable[[str], None],
        *,
        hold: bool = True,
        interval_ms: int = 50,
        mode: str = "remus",
        secondary_dies: bool = False,
    ) -> None:
        """`mode` is the daemons'. The primary dies unless the secondary does."""
        self._stage = Stage(lab, image, interval_ms=interval_ms, settings={"epoch": {"mode": mode}})
        self._say, self._hold, self._interval_ms = say, hold, interval_ms
        self._is_colo, self._secondary_dies = mode == "colo", secondary_dies
        self._acked = 0
        self._protected_ns = 0

    def run(self) -> DemoResult:
        stage = self._stage
        self._say("booting the guest on host-a, unprotected")
        primary = self._start_primary()
        client = stage.start_client(primary)
        self._say("the client is connected; starting the secondary on host-b")
        secondary = stage.start_daemon("b", "secondary")
        stage.wait_protected("a", primary, secondary, client)
        self._say("protected")
        self._protected_ns = time.monotonic_ns()
        self._await_load(client, primary)
        victim, whose = (secondary, "secondary") if self._secondary_dies else (primary, "primary")
        killed, protection = self._kill(victim)
        self._say(f"killed the {whose}'s host after {self._acked} acknowledged increments")
        self._await_survival(client)
        report = stage.stop_client(client)
        events = [killed, *stage.collect_events()]
        verdict = judge(events, report, protection, secondary_died=self._secondary_dies)
        return DemoResult(verdict, events, stage.logs())

    def _start_primary(self) -> subprocess.Popen[bytes]:
        if self._hold:
            return self._stage.start_daemon("a", "primary")
        scratch = self._stage.scratch
        arguments = ["-m", "replicator.demo.no_hold", str(scratch / "a.toml"), str(scratch / "a.events")]
        return self._stage.start_python("a", arguments)

    def _await_load(self, client: subprocess.Popen[bytes], primary: subprocess.Popen[bytes]) -> None:
        def loaded() -> bool:
            enough = self._stage.count_increments() >= INCREMENTS_BEFORE_KILL_MIN
            status = self._stage.status("a")
            if self._is_colo:
                return enough and count_matched(status) >= MATCHED_BEFORE_KILL
            return enough and int(status.get("committed", 0)) >= EPOCHS_BEFORE_KILL

        self._stage.wait_until("the client's load", LOAD_TIMEOUT_S, loaded, client, primary)

    def _kill(self, victim: subprocess.Popen[bytes]) -> tuple[Event, Protection]:
        status = self._stage.status("a")
        stats = status["stats"]
        # At any phase of an epoch.
        time.sleep(random.uniform(0, 2 * self._interval_ms / 1000))
        self._acked = self._stage.count_increments()
        killed = self._stage.kill_host(victim)
        pauses = stats["pause_ms"]
        protected_ns = killed.at_ns - self._protected_ns
        protection = Protection(
            stats["epochs"],
            pauses["p50"],
            pauses["p99"],
            stats["bytes_total"],
            protected_ns,
            self._acked,
            count_matched(status) if self._is_colo else None,
            describe_checkpoints(status["colo"]) if self._is_colo else "",
        )
        return killed, protection

    def _await_survival(self, client: subprocess.Popen[bytes]) -> None:
        wanted = self._acked + INCREMENTS_AFTER_KILL_MIN
        timeout_s = AFTER_TIMEOUT_S if self._hold else AFTER_CONTROL_TIMEOUT_S
        try:
            self._stage.wait_until(
                "the client goes on", timeout_s, lambda: self._stage.count_increments() >= wanted, client
            )
        except ReplicatorError as error:
            self._say(error.args[0] if self._hold else "the client does not go on")


def count_matched(status: Mapping[str, Any]) -> int:
    """Output frames that left because both guests had said them."""
    return sum(int(kind["matched"]) for kind in status.get("colo", {}).get("kinds", {}).values())


def describe_checkpoints(colo: Mapping[str, Any]) -> str:
    """How many there were, by reason."""
    return "checkpoints: " + ", ".join(
        f"{count} {why}" for why, count in colo["checkpoints"].items() if count
    )
