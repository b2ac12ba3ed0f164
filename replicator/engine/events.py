"""What may happen to a side of the pair. Past tense, nothing but data; the runner makes them."""

from __future__ import annotations

from typing import Final

from replicator.engine.pacing import PacingSettings
from replicator.engine.precopy import DowntimePolicy
from replicator.frozen import frozen
from replicator.units import Epoch


class Event:
    """Base of all events."""


_INTERNAL_ERROR: Final = "internal error: "


@frozen
class LinkUp(Event):
    """The peer can be reached; nothing is agreed yet."""


@frozen
class LinkLost(Event):
    reason: str


@frozen
class PeerSilent(Event):
    """No heartbeat for the configured number of intervals."""


@frozen
class PeerAccepted(Event):
    """The secondary's answer to our hello: what it holds of `session`. `committed` is 0 when it holds nothing."""

    session: bytes
    committed: Epoch
    digest: bytes


@frozen
class PeerRefused(Event):
    code: str
    detail: str


@frozen
class EpochDue(Event):
    """The epoch timer fired, or the output hold is filling up."""


@frozen
class OutputWaits(Event):
    """The first frame was held since the last barrier."""


@frozen
class GuestIdle(Event):
    """The guest has done nothing for as long as `WatchIdle` says."""


@frozen
class EarlyDue(Event):
    """Time to copy what is likely final before the next pause."""


@frozen
class EarlyCopied(Event):
    """The round of copying before a pause is over."""

    epoch: Epoch
    pages: int


@frozen
class LiveCopied(Event):
    """One round of copying while the guest runs is over: it copied `pages` in `elapsed_ns`, scans not counted, and
    left `remaining` that were written meanwhile."""

    epoch: Epoch
    pages: int
    remaining: int
    elapsed_ns: int


@frozen
class GuestPaused(Event):
    """The guest stands still, its output up to here is marked as that of `epoch`."""

    epoch: Epoch
    dirty_pages: int
    #: Of its output, held since the barrier before.
    held_frames: int = 0


@frozen
class PauseOverrun(Event):
    """The guest stands still with more dirty pages than the pause was to have. Nothing was marked."""

    epoch: Epoch
    dirty_pages: int


@frozen
class PagesCopied(Event):
    epoch: Epoch


@frozen
class DeviceStateSaved(Event):
    epoch: Epoch


@frozen
class GuestResumed(Event):
    epoch: Epoch


@frozen
class ResumeDenied(Event):
    """The lease ended before the guest could be resumed; it stays paused."""

    epoch: Epoch


@frozen
class StepFailed(Event):
    """A step of an epoch (pause, copy, save) failed at the guest."""

    epoch: Epoch
    reason: str


@frozen
class EpochSealed(Event):
    """All parts of the epoch are with the link; its end follows with this digest."""

    epoch: Epoch
    digest: bytes
    #: Length of all its parts.
    size: int = 0


@frozen
class EpochAcked(Event):
    session: bytes
    epoch: Epoch
    digest: bytes


@frozen
class EpochRefused(Event):
    """The secondary could not commit."""

    epoch: Epoch
    detail: str


@frozen
class AckOverdue(Event):
    """The oldest unacked epoch has waited for longer than the patience."""


@frozen
class AloneGranted(Event):
    """The arbiter has barred every replica: this side may speak alone."""


@frozen
class BarLifted(Event):
    """The arbiter has named the secondary's replica as the one to promote."""


@frozen
class ArbiterFailed(Event):
    """A request to the arbiter has no known outcome."""

    reason: str


@frozen
class RetryDue(Event):
    """Time to repeat the pending request to the arbiter."""


@frozen
class LeaseLapsed(Event):
    reason: str


@frozen
class LeaseRegained(Event):
    """The same term is held again."""


@frozen
class LeaseTaken(Event):
    """Another side holds a newer term, or something of ours has failed in a way that nobody foresaw. Final."""

    reason: str

    @classmethod
    def by_bug(cls, error: BaseException) -> LeaseTaken:
        return cls(f"{_INTERNAL_ERROR}{error!r}")

    @property
    def is_by_bug(self) -> bool:
        return self.reason.startswith(_INTERNAL_ERROR)


@frozen
class GuestEnded(Event):
    """Powered off or panicked (`died` false), or its process died without being asked to."""

    reason: str
    died: bool


@frozen
class StopOrdered(Event):
    """The operator ends the protection. The guest runs on unprotected, or is shut down."""

    shut_down: bool


@frozen
class TuneOrdered(Event):
    """The operator changes the pace or the policy of pre-copies, None for none; `retry` a copy that was given up."""

    pacing: PacingSettings | None = None
    sync: DowntimePolicy | None = None
    early_pages: int | None = None
    retry: bool = False


