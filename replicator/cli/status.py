"""`replicator status`: what protection there is right now."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from replicator.observe.colo_status import ColoStatus, KindStatus
from replicator.observe.status import SYNCING, ClockStatus, EncodingStatus, Progress
from replicator.service.config import load_config
from replicator.service.control import ask_daemon

REFRESH_S = 0.5


@click.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--watch", is_flag=True, help="Refresh until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def status(config: Path, watch: bool, as_json: bool) -> None:
    """Show the state of the daemon of CONFIG."""
    state_dir = load_config(config).state_dir
    if as_json or not watch:
        _show(ask_daemon(state_dir, "status"), as_json)
        while watch:
            time.sleep(REFRESH_S)
            _show(ask_daemon(state_dir, "status"), as_json)
        return
    with Live(_table(ask_daemon(state_dir, "status")), auto_refresh=False) as live:
        while True:
            time.sleep(REFRESH_S)
            live.update(_table(ask_daemon(state_dir, "status")), refresh=True)


def _show(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(answer))
    else:
        Console().print(_table(answer))


def _describe_pace(pace: dict[str, Any]) -> str:
    if not pace["pacing"]:
        return ""
    return (
        f"{pace['pacing']}; paused {pace['paused_percent']:.1f} %, waiting {pace['waiting_percent']:.1f} %, "
        f"{pace['in_flight']} of {pace['in_flight_max']} epochs in flight"
    )


def _describe_precopy(precopy: dict[str, Any]) -> str:
    """Of the newest one; "" before the first pass."""
    if not precopy["passes"]:
        return ""
    forecast = f"{precopy['downtime_ms']:.0f}" if precopy["downtime_ms"] >= 0 else "unknown"
    return (
        f"{precopy['passes']} passes, {precopy['copied_pages_per_s']:.0f} pages/s copied, "
        f"{precopy['dirtied_pages_per_s']:.0f} dirtied; pause {forecast} of {precopy['max_downtime_ms']:.0f} ms"
    )


def _describe_colo(colo: dict[str, Any]) -> str:
    kinds = {name: KindStatus(**each) for name, each in colo["kinds"].items()}
    return ColoStatus(**colo | {"kinds": kinds}).describe()


def _table(answer: dict[str, Any]) -> Table:
    stats = answer["stats"]
    table = Table(show_header=False, title=f"{answer['guest']} on {answer['node']} ({answer['role']})")
    reason = answer["reason"] if answer["reason"] not in answer["state"] else ""
    rows = (
        ("state", answer["state"]),
        ("reason", reason),
        ("warning", answer["warning"]),
        ("copied", Progress(**answer["sync"]).describe() if answer["state"].startswith(SYNCING) else ""),
        ("term", str(answer["term"])),
        ("epoch / committed", f"{answer['epoch']} / {answer['committed']}"),
        ("clock", ClockStatus(**answer["clock"]).describe()),
        ("pace", _describe_pace(answer["pace"])),
        ("throttled", answer["pace"]["throttled"]),
        ("pre-copy", _describe_precopy(answer["precopy"])),
        ("switchover", answer["switchover"]),
        ("protected after", f"{answer['protected_after_ms']:.0f} ms" if answer["protected_after_ms"] else ""),
        ("colo", _describe_colo(answer["colo"])),
        ("link", EncodingStatus(**answer["encoding"]).describe()),
        ("held output", f"{answer['held_frames']} frames, {answer['held_bytes']} bytes"),
        ("lost output", f"{answer['lost_frames']} frames"),
        ("pause p50 / p99", f"{stats['pause_ms']['p50']:.2f} / {stats['pause_ms']['p99']:.2f} ms"),
        ("commit p50 / p99", f"{stats['commit_ms']['p50']:.2f} / {stats['commit_ms']['p99']:.2f} ms"),
        ("dirty pages p50 / p99", f"{stats['dirty_pages']['p50']:.0f} / {stats['dirty_pages']['p99']:.0f}"),
        ("epoch bytes p50 / p99", f"{stats['epoch_bytes']['p50']:.0f} / {stats['epoch_bytes']['p99']:.0f}"),
    )
    for name, value in rows:
        if value:
            table.add_row(name, Text(value))
    return table
