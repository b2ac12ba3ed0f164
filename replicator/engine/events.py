"""What may happen to a side of the pair. Past tense, nothing but data; the runner makes them."""

from __future__ import annotations

from dataclasses import dataclass

from replicator.engine.pacing import PacingSettings
from replicator.engine.precopy import DowntimePolicy
from replicator.units import Epoch


class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True)
class LinkUp(Event):
    """The peer can be reached; nothing is agreed yet."""


@dataclass(frozen=True, slots=True)
class LinkLost(Event):
    reason: str


@dataclass(frozen=True, slots=True)
class PeerSilent(Event):
    """No heartbeat for the configured number of intervals."""


@dataclass(frozen=True, slots=True)
class PeerAccepted(Event):
    """The secondary's answer to our hello: what it holds of `session`. `committed` is 0 when it holds nothing."""

    session: bytes
    committed: Epoch
    digest: bytes


@dataclass(frozen=True, slots=True)
class PeerRefused(Event):
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class EpochDue(Event):
    """The epoch timer fired, or the output hold is filling up."""


@dataclass(frozen=True, slots=True)
class OutputWaits(Event):
    """The first frame was held since the last barrier."""


@dataclass(frozen=True, slots=True)
class EarlyDue(Event):
    """Time to copy what is likely final before the next pause."""


@dataclass(frozen=True, slots=True)
class EarlyCopied(Event):
    """The round of copying before a pause is over."""

    epoch: Epoch
    pages: int


@dataclass(frozen=True, slots=True)
class LiveCopied(Event):
    """One round of copying while the guest runs is over: it copied `pages` in `elapsed_ns`, scans not counted, and
    left `remaining` that were written meanwhile."""

    epoch: Epoch
    pages: int
    remaining: int
    elapsed_ns: int


@dataclass(frozen=True, slots=True)
class GuestPaused(Event):
    """The guest stands still, its output up to here is marked as that of `epoch`."""

    epoch: Epoch
    dirty_pages: int
    #: Of its output, held since the barrier before.
    held_frames: int = 0


@dataclass(frozen=True, slots=True)
class PauseOverrun(Event):
    """The guest stands still with more dirty pages than the pause was to have. Nothing was marked."""

    epoch: Epoch
    dirty_pages: int


@dataclass(frozen=True, slots=True)
class PagesCopied(Event):
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class DeviceStateSaved(Event):
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class GuestResumed(Event):
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ResumeDenied(Event):
    """The lease ended before the guest could be resumed; it stays paused."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class StepFailed(Event):
    """A step of an epoch (pause, copy, save) failed at the guest."""

    epoch: Epoch
    reason: str


@dataclass(frozen=True, slots=True)
class EpochSealed(Event):
    """All parts of the epoch are with the link; its end follows with this digest."""

    epoch: Epoch
    digest: bytes
    #: Length of all its parts.
    size: int = 0


@dataclass(frozen=True, slots=True)
class EpochAcked(Event):
    session: bytes
    epoch: Epoch
    digest: bytes


@dataclass(frozen=True, slots=True)
class EpochRefused(Event):
    """The secondary could not commit."""

    epoch: Epoch
    detail: str


@dataclass(frozen=True, slots=True)
class AckOverdue(Event):
    """The oldest unacked epoch has waited for longer than the patience."""


@dataclass(frozen=True, slots=True)
class AloneGranted(Event):
    """The arbiter has barred every replica: this side may speak alone."""


@dataclass(frozen=True, slots=True)
class BarLifted(Event):
    """The arbiter has named the secondary's replica as the one to promote."""


@dataclass(frozen=True, slots=True)
class ArbiterFailed(Event):
    """A request to the arbiter has no known outcome."""

    reason: str


@dataclass(frozen=True, slots=True)
class RetryDue(Event):
    """Time to repeat the pending request to the arbiter."""


@dataclass(frozen=True, slots=True)
class LeaseLapsed(Event):
    reason: str


@dataclass(frozen=True, slots=True)
class LeaseRegained(Event):
    """The same term is held again."""


@dataclass(frozen=True, slots=True)
class LeaseTaken(Event):
    """Another side holds a newer term. Final."""

    reason: str


@dataclass(frozen=True, slots=True)
class GuestEnded(Event):
    """Powered off or panicked (`died` false), or its process died without being asked to."""

    reason: str
    died: bool


@dataclass(frozen=True, slots=True)
class StopOrdered(Event):
    """The operator ends the protection. The guest runs on unprotected, or is shut down."""

    shut_down: bool


@dataclass(frozen=True, slots=True)
class TuneOrdered(Event):
    """The operator changes the pace or the policy of pre-copies, None for none; `retry` a copy that was given up."""

    pacing: PacingSettings | None = None
    sync: DowntimePolicy | None = None
    early_pages: int | None = None
    retry: bool = False


@dataclass(frozen=True, slots=True)
class StandDownSettled(Event):
    """The arbiter has recorded the end; nobody may promote any more."""


# Switchover, at the primary.


@dataclass(frozen=True, slots=True)
class SwitchoverOrdered(Event):
    """The operator moves the guest to the other side."""

    policy: DowntimePolicy


