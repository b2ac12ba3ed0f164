"""Bugs that are planted into the real code, for the simulator to find. Each is a way in which such a system can be wrong."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicator.arbiter import rules, stored
from replicator.arbiter.base import ArbiterRecord
from replicator.arbiter.rules import Rule
from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.effects import Effect
from replicator.engine.output import OutputMachine, OutputMode
from replicator.engine.primary import Bar, Link, PrimaryMachine
from replicator.engine.secondary import SecondaryMachine
from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.pages import GuestRam
from replicator.observe import status
from replicator.output.core import RelayCore
from replicator.service.arbiter_requests import ArbiterRequests
from replicator.service.daemon import Daemon
from replicator.service.epoch_steps import EpochSteps
from replicator.service.epoch_writer import OutgoingEpoch
from replicator.service.guest_commands import GuestCommands
from replicator.service.ledger import OwedLedger
from replicator.sim import witness
from replicator.sim.guest import SimGuest
from replicator.store import ReplicaStore
from replicator.store.open_epoch import OpenEpoch
from replicator.store.undo import UndoLog
from replicator.units import Epoch

Plant = Callable[[pytest.MonkeyPatch], None]
#: Name -> the promises of which one must be found broken, and the planting.
PLANTED: dict[str, tuple[set[str], Plant]] = {}


def planted(*promises: str) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        PLANTED[plant.__name__] = (set(promises), plant)
        return plant

    return register


# Output.


@planted("C1", "C4")
def output_is_released_when_it_is_sent(patch: pytest.MonkeyPatch) -> None:
    original = PrimaryMachine._on_epoch_sealed

    def release_early(self: PrimaryMachine, event: ev.EpochSealed, now_ns: int) -> list[Effect]:
        return [*original(self, event, now_ns), fx.ReleaseOutput(event.epoch)]

    patch.setattr(PrimaryMachine, "_on_epoch_sealed", release_early)


@planted("C1", "C4")
def output_is_held_only_after_the_first_ack(patch: pytest.MonkeyPatch) -> None:
    """The replica can be promoted from then on, and what was said since its barrier has left."""
    original = EpochSteps.pause

    async def pause(self: EpochSteps, effect: fx.PauseGuest) -> None:
        await original(self, fx.PauseGuest(effect.epoch, effect.hold and self._machine.acked > 0))

    patch.setattr(EpochSteps, "pause", pause)


@planted("C6")
def output_of_several_epochs_leaves_in_the_wrong_order(patch: pytest.MonkeyPatch) -> None:
    """Which shows when a reconnect settles more than one at once."""

    def release(self: OutputMachine, epoch: Epoch) -> int:
        released = 0
        ready = []
        while self._closed and self._closed[0].epoch <= epoch:
            ready.append(self._closed.popleft().frames)
        for frames in reversed(ready):
            self._leaving.extend(frames)
            released += len(frames)
        return released

    patch.setattr(OutputMachine, "release", release)


@planted("C6")
def output_leaves_twice_after_a_grant(patch: pytest.MonkeyPatch) -> None:
    original = OutputMachine.set_mode

    def set_mode(self: OutputMachine, mode: Any) -> int:
        again = [held for closed in self._closed for held in closed.frames] if mode is OutputMode.PASS else []
        let_go = original(self, mode)
        self._leaving.extend(again)
        self._held_frames += len(again)
        return let_go

    patch.setattr(OutputMachine, "set_mode", set_mode)


# Fencing, leases, terms, the bar.


@planted("C2")
def a_relay_that_looks_at_no_deadline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(RelayCore, "_in_time", lambda self: True)


@planted("C2")
def a_lease_that_is_kept_while_frozen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stored, "lease_deadline_ns", lambda requested_ns, ttl_ms, margin_ms: 1 << 62)


@planted("C2")
def a_stale_term_is_renewed(patch: pytest.MonkeyPatch) -> None:
    def acquire_again(node: str, term: int) -> Rule:
        def rule(record: ArbiterRecord | None) -> rules.Change:
            assert record is not None
            return rules.Change(record, rules.LeaseChange.KEEP)

        return rule

    patch.setattr(rules, "acquire_again", acquire_again)
    patch.setattr(rules, "renew", lambda lease: acquire_again(lease.holder, lease.term))


@planted("C4", "C2")
def a_barred_replica_is_promoted(patch: pytest.MonkeyPatch) -> None:
    def take_over(node: str, term: int, epoch: int, session: str | None) -> Rule:
        return rules.force_take_over("vm", node)

    patch.setattr(rules, "take_over", take_over)


@planted("C1", "C4")
def an_alone_grant_and_a_lift_overtake_each_other(patch: pytest.MonkeyPatch) -> None:
    """Found by the simulator in the released runner: two requests under way at once."""
    original = ArbiterRequests.__init__

    def init(self: ArbiterRequests, *arguments: Any) -> None:
        original(self, *arguments)
        self._asking = _NoLock()  # type: ignore[assignment]

    patch.setattr(ArbiterRequests, "__init__", init)


@planted("C1", "C4")
def output_passes_before_the_grant_to_go_alone(patch: pytest.MonkeyPatch) -> None:
    original = PrimaryMachine._go_alone

    def go_alone(self: PrimaryMachine) -> list[Effect]:
        return [*original(self), *self._pass_output()]

    patch.setattr(PrimaryMachine, "_go_alone", go_alone)


# Epochs.


@planted("C3")
def an_epoch_is_applied_unverified(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OpenEpoch, "verify", lambda self, parts, size, digest: None)


@planted("C1", "C4")
def an_ack_before_the_epoch_is_whole(patch: pytest.MonkeyPatch) -> None:
    original = SecondaryMachine._on_ended

    def on_ended(self: SecondaryMachine, event: ev.EpochEnded, now_ns: int) -> list[Effect]:
        done = original(self, event, now_ns)
        return [fx.SendAck(event.session, event.epoch, event.digest), *done] if done else []

    patch.setattr(SecondaryMachine, "_on_ended", on_ended)


@planted("C3")
def a_replayed_epoch_is_applied(patch: pytest.MonkeyPatch) -> None:
    def on_begun(self: SecondaryMachine, event: ev.EpochBegun, _: int) -> list[Effect]:
        if event.session != self.session:
            return []
        self._open, self._next_part = event.epoch, 0
        return [fx.BeginStore(self.term, event.epoch, self.session, full=event.base == 0)]

    patch.setattr(SecondaryMachine, "_on_begun", on_begun)
    patch.setattr(ReplicaStore, "_check_successor", lambda *_: None)


@planted("C3")
def an_undo_log_that_is_short_by_a_page(patch: pytest.MonkeyPatch) -> None:
    original = UndoLog.save

    def save(self: UndoLog, pfns: array[int], ram: GuestRam) -> None:
        original(self, pfns[:-1] if len(pfns) > 1 else pfns, ram)

    patch.setattr(UndoLog, "save", save)


@planted("C3", "C5", "crash")
def a_bitmap_that_is_cleared_after_the_resume(patch: pytest.MonkeyPatch) -> None:
    original = SimGuest.resume

    async def resume(self: SimGuest) -> None:
        await original(self)
        self.machine.dirty.clear()

    def scan(self: SimGuest, bitmap: DirtyBitmap) -> int:
        bitmap.set_pfns(array("Q", sorted(self.machine.dirty)))
        return len(self.machine.dirty)

    patch.setattr(SimGuest, "resume", resume)
    patch.setattr(SimGuest, "scan_dirty", scan)


@planted("C3", "C5")
def pages_of_a_lost_epoch_are_not_sent_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OwedLedger, "owe_again", lambda self: self._closed.clear())


@planted("C3")
def a_pause_and_a_thaw_overtake_each_other(patch: pytest.MonkeyPatch) -> None:
    """Found by the simulator in the released runner: commands to the guest side by side."""
    original = GuestCommands.__init__

    def init(self: GuestCommands, *arguments: Any) -> None:
        original(self, *arguments)
        self._commanding = _NoLock()  # type: ignore[assignment]

    patch.setattr(GuestCommands, "__init__", init)


# Getting well again.


@planted("C7", "C8")
def an_abandoned_epoch_keeps_the_wire(patch: pytest.MonkeyPatch) -> None:
    """Found by the simulator in the released writer."""

    async def send_waiting(self: OutgoingEpoch) -> None:
        if not self._on_wire:
            await self._writer.wire.acquire()
            self._on_wire = True
            if not self.abandoned:
                await self._writer.link.send_bulk(self._begin)
        while self._waiting and not self.abandoned:
            await self._send_part(self._waiting[0])
            if not self.abandoned:
                self._waiting_bytes -= len(self._waiting.pop(0))

    patch.setattr(OutgoingEpoch, "_send_waiting", send_waiting)


@planted("C7")
def a_host_that_beats_counts_as_a_primary(patch: pytest.MonkeyPatch) -> None:
    """Found by the simulator: a primary that ends and comes back as a secondary before its silence was noticed."""
    patch.setattr(Daemon, "_is_expected", lambda self, beat: True)


@planted("C7")
def a_lease_that_comes_back_in_a_pause_starts_nothing(patch: pytest.MonkeyPatch) -> None:
    """Found by the simulator in the released machine."""
    original = PrimaryMachine._on_lease_regained

    def on_regained(self: PrimaryMachine, event: ev.LeaseRegained, now_ns: int) -> list[Effect]:
        if self.pipeline.guest_paused:
            waiting, self._waiting_for = self._waiting_for, None
            effects = original(self, event, now_ns)
            self._waiting_for = waiting
            return effects
        return original(self, event, now_ns)

    patch.setattr(PrimaryMachine, "_on_lease_regained", on_regained)


@planted("C7")
def a_guest_alone_that_stays_mute(patch: pytest.MonkeyPatch) -> None:
    """Found by the journal's checker over simulated runs: a link that is lost in the first pause of a synchronisation."""

    def on_paused(self: PrimaryMachine, event: ev.GuestPaused, _: int) -> list[Effect]:
        if self.pipeline.running and self.pipeline.hold:
            self._passing = False
        return self.pipeline.handle_paused(event)

    patch.setattr(PrimaryMachine, "_on_guest_paused", on_paused)


