"""What a daemon prints of its state and of a synchronisation."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from replicator.cli.tell import Teller
from replicator.observe.status import Progress, Status

MIB_PAGES = 256
UNPROTECTED = Status("host-a", "web", "primary", "unprotected")


def syncing(done_mib: int, elapsed_s: float = 1.0) -> Status:
    progress = Progress(done_mib * MIB_PAGES, 256 * MIB_PAGES, elapsed_s)
    return replace(UNPROTECTED, state=f"syncing {progress.percent} %", sync=progress)


def tell(*statuses: Status, terminal: bool = False) -> str:
    out = io.StringIO()
    teller = Teller(Console(file=out, force_terminal=terminal, width=100, legacy_windows=False))
    for status in statuses:
        teller.tell(status)
    teller.close()
    return out.getvalue()


def test_a_log_gets_a_line_for_each_tenth() -> None:
    told = tell(UNPROTECTED, *(syncing(mib) for mib in range(0, 257, 4)))
    lines = told.splitlines()
    assert lines[:2] == ["host-a: primary: unprotected", "host-a: primary: syncing 0 %"]
    assert lines[2] == "host-a: copied 28 of 256 MiB, 28 MiB/s, 8 s left"
    assert len(lines) == 2 + 9
    assert "\x1b" not in told


def test_a_terminal_gets_a_bar_with_rate_and_time_left() -> None:
    told = tell(syncing(64), syncing(128), replace(UNPROTECTED, state="protected lag 20 ms"), terminal=True)
    assert "host-a: first copy" in told and "256.0 MiB" in told and "━" in told
    assert "copied" not in told
    assert told.rstrip().endswith("host-a: primary: protected lag 20 ms")


def test_numbers_alone_are_no_news() -> None:
    lags = [replace(UNPROTECTED, state=f"protected lag {lag} ms") for lag in (20, 24, 31)]
    assert tell(*lags) == "host-a: primary: protected lag 20 ms\n"


def test_a_reason_stands_beside_a_state_that_does_not_say_it() -> None:
    assert tell(replace(UNPROTECTED, reason="no route")) == "host-a: primary: unprotected (no route)\n"
    assert "(" not in tell(replace(UNPROTECTED, state="frozen: no route", reason="no route"))


def test_a_copy_that_has_not_begun_has_no_rate() -> None:
    assert Progress(0, 256, 0.0).describe() == "0 of 1 MiB"
    assert Progress().percent == 0
