"""What drills ask of a daemon over its control socket: a copy of the replica, the pair's pace, process ids.

copy       a copy of one committed epoch in `<state_dir>/drill`, which the asker has made and owns
pace       commits and lags since a moment, and what tells whether the pair was disturbed
pids       the daemon's and its guest's processes
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replicator.clock import Clock
from replicator.errors import FenceError, StoreError
from replicator.service.commit_log import CommitLog
from replicator.service.control import Answer
from replicator.service.copying import copy_replica
from replicator.service.primary_role import PrimaryRole
from replicator.service.secondary_role import SecondaryRole
from replicator.service.views import Role

#: Below the state folder.
DRILL_DIR = "drill"


class DrillDesk:
    """Answers about whatever role the daemon has at that moment."""

    def __init__(
        self, state_dir: Path, commits: CommitLog, clock: Clock, find_role: Callable[[], Role | None]
    ) -> None:
        self._directory = state_dir / DRILL_DIR
        self._commits = commits
        self._clock = clock
        self._find_role = find_role
        self._is_copying = False

    async def copy(self, _: dict[str, Any]) -> Answer:
        """FenceError when this side has no whole replica, StoreError when there is no room or no folder."""
        role = self._find_role()
        if not isinstance(role, SecondaryRole):
            what = "the guest runs here" if isinstance(role, PrimaryRole) else "this side is still starting"
            raise FenceError(
                f"{what}: there is no replica to copy", hint="run this drill on the secondary's host"
            )
        if not self._directory.is_dir():
            raise StoreError(
                f"{self._directory} does not exist", hint="`replicator drill --on-copy` makes it"
            )
        if self._is_copying:
            raise FenceError("a copy is being made already", hint="wait until the other drill has ended")
        self._is_copying = True
        try:
            return await copy_replica(role, self._commits, self._directory, self._clock)
        finally:
            self._is_copying = False

    async def pace(self, request: dict[str, Any]) -> Answer:
        """Times are CLOCK_MONOTONIC nanoseconds; `since_ns` is the oldest wanted."""
        since_ns = int(request.get("since_ns") or 0)
        role = self._find_role()
        answer: Answer = {
            "role": "none",
            "term": 0,
            "session": "",
            "committed": 0,
            "now_ns": self._clock.monotonic_ns(),
            "commits": self._commits.commits_since(since_ns),
            "beats": self._commits.beats_since(since_ns),
        }
        if isinstance(role, SecondaryRole):
            machine = role.machine
            answer |= {"role": "secondary", "term": machine.term, "committed": machine.committed}
            answer["session"] = machine.session.hex()
        elif isinstance(role, PrimaryRole):
            answer |= {"role": "primary", "term": role.parts.keeper.lease.term}
        return answer

    async def pids(self, _: dict[str, Any]) -> Answer:
        role = self._find_role()
        guest = role.parts.guest.pid if isinstance(role, PrimaryRole) else 0
        return {"daemon": os.getpid(), "guest": guest}