# What is said.


@planted("C8")
def a_status_that_does_not_look_at_the_lease(patch: pytest.MonkeyPatch) -> None:
    def word(machine: PrimaryMachine, progress: Any, lag_ns: int, *, has_lease: bool = True) -> str:
        return status.word_for_primary(machine, progress, lag_ns)

    patch.setattr(witness, "word_for_primary", word)


@planted("C8")
def a_status_that_says_protected_when_it_hopes_so(patch: pytest.MonkeyPatch) -> None:
    def word(machine: PrimaryMachine, progress: Any, lag_ns: int, *, has_lease: bool = True) -> str:
        hoping = machine.bar in (Bar.LIFTING, Bar.LIFTED) and machine.link is Link.READY
        if has_lease and hoping:
            return "protected lag 0 ms"
        return status.word_for_primary(machine, progress, lag_ns, has_lease=has_lease)

    patch.setattr(witness, "word_for_primary", word)


class _NoLock:
    """In the place of a lock: nobody waits."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *_: object) -> None: ...


@contextlib.contextmanager
def plant(name: str) -> Iterator[set[str]]:
    """The bug is there inside of the block; gives the promises that it may break."""
    promises, planting = PLANTED[name]
    with pytest.MonkeyPatch.context() as patch:
        planting(patch)
        yield promises
