"""Keeps a lease alive from a thread of its own, and publishes until when this side may speak.

The thread renews every quarter of the ttl, but only while the epoch loop makes progress: a side that hangs must
lose its lease. The deadline is one int that the relay compares with the clock before each write; the keeper never
has to act for a side to fall silent, it only has to stop acting.

States: kept -> lapsed (the deadline passed; the relay is already mute) -> kept again, when nobody took over, or
-> lost (another term exists; final). The callbacks run in the keeper's thread and may not block it for long.

What is decided at each renewal is `LeaseRenewal`'s, which knows no thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from replicator import urgency
from replicator.arbiter.base import Arbiter, Lease
from replicator.clock import SYSTEM_CLOCK, Clock
from replicator.deadline import SharedDeadline
from replicator.errors import ArbiterError, LeaseLost
from replicator.units import NS_PER_S

_LOG = logging.getLogger(__name__)

RENEWALS_PER_TTL = 4

_T = TypeVar("_T")


class LeaseDeadline(SharedDeadline):
    """The holder's deadline where the relay reads it."""


def _ignore(_: object) -> None:
    """Callback of those who only read the deadline."""


@dataclass(frozen=True, slots=True)
class LeaseCallbacks:
    """`progress()` tells whether the epoch loop runs."""

    progress: Callable[[], bool] = lambda: True
    #: The deadline passed; once a lapse.
    on_lapsed: Callable[[ArbiterError], None] = _ignore
    #: The same term is held again.
    on_regained: Callable[[Lease], None] = _ignore
    #: Somebody else has it; no renewal follows.
    on_lost: Callable[[LeaseLost], None] = _ignore


class Keeper(Protocol):
    """What the service may ask of whoever renews its lease."""

    @property
    def lease(self) -> Lease:
        """The newest lease; its deadline may have passed."""
        ...

    def start(self) -> None:
        """Publish the lease's deadline and begin to renew it."""
        ...

    def stop(self) -> bool:
        """Renew no more, without ending the lease. Afterwards the deadline is 0: who stops the keeper stands down or
        starts another one. False when a renewal is still under way; this side never speaks again then."""
        ...


class LeaseRenewal:
    """Renews `lease` at each `tick` until `end` or until another side has taken over."""

    def __init__(
        self,
        arbiter: Arbiter,
        lease: Lease,
        deadline: LeaseDeadline,
        callbacks: LeaseCallbacks | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._arbiter = arbiter
        self.lease = lease
        self._deadline = deadline
        self._callbacks = callbacks or LeaseCallbacks()
        self._clock = clock
        self._interval_s = arbiter.ttl_ms / 1000 / RENEWALS_PER_TTL
        self._lapsed = False
        self._ended = False
        self._last_error: ArbiterError | None = None

    def begin(self) -> None:
        """Publish the lease's deadline."""
        self._deadline.deadline_ns = self.lease.deadline_boottime_ns

    def end(self) -> None:
        """Mute from now on, also when a tick is under way in another thread."""
        self._ended = True
        self._deadline.deadline_ns = 0

    def wait_s(self) -> float:
        """Until the next tick is due: a renewal, or the deadline if that comes first and is not reported yet."""
        if self._lapsed:
            return self._interval_s
        left_s = (self.lease.deadline_boottime_ns - self._clock.boottime_ns()) / NS_PER_S
        return min(self._interval_s, max(left_s, 0.0))

    def tick(self) -> bool:
        """One attempt. False when the lease is lost for good."""
        try:
            if self._makes_progress():
                self._adopt(self._ask())
                return True
            self._last_error = ArbiterError("the epoch loop makes no progress, the lease is left to run out")
        except LeaseLost as error:
            self._deadline.deadline_ns = 0
            self._call(self._callbacks.on_lost, error)
            return False
        except ArbiterError as error:
            self._last_error = error
        except Exception as error:
            _LOG.exception("lease renewal failed unexpectedly")
            self._last_error = ArbiterError(f"lease renewal failed: {error!r}")
        self._note_lapse()
        return True

    def _ask(self) -> Lease:
        """Renew; after a lapse the same term is acquired again. LeaseLost only when somebody else has it."""
        if not self._lapsed:
            try:
                return self._arbiter.renew(self.lease)
            except LeaseLost as error:
                self._last_error = error
                self._note_lapse(at_once=True)
        return self._arbiter.acquire(self.lease.holder, term=self.lease.term)

    def _adopt(self, lease: Lease) -> None:
        if self._ended:
            return
        self.lease = lease
        if not self._is_live():
            self._note_lapse()
            return
        before_ns = self._deadline.deadline_ns
        self._deadline.deadline_ns = lease.deadline_boottime_ns
        if self._ended:
            self._deadline.deadline_ns = 0
            return
        if not self._lapsed and self._clock.boottime_ns() >= before_ns:
            self._tell_lapse()
        if self._lapsed:
            self._lapsed = False
            self._call(self._callbacks.on_regained, lease)

    def _is_live(self) -> bool:
        return self._clock.boottime_ns() < self.lease.deadline_boottime_ns

    def _note_lapse(self, *, at_once: bool = False) -> None:
        if self._lapsed or (self._is_live() and not at_once):
            return
        self._deadline.deadline_ns = 0
        self._tell_lapse()

    def _tell_lapse(self) -> None:
        """Also of a lapse that is over already: whoever found itself mute hears of the end of it."""
        self._lapsed = True
        error, self._last_error = self._last_error, None
        self._call(self._callbacks.on_lapsed, error or ArbiterError("the lease ran out before its renewal"))

    def _makes_progress(self) -> bool:
        try:
            return self._callbacks.progress()
        except Exception:
            _LOG.exception("progress callback failed; taken as no progress")
            return False

    def _call(self, callback: Callable[[_T], None], argument: _T) -> None:
        """A callback that fails may not end the renewals. Who has ended them wants no news of the last one."""
        if self._ended:
            return
        try:
            callback(argument)
        except Exception:
            _LOG.exception("lease callback failed")


class LeaseKeeper:
    """A `Keeper` with a thread, which ends with `stop` or when the lease is lost."""

    def __init__(
        self,
        arbiter: Arbiter,
        lease: Lease,
        deadline: LeaseDeadline,
        callbacks: LeaseCallbacks | None = None,
    ) -> None:
        self._arbiter = arbiter
        self._deadline = deadline
        self._renewal = LeaseRenewal(arbiter, lease, deadline, callbacks)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"lease-{lease.term}", daemon=True)

    @property
    def lease(self) -> Lease:
        return self._renewal.lease

    def start(self) -> None:
        self._renewal.begin()
        self._thread.start()

    def stop(self, *, timeout_s: float = 5.0) -> bool:
        """End the thread, or return False when it does not end in time."""
        self._stopping.set()
        self._renewal.end()
        if self._thread is threading.current_thread():
            return True
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        urgency.hurry()
        try:
            while not self._stopping.wait(self._renewal.wait_s()):
                if not self._renewal.tick():
                    return
        finally:
            self._deadline.deadline_ns = 0
            self._arbiter.close()
