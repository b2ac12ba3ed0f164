"""`replicator`, but it dies where it is told, once it is armed by SIGUSR1.

    python mortal_daemon.py PHASE ARGUMENT...      # ARGUMENTs as for `replicator`

PHASE is "before:EFFECT" or "after:EFFECT" with an effect of either role's machine (engine/effects.py): the next time
it is carried out, the daemon and its guest die by SIGKILL, as by a power cut. With "guest:" in front only the guest's
process dies. "never" is no phase.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from replicator.cli import daemons
from replicator.cli.main import main
from replicator.demo.stage import children_of
from replicator.service.daemon import Daemon, Role


class MortalDaemon(Daemon):
    """`phase` is the class's, for the command line makes the daemon."""

    phase = "never"

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._is_armed = False
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._arm)

    def _arm(self) -> None:
        self._is_armed = True

    def _take_role(self, role: Role) -> None:
        actions: dict[Any, Callable[[Any], Any]] = role._actions  # type: ignore[assignment]
        when, _, name = self.phase.removeprefix("guest:").partition(":")
        for effect, action in list(actions.items()):
            if effect.__name__ == name:
                actions[effect] = self._make_mortal(action, is_before=when == "before")
        super()._take_role(role)

    def _make_mortal(self, action: Callable[[Any], Any], *, is_before: bool) -> Callable[[Any], Any]:
        def act(effect: Any) -> Any:
            if is_before:
                self._die_if_armed()
            done = action(effect)
            if asyncio.iscoroutine(done):
                return act_later(done)
            self._die_if_armed()
            return done

        async def act_later(work: Any) -> Any:
            done = await work
            self._die_if_armed()
            return done

        return act

    def _die_if_armed(self) -> None:
        if not self._is_armed:
            return
        self._is_armed = False
        for pid in children_of(os.getpid()):
            os.kill(pid, signal.SIGKILL)
        if not self.phase.startswith("guest:"):
            os.kill(os.getpid(), signal.SIGKILL)


def run(kind: type[MortalDaemon]) -> None:
    """Become the command line with this kind of daemon; `sys.argv[1]` is the phase."""
    kind.phase = sys.argv.pop(1)
    daemons.Daemon = kind  # type: ignore[misc]
    main()


if __name__ == "__main__":
    run(MortalDaemon)