@dataclass(frozen=True, slots=True)
class OutputLeft(Event):
    """Nothing that was released up to this epoch waits to be written any more."""

    epoch: Epoch


@dataclass(frozen=True, slots=True)
class MoveOverdue(Event):
    """The step of a switchover that waits for others has waited long enough."""


@dataclass(frozen=True, slots=True)
class HandOverRecorded(Event):
    """The arbiter has this side's lease back and lets the replica in."""


@dataclass(frozen=True, slots=True)
class HandOverAnswered(Event):
    """The secondary runs the guest (`taken`), or does not and will not."""

    epoch: Epoch
    taken: bool
    detail: str


@dataclass(frozen=True, slots=True)
class PeerLeads(Event):
    """The other side beats as the primary of a newer term: its guest runs."""

    term: int


@dataclass(frozen=True, slots=True)
class GuestTakenBack(Event):
    """The arbiter has given the guest back; `same_term` when nobody had taken over."""

    same_term: bool
    term: int


@dataclass(frozen=True, slots=True)
class TakeBackRefused(Event):
    """Another side holds a newer term."""

    reason: str


@dataclass(frozen=True, slots=True)
class TakeBackOrdered(Event):
    """The operator says that the other side does not run the guest."""


# Secondary's.


# COLO, at the primary.


@dataclass(frozen=True, slots=True)
class CheckpointAsked(Event):
    """The comparison of outputs needs a checkpoint; `is_difference`: the guests have parted."""

    epoch: Epoch
    is_difference: bool


@dataclass(frozen=True, slots=True)
class SecondaryVmSuspended(Event):
    """CHECKPOINT_SVM_SUSPENDED: the secondary's VM stands still for this epoch, if it has run; the pages that it has
    written since the last commit are owed now."""

    session: bytes
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class SecondaryVmResumed(Event):
    """CHECKPOINT_SVM_RESUMED: the secondary's VM runs on from this epoch."""

    session: bytes
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class ChannelLost(Event):
    """The guests' frames do not reach the other side any more: nothing can be compared."""

    reason: str


# COLO, at the secondary.


@dataclass(frozen=True, slots=True)
class SuspendOrdered(Event):
    """CHECKPOINT_NEW: the primary makes this epoch."""

    session: bytes
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class VmLoaded(Event):
    """Our VM equals the committed epoch, and stands still."""


@dataclass(frozen=True, slots=True)
class VmResumed(Event):
    """Our VM runs on from the committed epoch."""


@dataclass(frozen=True, slots=True)
class VmFailed(Event):
    """Our VM has ended, or could not be loaded, suspended or run. It cannot be used any more."""

    reason: str


@dataclass(frozen=True, slots=True)
class HandOverReceived(Event):
    """The primary has stopped its guest for good: take over now."""

    session: bytes
    term: int
    epoch: Epoch


@dataclass(frozen=True, slots=True)
class HelloReceived(Event):
    """A primary greets. `mismatch` says in which respect its guest is not ours, "" if it is."""

    session: bytes
    term: int
    mismatch: str
    may_discard: bool


@dataclass(frozen=True, slots=True)
class EpochBegun(Event):
    """`base` is the epoch this one builds upon, 0 for a full synchronisation."""

    session: bytes
    term: int
    epoch: Epoch
    base: Epoch
    #: The secondary's VM is to run on from this epoch (COLO).
    runs_vm: bool = False


@dataclass(frozen=True, slots=True)
class PartReceived(Event):
    session: bytes
    epoch: Epoch
    index: int


@dataclass(frozen=True, slots=True)
class EpochEnded(Event):
    session: bytes
    epoch: Epoch
    parts: int
    size: int
    digest: bytes
    input_seq: int


@dataclass(frozen=True, slots=True)
class BulkBroken(Event):
    """What the primary sent on this connection was changed or lost, and nothing more of it is taken."""

    reason: str


@dataclass(frozen=True, slots=True)
class EpochCommitted(Event):
    epoch: Epoch
    digest: bytes


@dataclass(frozen=True, slots=True)
class EpochFailed(Event):
    """The store refused the open epoch. The last committed one is whole."""

    epoch: Epoch
    reason: str


@dataclass(frozen=True, slots=True)
class PeerSpoke(Event):
    """Heartbeats arrive (again)."""


@dataclass(frozen=True, slots=True)
class StoodDown(Event):
    """The primary ended the protection: never promote."""

    reason: str


@dataclass(frozen=True, slots=True)
class PromoteOrdered(Event):
    """The operator wants this side to take over."""

    force: bool


@dataclass(frozen=True, slots=True)
class TakeOverGranted(Event):
    term: int


@dataclass(frozen=True, slots=True)
class TakeOverPostponed(Event):
    """The primary's lease is still live, or the arbiter did not answer."""

    reason: str


@dataclass(frozen=True, slots=True)
class TakeOverRefused(Event):
    """The arbiter's record forbids it until there is a new synchronisation."""

    reason: str


@dataclass(frozen=True, slots=True)
class GuestActivated(Event):
    """The standby runs from the committed epoch."""


@dataclass(frozen=True, slots=True)
class ActivationFailed(Event):
    reason: str
    #: It was told to run, and may have for a moment.
    may_have_run: bool = False
