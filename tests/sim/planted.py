"""Bugs that are planted into the real code, for the simulator to find. Each is a way in which such a system can be wrong."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from replicator.arbiter import rules, stored
from replicator.arbiter.base import ArbiterRecord, Lease
from replicator.arbiter.rules import Rule
from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine import pacing
from replicator.engine.compare.compared_output import ComparedOutput
from replicator.engine.compare.datagram_flow import DatagramFlow
from replicator.engine.compare.events import SecondarySaid
from replicator.engine.effects import Effect
from replicator.engine.hand_over import HandOver
from replicator.engine.output import OutputMachine, OutputMode
from replicator.engine.pipeline import EpochPipeline, Step
from replicator.engine.primary import Bar, Link, PrimaryMachine
from replicator.engine.secondary import SecondaryMachine
from replicator.engine.secondary_vm import VmKeeper
from replicator.link import sealing
from replicator.link.bulk import Frames
from replicator.link.sealing import BulkKeys, Opener
from replicator.memory.bitmap import DirtyBitmap
from replicator.memory.pages import GuestRam
from replicator.observe import status
from replicator.output.core import RelayCore
from replicator.service import colo_line, part_decoder, secondary_line, secondary_role
from replicator.service.arbiter_requests import ArbiterRequests
from replicator.service.daemon import Daemon
from replicator.service.early_news import EarlyNews
from replicator.service.epoch_steps import EpochSteps
from replicator.service.epoch_writer import OutgoingEpoch
from replicator.service.guest_commands import GuestCommands
from replicator.service.ledger import OwedLedger
from replicator.service.part_encoder import LOOKAHEAD_PARTS, PartEncoder
from replicator.service.primary_role import PrimaryRole
from replicator.service.vm_desk import VmDesk
from replicator.sim import witness
from replicator.sim.guest import SimGuest
from replicator.sim.sealing import number_in
from replicator.store import ReplicaStore
from replicator.store.open_epoch import OpenEpoch
from replicator.store.undo import UndoLog
from replicator.units import Epoch
from replicator.wire.session import NO_SHARE, Hello

Plant = Callable[[pytest.MonkeyPatch], None]
#: Name -> the promises of which one must be found broken, and the planting.
PLANTED: dict[str, tuple[set[str], Plant]] = {}
#: Those that only a pair which does COLO can have.
OF_COLO: set[str] = set()


def planted(*promises: str, in_colo: bool = False) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        PLANTED[plant.__name__] = (set(promises), plant)
        if in_colo:
            OF_COLO.add(plant.__name__)
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


@planted("C1", "C4", "C6")
def output_of_pipelined_epochs_is_released_by_count(patch: pytest.MonkeyPatch) -> None:
    """One epoch an ack: an epoch in which the guest said nothing lets out what the next one holds."""

    def release(self: OutputMachine, epoch: Epoch) -> int:
        frames = self._closed.popleft().frames if self._closed else []
        self._leaving.extend(frames)
        return len(frames)

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


# Switchover.


@planted("C2")
def a_hand_over_that_keeps_its_voice(patch: pytest.MonkeyPatch) -> None:
    async def hand_over(self: ArbiterRequests) -> None:
        lease, release = self._parts.keeper.lease, self._parts.arbiter.release
        await self._ask(lambda: release(lease, hand_over=True), ev.HandOverRecorded())

    patch.setattr(ArbiterRequests, "hand_over", hand_over)


@planted("C2", "C4")
def a_guest_that_runs_again_after_its_hand_over_was_recorded(patch: pytest.MonkeyPatch) -> None:
    """Impatient, and without the arbiter's word."""
    original = HandOver._on_recorded

    def on_recorded(self: HandOver, event: ev.HandOverRecorded, now_ns: int) -> list[Effect]:
        return [*original(self, event, now_ns), *self._take_back("it takes too long")]

    def ask_back(self: ArbiterRequests, lease: Lease, effect: fx.TakeBack) -> Lease:
        return replace(lease, deadline_boottime_ns=1 << 62)

    patch.setattr(HandOver, "_on_recorded", on_recorded)
    patch.setattr(ArbiterRequests, "_ask_back", ask_back)


@planted("C6")
def output_of_the_last_epoch_is_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """It would leave after the take-over, were this side not mute by then; so it is lost."""

    async def await_output(self: PrimaryRole, epoch: Epoch) -> None:
        self.post(ev.OutputLeft(epoch))

    patch.setattr(PrimaryRole, "_await_output", await_output)


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


@planted("crash")
def a_resume_under_way_is_ordered_again(patch: pytest.MonkeyPatch) -> None:
    """Found by the simulator in the released engine, once it took an internal error for a broken promise."""

    def retry_resume(self: EpochPipeline) -> list[Effect]:
        return [fx.ResumeGuest(self.epoch)] if self.step is Step.RESUMING else []

    patch.setattr(EpochPipeline, "retry_resume", retry_resume)


# Sealing.


@planted("N1")
def a_key_that_comes_back_after_a_reconnect(patch: pytest.MonkeyPatch) -> None:
    """Drawn from the session alone: the next connection counts from 0 under the same key."""

    def derive(hello: Hello, _: bytes) -> BulkKeys:
        return sealing.derive_keys(replace(hello, share=NO_SHARE), NO_SHARE)

    patch.setattr(secondary_line, "derive_keys", derive)
    patch.setattr(secondary_role, "derive_keys", derive)


@planted("N2")
def an_older_sealed_message_opens_again(patch: pytest.MonkeyPatch) -> None:
    original = Opener.open

    def open_again(self: Opener, frames: Frames) -> list[memoryview]:
        due = self._due
        self._due = min(due, number_in(frames))
        try:
            return original(self, frames)
        finally:
            self._due = max(due, self._due)

    patch.setattr(Opener, "open", open_again)


