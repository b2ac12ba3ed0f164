"""`replicator primary` and `replicator secondary`: run a daemon in the foreground until its part is over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import click
from rich.console import Console

from replicator.observe.status import Status
from replicator.service.config import load_config
from replicator.service.daemon import Daemon

#: The GIL is handed over this often: the relay's and the lease's threads may not wait behind the event loop.
SWITCH_INTERVAL_S = 0.0005
WATCH_S = 0.25

_CONFIG = click.argument("config", type=click.Path(path_type=Path))
_EVENTS = click.option("--events", type=click.Path(path_type=Path), help="Append what happens as JSON lines.")


@click.command()
@_CONFIG
@click.option("--record", type=click.Path(path_type=Path), help="Write the session as a libxl v2 stream.")
@click.option("--discard-replica", is_flag=True, help="Start afresh though a replica could be promoted.")
@_EVENTS
def primary(config: Path, record: Path | None, discard_replica: bool, events: Path | None) -> None:
    """Start the guest of CONFIG and protect it."""
    settings = load_config(config)

    async def work() -> str:
        daemon = Daemon(settings, record=record, events=events, discard_replica=discard_replica)
        return await _run(daemon, daemon.run_primary)

    _finish(asyncio.run(_with_priority(work)))


@click.command()
@_CONFIG
@_EVENTS
def secondary(config: Path, events: Path | None) -> None:
    """Wait as the standby of CONFIG's guest, and take it over when its host dies."""
    settings = load_config(config)

    async def work() -> str:
        daemon = Daemon(settings, events=events)
        return await _run(daemon, daemon.run_secondary)

    _finish(asyncio.run(_with_priority(work)))


async def _with_priority(work: Callable[[], Awaitable[str]]) -> str:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with contextlib.suppress(OSError):
        os.nice(-10)
    return await work()


async def _run(daemon: Daemon, life: Callable[[], Awaitable[str]]) -> str:
    loop = asyncio.get_running_loop()
    stops: set[asyncio.Task[None]] = set()

    def order_stop() -> None:
        stops.add(loop.create_task(daemon.stop()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, order_stop)
    watch = loop.create_task(_tell_states(daemon))
    try:
        return await life()
    finally:
        watch.cancel()


async def _tell_states(daemon: Daemon) -> None:
    """One line for each change of the state word, without its numbers."""
    console, last = Console(highlight=False, markup=False), ""
    while True:
        status = daemon.status()
        word = _coarse(status)
        if word != last:
            reason = f" ({status.reason})" if status.reason and status.reason not in status.state else ""
            console.print(f"{status.node}: {status.role}: {status.state}{reason}", soft_wrap=True)
            last = word
        await asyncio.sleep(WATCH_S)


def _coarse(status: Status) -> str:
    """The state without its numbers, so that a line is printed when something changed and not each epoch."""
    return status.role + re.sub(r"\d+", "", status.state) + re.sub(r"\d+", "", status.reason)


def _finish(reason: str) -> None:
    click.echo(f"ended: {reason}")
    if reason.startswith("fenced"):
        sys.exit(7)
