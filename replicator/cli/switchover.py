"""`replicator switchover`: move the guest to the other side, on purpose and without a loss."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from replicator.cli.tune import sync_options
from replicator.errors import SwitchoverFailed, TransportError
from replicator.service.config import load_config
from replicator.service.control import ask_daemon
from replicator.service.switchover_desk import DEFAULT_POLICY
from replicator.units import NS_PER_S

#: Beyond `max_time`, for the hand-over and what may have to be undone of it.
MARGIN_S = 30.0
#: For the other side's guest to be protected again, by this one.
PROTECTION_S = 120.0
LOOK_S = 0.1
PROTECTS = "standby at epoch"


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@sync_options
@click.option("--wait", is_flag=True, help="Until this side is a standby that could take over.")
def switchover(config: Path, wait: bool, **bounds: Any) -> None:
    """Move the protected guest of CONFIG to the other side; to be run on the primary's host."""
    state_dir = load_config(config).state_dir
    max_time_s = bounds["max_time_s"] or DEFAULT_POLICY.max_time_ns / NS_PER_S
    answer = ask_daemon(state_dir, "switchover", timeout_s=max_time_s + MARGIN_S, **bounds)
    report = answer["report"]
    if report["outcome"] != "moved":
        raise SwitchoverFailed(
            f"the guest was not moved ({report['outcome']}): {report['reason']}",
            hint="`replicator status` says how it is protected; order it again, or with wider bounds",
        )
    for line in describe(report):
        click.echo(line)
    if wait:
        click.echo(f"protected again after {_await_protection(state_dir):.2f} s")


def describe(report: dict[str, Any]) -> list[str]:
    return [
        f"moved after {report['passes']} passes; the last epoch had {report['pages']} pages, {report['bytes']} bytes",
        f"the guest stood still for {report['downtime_ms']:.1f} ms "
        f"(forecast {report['promised_ms']:.1f} ms, allowed {report['max_downtime_ms']:.1f} ms)",
    ]


def _await_protection(state_dir: Path) -> float:
    """Seconds until this side could take over. TransportError when it does not come so far."""
    began_s = time.monotonic()
    while (waited_s := time.monotonic() - began_s) < PROTECTION_S:
        state = str(ask_daemon(state_dir, "status")["state"])
        if state.startswith(PROTECTS):
            return waited_s
        time.sleep(LOOK_S)
    raise TransportError(
        f"the guest was moved, and is not protected again after {PROTECTION_S:.0f} s: {state}",
        hint="`replicator status` on both hosts says what is missing",
    )