@planted("C7")
def deltas_upon_versions_that_were_lost(patch: pytest.MonkeyPatch) -> None:
    """The secondary refuses what does not come out as it was sent, again and again."""
    patch.setattr(PartEncoder, "forget", lambda self: None)


@planted("C3")
def deltas_upon_wrong_bases_are_applied(patch: pytest.MonkeyPatch) -> None:
    """What comes out is not looked at any more, neither the part nor the epoch."""
    patch.setattr(PartEncoder, "forget", lambda self: None)
    patch.setattr(part_decoder, "digest_page_data", lambda head, pages: mock.ANY)
    patch.setattr(part_decoder, "xxhash", SimpleNamespace(xxh3_128_digest=lambda part: mock.ANY))
    patch.setattr(OpenEpoch, "verify", lambda self, parts, size, digest: None)


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
            for coded in await self._encoder.encode(self._waiting[:LOOKAHEAD_PARTS]):
                if not self.abandoned:
                    await self._send_part(coded)

    patch.setattr(OutgoingEpoch, "_send_waiting", send_waiting)


@planted("C7")
def a_lease_that_lapses_before_its_primary_is_there(patch: pytest.MonkeyPatch) -> None:
    hear = EarlyNews._hear

    def hear_late(self: EarlyNews, event: Any) -> None:
        if self._role is not None:
            hear(self, event)

    patch.setattr(EarlyNews, "_hear", hear_late)


@planted("C7")
def a_pause_that_hung_sets_the_pace(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(pacing, "RUN_MAX_NS", 1 << 62)


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

    def on_paused(self: PrimaryMachine, event: ev.GuestPaused, now_ns: int) -> list[Effect]:
        if self.pipeline.running and self.pipeline.hold:
            self._passing = False
        return self.pipeline.handle_paused(event, now_ns)

    patch.setattr(PrimaryMachine, "_on_guest_paused", on_paused)


@planted("C7")
def a_replica_that_outlives_its_guest(patch: pytest.MonkeyPatch) -> None:
    """The guest was started anew where it lay, and has moved: it refuses every primary that could be followed."""

    async def keep(_: Daemon) -> None: ...

    patch.setattr(Daemon, "_give_up_replica", keep)
    patch.setattr(Daemon, "_distrust_older", lambda _, __: None)


# COLO.


@planted("C1", "C4", in_colo=True)
def output_leaves_that_only_the_primary_has_said(patch: pytest.MonkeyPatch) -> None:
    def say_primary(self: DatagramFlow, frame_id: int, *_: object) -> None:
        self._matched.append(frame_id)

    patch.setattr(DatagramFlow, "say_primary", say_primary)


@planted("C1", "C4", in_colo=True)
def what_the_vm_said_in_a_closed_epoch_is_compared_in_the_next(patch: pytest.MonkeyPatch) -> None:
    """It was ahead of the primary's guest, and is another guest now, or none."""
    original = ComparedOutput.hear

    def hear(self: ComparedOutput, event: Any, now_ns: int) -> None:
        if isinstance(event, SecondarySaid):
            event = replace(event, epoch=self._open_epoch())
        original(self, event, now_ns)

    patch.setattr(ComparedOutput, "hear", hear)


@planted("C3", "C5", in_colo=True)
def pages_that_the_vm_has_written_are_not_owed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OwedLedger, "owe", lambda self, pfns: None)


@planted("C3", "C5", in_colo=True)
def a_damaged_word_on_a_checkpoint_is_believed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(colo_line, "check_of", lambda _: mock.ANY)


@planted("C3", in_colo=True)
def bases_are_kept_for_pages_that_the_vm_has_written(patch: pytest.MonkeyPatch) -> None:
    """What comes out is not looked at any more, neither the part nor the epoch."""
    patch.setattr(PartEncoder, "forget_pages", lambda self, pfns: None)
    patch.setattr(part_decoder, "digest_page_data", lambda head, pages: mock.ANY)
    patch.setattr(part_decoder, "xxhash", SimpleNamespace(xxh3_128_digest=lambda part: mock.ANY))
    patch.setattr(OpenEpoch, "verify", lambda self, parts, size, digest: None)


@planted("C3", "C4", in_colo=True)
def a_replica_that_a_vm_runs_on_is_promoted_as_an_epoch(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReplicaStore, "mark_vm", lambda self: None)
    patch.setattr(VmKeeper, "owns_replica", property(lambda self: False))


@planted("C3", in_colo=True)
def a_vm_runs_on_while_the_next_epoch_is_stored(patch: pytest.MonkeyPatch) -> None:
    original = VmKeeper.stand_still

    def stand_still(self: VmKeeper) -> list[Effect]:
        original(self)
        return []

    patch.setattr(VmKeeper, "stand_still", stand_still)


@planted("C8", in_colo=True)
def the_loss_of_a_replica_is_told_once(patch: pytest.MonkeyPatch) -> None:
    """The word gets lost, and the primary waits for one that the VM runs."""
    original = SecondaryMachine._on_peer_spoke

    def on_peer_spoke(self: SecondaryMachine, event: ev.PeerSpoke, now_ns: int) -> list[Effect]:
        return [effect for effect in original(self, event, now_ns) if not isinstance(effect, fx.SendAbort)]

    patch.setattr(SecondaryMachine, "_on_peer_spoke", on_peer_spoke)


@planted("C7", in_colo=True)
def a_vm_whose_end_was_heard_is_handed_over(patch: pytest.MonkeyPatch) -> None:
    """Who has it then never hears of its end."""
    patch.setattr(
        VmDesk, "_fail", lambda self, vm, reason: self._post(ev.VmFailed(reason), lambda: self.vm is vm)
    )


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
