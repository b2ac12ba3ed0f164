"""What a role shows of itself: the status for the operator, the heartbeat for the peer."""

from __future__ import annotations

from replicator.engine.pipeline import EpochPipeline
from replicator.engine.precopy import UNKNOWN_NS
from replicator.observe.colo_status import ColoStatus, show_colo
from replicator.observe.status import PaceStatus, PrecopyStatus, Status, word_for_primary, word_for_secondary
from replicator.service.primary_role import PrimaryRole
from replicator.service.secondary_role import SecondaryRole
from replicator.units import NS_PER_MS
from replicator.wire.session import Heartbeat

Role = PrimaryRole | SecondaryRole

STARTING = "starting"
#: The heartbeats' thread numbers what it sends.
_UNNUMBERED = 1


def show_role(role: Role | None, node: str, guest: str, *, standby_trouble: str = "") -> Status:
    if isinstance(role, PrimaryRole):
        return _show_primary(role, node, guest)
    if isinstance(role, SecondaryRole):
        machine = role.machine
        return Status(
            node,
            guest,
            "secondary",
            word_for_secondary(machine, standby_trouble),
            machine.term,
            machine.receiving or machine.committed,
            machine.committed,
            machine.trouble,
        )
    return Status(node, guest, "none", STARTING)


def _show_colo(role: PrimaryRole) -> ColoStatus:
    colo, line = role.machine.colo, role.colo
    if colo is None or line is None:
        return ColoStatus()
    return show_colo(colo, role.samples.stats().epochs, line.relay.compare_status())


def term_of(role: Role | None) -> int:
    """0 while there is no role."""
    if isinstance(role, PrimaryRole):
        return role.parts.keeper.lease.term
    return role.machine.term if isinstance(role, SecondaryRole) else 0


def word_of(role: Role | None, standby_trouble: str) -> str:
    """The state word alone, which is cheap enough to be asked for many times a second."""
    if isinstance(role, PrimaryRole):
        held_ns = role.parts.relay.held_age_ns()
        return word_for_primary(role.machine, role.samples.progress(), held_ns, has_lease=role.has_lease())
    if isinstance(role, SecondaryRole):
        return word_for_secondary(role.machine, standby_trouble)
    return STARTING


def _show_primary(role: PrimaryRole, node: str, guest: str) -> Status:
    machine, relay = role.machine, role.parts.relay.stats()
    progress = role.samples.progress()
    return Status(
        node,
        guest,
        "primary",
        word_for_primary(machine, progress, relay.oldest_held_age_ns, has_lease=role.has_lease()),
        role.parts.keeper.lease.term,
        machine.pipeline.epoch,
        machine.acked,
        machine.trouble,
        relay.output.held_frames,
        relay.output.held_bytes,
        relay.output.lost_frames,
        relay.oldest_held_age_ns / NS_PER_MS,
        role.samples.stats(),
        progress,
        clock=role.guest_clock.show(),
        pace=_show_pace(machine.pipeline),
        precopy=_show_precopy(machine.pipeline),
        encoding=role.parts.writer.encoder.show(),
        colo=_show_colo(role),
        switchover=machine.move.describe(),
        protected_after_ms=role.protected_after_ns / NS_PER_MS,
    )


def _show_pace(pipeline: EpochPipeline) -> PaceStatus:
    throttle = pipeline.pacer.throttle()
    return PaceStatus(
        str(pipeline.settings.pacing),
        len(pipeline.in_flight),
        pipeline.settings.in_flight_max,
        100 * throttle.paused_share,
        100 * throttle.waiting_share,
        throttle.reason,
    )


def _show_precopy(pipeline: EpochPipeline) -> PrecopyStatus:
    report, policy = pipeline.precopy, pipeline.settings.sync
    if report is None:
        return PrecopyStatus(policy.on_busy.value)
    return PrecopyStatus(
        policy.on_busy.value,
        report.passes,
        report.copied_pages_per_s,
        report.dirtied_pages_per_s,
        report.working_set_pages,
        report.max_downtime_ns / NS_PER_MS,
        report.downtime_ns / NS_PER_MS if report.downtime_ns < UNKNOWN_NS else -1.0,
        pipeline.gave_up,
    )


def make_beat(role: Role | None, node: str, age_ns: int) -> Heartbeat:
    """`age_ns`: how old the event loop's last step is. Called by the heartbeats' thread."""
    if isinstance(role, PrimaryRole):
        held_ns = role.parts.relay.held_age_ns()
        term = role.parts.keeper.lease.term
        acked, pause_ns = role.machine.acked, role.samples.last_pause_ns
        behind_ns = max(0, role.guest_clock.behind_ns())
        return Heartbeat(node, "primary", term, _UNNUMBERED, acked, age_ns, held_ns, pause_ns, behind_ns)
    if isinstance(role, SecondaryRole):
        return Heartbeat(node, "secondary", role.machine.term, _UNNUMBERED, role.machine.committed, age_ns, 0)
    return Heartbeat(node, "starting", 0, _UNNUMBERED, 0, age_ns, 0)
