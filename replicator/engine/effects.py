"""What a machine asks of its runner. Imperative, nothing but data; executed in the order given."""

from __future__ import annotations

from enum import Enum

from replicator.engine.move_report import MoveReport
from replicator.frozen import frozen
from replicator.units import Epoch


class Effect:
    """Base of all effects."""


class Timer(Enum):
    """Timers are one each: arming one again moves it."""

    EPOCH = "epoch"
    EARLY = "early"
    ACK = "ack"
    RETRY = "retry"
    #: A step of a switchover.
    MOVE = "move"


@frozen
class ArmTimer(Effect):
    timer: Timer
    at_ns: int


@frozen
class CancelTimer(Effect):
    timer: Timer


@frozen
class WatchIdle(Effect):
    """Say once when the guest has done nothing for `quiet_ns` from now on; 0: when it is found asleep after a settle delay.
    Takes the place of an older one; the next pause ends it."""

    quiet_ns: int


@frozen
class Greet(Effect):
    """Send a hello that offers `session`."""

    session: bytes


@frozen
class Reconnect(Effect):
    """Drop the connection with all that is queued on it, and connect anew."""


@frozen
class OpenEpoch(Effect):
    epoch: Epoch
    base: Epoch
    #: The secondary's VM is to run on from this epoch (COLO).
    runs_vm: bool = False


@frozen
class CopyLive(Effect):
    """Copy and send what is owed while the guest runs, then scan for what is dirty again. The first round of an epoch
    scans before as well."""

    epoch: Epoch


@frozen
class CopyEarly(Effect):
    """Scan, then copy what is owed while the guest runs, but not pages that each of the last epochs had."""

    epoch: Epoch


@frozen
class PauseGuest(Effect):
    """Hold inputs, stop the guest, read its socket empty, mark the output barrier, scan.

    With `hold` output is held from the barrier on. More than `pages_max` dirty pages: no barrier, PauseOverrun."""

    epoch: Epoch
    hold: bool
    pages_max: int | None = None


@frozen
class CopyPages(Effect):
    epoch: Epoch


@frozen
class SaveDeviceState(Effect):
    epoch: Epoch
    #: Nothing else is left to be done in this pause: the guest may go on as soon as its state is saved, if there is a
    #: lease now. ResumeGuest follows all the same.
    runs_on: bool = False


@frozen
class ResumeGuest(Effect):
    """Check the lease, run the guest, let its inputs go on."""

    epoch: Epoch


@frozen
class SendEpoch(Effect):
    epoch: Epoch


@frozen
class AbandonEpoch(Effect):
    """Send no more of the open epoch; its pages are owed again."""

    epoch: Epoch


@frozen
class SettleOwed(Effect):
    """Pages of all epochs up to this one are with the secondary."""

    epoch: Epoch


@frozen
class OweAgain(Effect):
    """Pages of all epochs that were not acked go into the next one."""


@frozen
class OweAll(Effect):
    """The next epoch carries every page."""


@frozen
class ReleaseOutput(Effect):
    epoch: Epoch


@frozen
class PassOutput(Effect):
    """Release all that is held and hold nothing more. Only under a grant to go alone."""


@frozen
class RequestAlone(Effect):
    pass


@frozen
class LiftBar(Effect):
    session: bytes
    epoch: Epoch


@frozen
class FreezeGuest(Effect):
    """Pause the guest outside an epoch: the lease has lapsed."""


@frozen
class ThawGuest(Effect):
    """Resume a frozen guest, if the lease is live."""


@frozen
class Fence(Effect):
    """Discard held output and end the guest: another side has it."""

    reason: str


@frozen
class StandDown(Effect):
    """Record at the arbiter that the protection ends. With `hand_over` the replica may take over at once;
    otherwise the secondary is told never to promote."""

    reason: str
    hand_over: bool


@frozen
class EndGuest(Effect):
    """Shut the guest down (politely when `graceful`) and end this side."""

    graceful: bool


# COLO, at the primary.


