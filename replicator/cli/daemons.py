"""`replicator primary` and `replicator secondary`: run a daemon in the foreground until its part is over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from replicator import fine_timers, placement, urgency
from replicator.cli.tell import Teller
from replicator.cli.tune import sync_options
from replicator.engine.guest_clock import ClockPolicy
from replicator.errors import GuestError, LeaseLost
from replicator.service.config import Mode, change_mode, change_sync, load_config
from replicator.service.daemon import Daemon, Options
from replicator.service.secondary_role import TAKE_OVER_FAILED

#: The GIL is handed over this often: the relay's and the lease's threads may not wait behind the event loop.
SWITCH_INTERVAL_S = 0.0005
WATCH_S = 0.25
#: How the reason of an end begins -> exit code; every other end is good.
EXIT_CODES = {"fenced": LeaseLost.exit_code, TAKE_OVER_FAILED: GuestError.exit_code}

_CONFIG = click.argument("config", type=click.Path(path_type=Path))
_CLOCK = click.option(
    "--clock",
    type=click.Choice([policy.value for policy in ClockPolicy]),
    help="What becomes of the time that the guest loses; in the place of [clock] policy.",
)
_MODE = click.option(
    "--mode",
    type=click.Choice([mode.value for mode in Mode]),
    help="How the guest is kept alive; in the place of [epoch] mode.",
)
_EVENTS = click.option("--events", type=click.Path(path_type=Path), help="Append what happens as JSON lines.")


@click.command()
@_CONFIG
@click.option("--record", type=click.Path(path_type=Path), help="Write the session as a libxl v2 stream.")
@click.option("--discard-replica", is_flag=True, help="Start afresh though a replica could be promoted.")
@click.option("--attach", type=click.Path(path_type=Path), help="QMP socket of a QEMU that runs already.")
@click.option("--attach-fast", type=click.Path(path_type=Path), help="A second one: shorter pauses.")
@sync_options
@_MODE
@_CLOCK
@_EVENTS
def primary(
    config: Path,
    record: Path | None,
    discard_replica: bool,
    attach: Path | None,
    attach_fast: Path | None,
    mode: str | None,
    clock: str | None,
    events: Path | None,
    **sync: Any,
) -> None:
    """Start the guest of CONFIG, or attach to it while it runs, and protect it."""
    settings = change_mode(change_sync(load_config(config), sync), mode)
    if attach_fast is not None and attach is None:
        raise click.UsageError("--attach-fast needs --attach beside it")
    options = Options(record, events, discard_replica, attach, attach_fast, _policy(clock))

    async def work() -> str:
        daemon = Daemon(settings, options)
        return await _run(daemon, daemon.run_primary)

    _finish(fine_timers.run(_with_priority(work, keeps_off=not settings.is_colo)))


@click.command()
@_CONFIG
@_MODE
@_CLOCK
@_EVENTS
def secondary(config: Path, mode: str | None, clock: str | None, events: Path | None) -> None:
    """Wait as the standby of CONFIG's guest, and take it over when its host dies.

    The primary's --mode is this pair's; the one given here counts from the take-over on.
    """
    settings = change_mode(load_config(config), mode)

    async def work() -> str:
        daemon = Daemon(settings, Options(events=events, clock=_policy(clock)))
        return await _run(daemon, daemon.run_secondary)

    _finish(fine_timers.run(_with_priority(work, keeps_off=not settings.is_colo)))


def _policy(clock: str | None) -> ClockPolicy | None:
    return None if clock is None else ClockPolicy(clock)


async def _with_priority(work: Callable[[], Awaitable[str]], *, keeps_off: bool) -> str:
    """`keeps_off`: from processors that a guest fills. Not in COLO, whose checkpoints are long, and in them the guests stand
    still: all processors have room."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with contextlib.suppress(OSError):
        os.nice(-10)
    urgency.begin()
    placing = asyncio.create_task(placement.keep()) if keeps_off else None
    try:
        return await work()
    finally:
        if placing is not None:
            placing.cancel()


async def _run(daemon: Daemon, life: Callable[[], Awaitable[str]]) -> str:
    loop = asyncio.get_running_loop()
    stops: set[asyncio.Task[None]] = set()

    def order_stop() -> None:
        stops.add(loop.create_task(daemon.desk.stop()))

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, order_stop)
    watch = loop.create_task(_tell_states(daemon))
    try:
        return await life()
    finally:
        watch.cancel()


async def _tell_states(daemon: Daemon) -> None:
    teller = Teller(Console())
    try:
        while True:
            teller.tell(daemon.status())
            await asyncio.sleep(WATCH_S)
    finally:
        teller.close()


def _finish(reason: str) -> None:
    click.echo(f"ended: {reason}")
    for beginning, exit_code in EXIT_CODES.items():
        if reason.startswith(beginning):
            sys.exit(exit_code)