@frozen
class StandDownSettled(Event):
    """The arbiter has recorded the end; nobody may promote any more."""


# Switchover, at the primary.


@frozen
class SwitchoverOrdered(Event):
    """The operator moves the guest to the other side."""

    policy: DowntimePolicy


@frozen
class OutputLeft(Event):
    """Nothing that was released up to this epoch waits to be written any more."""

    epoch: Epoch


@frozen
class MoveOverdue(Event):
    """The step of a switchover that waits for others has waited long enough."""


@frozen
class HandOverRecorded(Event):
    """The arbiter has this side's lease back and lets the replica in."""


@frozen
class HandOverAnswered(Event):
    """The secondary runs the guest (`taken`), or does not and will not."""

    epoch: Epoch
    taken: bool
    detail: str


@frozen
class PeerLeads(Event):
    """The other side beats as the primary of a newer term: its guest runs."""

    term: int


@frozen
class GuestTakenBack(Event):
    """The arbiter has given the guest back; `same_term` when nobody had taken over."""

    same_term: bool
    term: int


@frozen
class TakeBackRefused(Event):
    """Another side holds a newer term."""

    reason: str


@frozen
class TakeBackOrdered(Event):
    """The operator says that the other side does not run the guest."""


# Secondary's.


# COLO, at the primary.


@frozen
class CheckpointAsked(Event):
    """The comparison of outputs needs a checkpoint; `is_difference`: the guests have parted."""

    epoch: Epoch
    is_difference: bool


@frozen
class SecondaryVmSuspended(Event):
    """CHECKPOINT_SVM_SUSPENDED: the secondary's VM stands still for this epoch, if it has run; the pages that it has
    written since the last commit are owed now."""

    session: bytes
    epoch: Epoch


@frozen
class SecondaryVmResumed(Event):
    """CHECKPOINT_SVM_RESUMED: the secondary's VM runs on from this epoch."""

    session: bytes
    epoch: Epoch


@frozen
class ChannelLost(Event):
    """The guests' frames do not reach the other side any more: nothing can be compared."""

    reason: str


# COLO, at the secondary.


@frozen
class SuspendOrdered(Event):
    """CHECKPOINT_NEW: the primary makes this epoch."""

    session: bytes
    epoch: Epoch


@frozen
class VmLoaded(Event):
    """Our VM equals the committed epoch, and stands still."""


@frozen
class VmResumed(Event):
    """Our VM runs on from the committed epoch."""


@frozen
class VmFailed(Event):
    """Our VM has ended, or could not be loaded, suspended or run. It cannot be used any more."""

    reason: str


@frozen
class HandOverReceived(Event):
    """The primary has stopped its guest for good: take over now."""

    session: bytes
    term: int
    epoch: Epoch


@frozen
class HelloReceived(Event):
    """A primary greets. `mismatch` says in which respect its guest is not ours, "" if it is."""

    session: bytes
    term: int
    mismatch: str
    may_discard: bool


@frozen
class EpochBegun(Event):
    """`base` is the epoch this one builds upon, 0 for a full synchronisation."""

    session: bytes
    term: int
    epoch: Epoch
    base: Epoch
    #: The secondary's VM is to run on from this epoch (COLO).
    runs_vm: bool = False


@frozen
class PartReceived(Event):
    session: bytes
    epoch: Epoch
    index: int


@frozen
class EpochEnded(Event):
    session: bytes
    epoch: Epoch
    parts: int
    size: int
    digest: bytes
    input_seq: int


@frozen
class BulkBroken(Event):
    """What the primary sent on this connection was changed or lost, and nothing more of it is taken."""

    reason: str


@frozen
class EpochCommitted(Event):
    epoch: Epoch
    digest: bytes


@frozen
class EpochFailed(Event):
    """The store refused the open epoch. The last committed one is whole."""

    epoch: Epoch
    reason: str


@frozen
class PeerSpoke(Event):
    """Heartbeats arrive (again)."""


@frozen
class StoodDown(Event):
    """The primary ended the protection: never promote."""

    reason: str


@frozen
class PromoteOrdered(Event):
    """The operator wants this side to take over."""

    force: bool


@frozen
class TakeOverGranted(Event):
    term: int


@frozen
class TakeOverPostponed(Event):
    """The primary's lease is still live, or the arbiter did not answer."""

    reason: str


@frozen
class TakeOverRefused(Event):
    """The arbiter's record forbids it until there is a new synchronisation."""

    reason: str


@frozen
class GuestActivated(Event):
    """The standby runs from the committed epoch."""


@frozen
class ActivationFailed(Event):
    reason: str
    #: It was told to run, and may have for a moment.
    may_have_run: bool = False