@frozen
class SuspendSecondaryVm(Effect):
    """Send CHECKPOINT_NEW; the secondary answers with what its VM has written since the last commit."""

    session: bytes
    epoch: Epoch


@frozen
class CompareOutput(Effect):
    """Both guests run on from this epoch: what both say leaves."""

    epoch: Epoch


@frozen
class StopComparing(Effect):
    """Output waits for commits again."""


# Switchover, at the primary.


@frozen
class AwaitOutput(Effect):
    """Report when all output that was released up to this epoch has left."""

    epoch: Epoch


@frozen
class HandOver(Effect):
    """Mute this side, then give its lease up at the arbiter so that the replica may take over at once."""

    session: bytes
    epoch: Epoch


@frozen
class OfferGuest(Effect):
    """Tell the secondary to take over now."""

    session: bytes
    epoch: Epoch


@frozen
class TakeBack(Effect):
    """Ask the arbiter for the guest that was handed over, and if it is given keep its lease. With `force` as the
    operator, who knows that nobody runs it."""

    session: bytes
    epoch: Epoch
    force: bool = False


@frozen
class LeaveGuest(Effect):
    """End the paused guest, which runs elsewhere now, and this role."""


@frozen
class ReportMove(Effect):
    """How the switchover ended, for whoever ordered it."""

    report: MoveReport


# COLO, at the secondary.


@frozen
class SuspendVm(Effect):
    """Stop our VM, read its sockets empty, and note the pages it has written."""


@frozen
class TellVmSuspended(Effect):
    """Send CHECKPOINT_SVM_SUSPENDED and the list of all pages written here since the last commit."""

    session: bytes
    epoch: Epoch


@frozen
class LoadVm(Effect):
    """Make our VM equal to the committed epoch; start its process if there is none."""

    epoch: Epoch


@frozen
class RunVm(Effect):
    """Mark the replica as written to, then run our VM, give it the inputs after the epoch, and tell what it says."""

    epoch: Epoch


@frozen
class TellVmState(Effect):
    """Send CHECKPOINT_SVM_READY (`runs` False) or CHECKPOINT_SVM_RESUMED."""

    session: bytes
    epoch: Epoch
    runs: bool


@frozen
class EndVm(Effect):
    """End our VM's process."""


@frozen
class ActivateVm(Effect):
    """Check the lease, run our VM if it stands still, let it speak, announce."""

    epoch: Epoch


# Secondary's.


@frozen
class AnswerHandOver(Effect):
    """Tell the primary that the guest runs here (`taken`), or that it will not."""

    session: bytes
    epoch: Epoch
    taken: bool
    detail: str


@frozen
class HandBack(Effect):
    """Let the primary that has handed over take the guest back: it has not run here."""

    session: bytes
    epoch: Epoch


@frozen
class EndFailed(Effect):
    """End this side: the guest that was granted could not be started here."""

    reason: str


@frozen
class Accept(Effect):
    session: bytes
    committed: Epoch
    digest: bytes


@frozen
class Refuse(Effect):
    code: str
    detail: str


@frozen
class DiscardReplica(Effect):
    reason: str


@frozen
class BeginStore(Effect):
    term: int
    epoch: Epoch
    session: bytes
    full: bool


@frozen
class StorePart(Effect):
    epoch: Epoch
    index: int


@frozen
class CommitEpoch(Effect):
    epoch: Epoch
    parts: int
    size: int
    digest: bytes


@frozen
class AbortStore(Effect):
    """Throw the open epoch away."""


@frozen
class SendAck(Effect):
    session: bytes
    epoch: Epoch
    digest: bytes


@frozen
class SendAbort(Effect):
    session: bytes
    epoch: Epoch
    detail: str


@frozen
class TrimInputs(Effect):
    """Inputs up to this number are part of the committed epoch."""

    input_seq: int


@frozen
class TakeOver(Effect):
    """Ask the arbiter for the guest. With `force` as the operator."""

    session: bytes
    epoch: Epoch
    force: bool


@frozen
class ActivateGuest(Effect):
    """Load the device state, check the lease, run, announce, replay inputs."""

    epoch: Epoch
