"""Boots a copy of a running pair's replica, has it answer in a network of its own, and throws it away.

Asks the secondary's daemon for the copy; the pair is only watched. However the drill ends, by Ctrl-C, SIGTERM or an
error, its process and files are gone. A drill that is killed leaves nothing that runs, and what files it leaves the
next one removes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address
from typing import Any, TypeVar

from replicator.drill.on_copy.boot import boot_copy
from replicator.drill.on_copy.folder import RUN_DIR, drill_folder
from replicator.drill.on_copy.report import OnCopyReport, find_problems, split_pace
from replicator.errors import ConfigError
from replicator.service import wiring
from replicator.service.config import DaemonConfig
from replicator.service.control import ask_daemon_later
from replicator.service.copying import COPY_NICENESS, RAM_FILE, STATE_FILE

#: How long the pair is watched when the copy is gone; what was before the daemon remembers.
AFTER_S = 3.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Say = Callable[[str], object]
_T = TypeVar("_T")


def drill_on_copy(config: DaemonConfig, *, address: str | None, say: Say) -> OnCopyReport:
    """The daemon's refusal when there is no whole replica or no room; DrillFailed when the copy does not answer."""
    given = _parse_address(address)
    with contextlib.suppress(OSError):
        # The guest that is protected comes first.
        os.nice(COPY_NICENESS)
    return asyncio.run(_until_signal(_drill(config, given, say)))


def _parse_address(address: str | None) -> list[IPv4Address]:
    try:
        return [IPv4Address(address)] if address is not None else []
    except ValueError as error:
        raise ConfigError(f"{address} is no IPv4 address", hint="name the guest's, as 10.0.0.7") from error


async def _until_signal(work: Awaitable[_T]) -> _T:
    """A signal ends the work as an error would; the exit code is the shell's."""
    task = asyncio.ensure_future(work)
    received: list[int] = []

    def leave(number: int) -> None:
        received.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, leave, number)
    try:
        return await task
    except asyncio.CancelledError:
        if not received:
            raise
        raise SystemExit(128 + received[0]) from None


async def _drill(config: DaemonConfig, given: list[IPv4Address], say: Say) -> OnCopyReport:
    kit = wiring.make_kit(config)
    before = await _ask(config, "pace")
    with drill_folder(config.state_dir) as folder:
        say("asking the secondary for a copy of its replica")
        copied = await _ask(config, "copy")
        say(
            f"copied epoch {copied['epoch']}: {copied['bytes_copied'] >> 20} MiB in {copied['rounds']} rounds, "
            f"the secondary stood still for {copied['held_up_ns'] / 1e6:.1f} ms; booting it"
        )
        addresses = [[*given, *map(IPv4Address, known)] for known in copied["addresses"]]
        boot = await boot_copy(kit, folder / RAM_FILE, folder / STATE_FILE, folder / RUN_DIR, addresses)
    gone_ns = (await _ask(config, "pace", since_ns=copied["ended_ns"]))["now_ns"]
    say(f"it answered after {boot.boot_to_answer_ms:.0f} ms and is gone; watching the pair")
    await asyncio.sleep(AFTER_S)
    after = await _ask(config, "pace")
    pace = split_pace(after, copied["began_ns"], gone_ns)
    return OnCopyReport(config.node.name, kit.name, copied, boot, pace, find_problems(before, after, pace))


async def _ask(config: DaemonConfig, command: str, **arguments: Any) -> dict[str, Any]:
    return await ask_daemon_later(config.state_dir, command, **arguments)
