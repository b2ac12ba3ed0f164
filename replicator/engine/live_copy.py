"""The passes of one epoch that is copied while its guest runs: the policy that counts, and how large its pause may be.

It puts together what was measured (measures.py) and when a guest may be paused (precopy.py). A guest that is protected
already stays it: its large epochs are completed, whatever the policy of a synchronisation is.
"""

from __future__ import annotations

from dataclasses import replace

from replicator.engine import events as ev
from replicator.engine.measures import Measures
from replicator.engine.precopy import Decision, DowntimePolicy, OnBusy, Precopy, PrecopyReport


class LiveCopy:
    """`policy` is that of a synchronisation. `measures` is told of each pass."""

    def __init__(
        self, policy: DowntimePolicy, measures: Measures, *, staging_pages: int, is_syncing: bool, now_ns: int
    ) -> None:
        if not is_syncing:
            policy = replace(policy, on_busy=OnBusy.COMPLETE, min_iterations=1)
        self._precopy = Precopy(policy, now_ns)
        self._measures = measures
        self._staging_pages = staging_pages

    def passed(self, event: ev.LiveCopied, now_ns: int) -> Decision:
        """What follows a pass."""
        self._measures.passed(event.pages, event.elapsed_ns)
        rates = self._measures.rates(event.remaining, self._staging_pages)
        return self._precopy.round_done(event.pages, event.remaining, event.elapsed_ns, rates, now_ns)

    def overran(self, event: ev.PauseOverrun) -> Decision:
        """What follows a pause that found more than `pages_max`. The guest runs on, unless it is ABORT."""
        return self._precopy.check_paused(
            event.dirty_pages, self._measures.rates(event.dirty_pages, self._staging_pages)
        )

    @property
    def pages_max(self) -> int | None:
        """More dirty pages would make the pause longer than the policy allows; None when it is made in any case."""
        if self._precopy.completing:
            return None
        policy, staging = self._precopy.policy, self._staging_pages
        fitting = self._measures.rates(0, staging).pages_within(policy.max_downtime_ns)
        if fitting > staging:
            beyond = self._measures.rates(staging + 1, staging).pages_within(policy.max_downtime_ns)
            fitting = max(staging, beyond)
        return max(fitting, policy.min_remaining_pages)

    def report(self) -> PrecopyReport:
        return self._precopy.report()
