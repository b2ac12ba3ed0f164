"""A daemon of the drill: a real one, that stands still in the phase it is told to.

    python -m replicator.drill.actors.daemon STOP_SOCKET ROLE CONFIG [--golden FOLDER] [--leaky] [--events FILE]

It tells the drill which phase it stands in (stop_point.py), what its machines noticed, and each change of its state
word. It does nothing to itself: faults come from outside.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from replicator import fine_timers
from replicator.drill.actors.platform import ActorPlatform
from replicator.drill.actors.stop_point import StopPoint
from replicator.drill.matrix.phases import Phase
from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.pipeline import Step
from replicator.errors import ReplicatorError
from replicator.observe.status import Progress, word_for_primary, word_for_secondary
from replicator.service.config import load_config
from replicator.service.daemon import Daemon, Options
from replicator.service.primary_role import PrimaryRole
from replicator.service.secondary_role import SecondaryRole
from replicator.service.views import Role

SWITCH_INTERVAL_S = 0.0005
NICENESS = -10
LOG_LINE = "%(asctime)s.%(msecs)03d %(levelname)s %(name)s: %(message)s"

#: The effect before which the daemon is in the phase.
EFFECT_AFTER: dict[type[fx.Effect], Phase] = {
    fx.PauseGuest: Phase.RUNNING,
    fx.CopyPages: Phase.PAUSED,
    fx.SaveDeviceState: Phase.SAVING,
    fx.ResumeGuest: Phase.RESUMING,
    fx.ReleaseOutput: Phase.RELEASING,
    fx.CommitEpoch: Phase.STAGED,
    fx.SendAck: Phase.COMMITTED,
    fx.TrimInputs: Phase.ACKED,
    fx.CompareOutput: Phase.COMPARING,
    fx.TellVmSuspended: Phase.VM_SUSPENDED,
    fx.LoadVm: Phase.VM_LOADING,
    fx.RunVm: Phase.VM_STARTING,
}
#: What a daemon hears only when something is wrong.
NOTICES = (
    ev.PeerSilent,
    ev.LinkLost,
    ev.PeerRefused,
    ev.StepFailed,
    ev.EpochRefused,
    ev.EpochFailed,
    ev.BulkBroken,
    ev.ArbiterFailed,
    ev.LeaseLapsed,
    ev.LeaseTaken,
    ev.GuestEnded,
    ev.TakeOverPostponed,
    ev.TakeOverRefused,
    ev.TakeOverGranted,
    ev.ActivationFailed,
    ev.VmFailed,
    ev.ChannelLost,
)


class Actor(Daemon):
    """`stop` gets all that is to be told."""

    def __init__(self, stop: StopPoint, config_path: Path, options: Options, platform: ActorPlatform) -> None:
        super().__init__(load_config(config_path), options, platform)
        self._stop = stop
        self._word = ""

    def _take_role(self, role: Role) -> None:
        journal = role.parts.watch

        def watch(what: object) -> None:
            journal(what)
            self._look_at(what)

        role.parts.watch = watch
        if isinstance(role, PrimaryRole):
            self._stop_in_copies(role)
        super()._take_role(role)
        self._tell_state()

    def _stop_in_copies(self, role: PrimaryRole) -> None:
        note = role.samples.note_copied

        def note_and_stop(epoch: int, pages: int) -> None:
            note(epoch, pages)
            if role.machine.pipeline.step is Step.COPYING:
                self._stop.reach(Phase.COPYING)

        role.samples.note_copied = note_and_stop  # type: ignore[method-assign]

    def _look_at(self, what: object) -> None:
        if isinstance(what, fx.Effect):
            if isinstance(what, fx.CompareOutput):
                self._stop.tell("comparing")
            phase = EFFECT_AFTER.get(type(what))
            if isinstance(what, fx.StorePart) and what.index > 0:
                phase = Phase.RECEIVING
            elif isinstance(what, fx.OpenEpoch) and self._joins():
                phase = Phase.JOINING
            if phase is not None and self._is_steady(what):
                self._stop.reach(phase)
            return
        if isinstance(what, NOTICES):
            self._stop.tell("notice", what=type(what).__name__)
        elif isinstance(what, ev.GuestActivated):
            self._stop.tell("running")
        elif isinstance(what, ev.VmResumed):
            self._tell_vm()
        # The event is handled before anything else gets the loop.
        asyncio.get_running_loop().call_soon(self._tell_state)

    def _joins(self) -> bool:
        """Its guest stands still and waits for the secondary's VM."""
        role = self._role
        return isinstance(role, PrimaryRole) and role.machine.pipeline.step is Step.JOINING

    def _tell_vm(self) -> None:
        role = self._role
        if isinstance(role, SecondaryRole) and role.desk is not None and role.desk.vm is not None:
            self._stop.tell("vm", pid=role.desk.vm.pid)

    def _is_steady(self, what: fx.Effect) -> bool:
        """A resume that ends no epoch is no phase of one."""
        role = self._role
        if isinstance(what, fx.ResumeGuest) and isinstance(role, PrimaryRole):
            return role.machine.pipeline.running
        return True

    def _tell_state(self) -> None:
        word = self._state_word()
        if word != self._word:
            self._word = word
            self._stop.tell("state", word=word)

    def _state_word(self) -> str:
        """The word that an operator sees, without what changes in it all the time."""
        role = self._role
        if role is None:
            return "starting"
        if isinstance(role, PrimaryRole):
            word = word_for_primary(role.machine, Progress(), 0).partition(" lag ")[0]
            return f"primary: {word}"
        return "secondary: " + re.sub(r"\bepoch \d+", "an epoch", word_for_secondary(role.machine))


async def live(arguments: argparse.Namespace) -> str:
    """One life of the daemon; why it ended."""
    stop = StopPoint(arguments.stop_socket, arguments.config.stem)
    stop.watch()
    platform = ActorPlatform(stop, arguments.golden, leaky=arguments.leaky)
    actor = Actor(stop, arguments.config, Options(events=arguments.events), platform)
    stopping: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, lambda: stopping.add(loop.create_task(actor.desk.stop())))
    life = actor.run_primary if arguments.role == "primary" else actor.run_secondary
    return await life()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="replicator.drill.actors.daemon", description="A daemon that can be stopped."
    )
    parser.add_argument("stop_socket", type=Path)
    parser.add_argument("role", choices=("primary", "secondary"))
    parser.add_argument("config", type=Path)
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--leaky", action="store_true")
    parser.add_argument("--events", type=Path)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format=LOG_LINE, datefmt="%H:%M:%S")
    # As for `replicator`: the relay's and the lease's threads may not wait behind the event loop.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    os.nice(NICENESS)
    try:
        print(f"ended: {fine_timers.run(live(options))}", flush=True)
    except ReplicatorError as error:
        print(f"failed: {error} {error.hint}", flush=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
