"""Connections that failed for their keys, theirs with us or ours with them: for the log, and for the status while fresh."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from replicator.link.base import BadMessage, LinkRefused, PeerRefused
from replicator.units import NS_PER_S

_LOG = logging.getLogger(__name__)

#: A refused peer tries again each second or so: what is older than this is over.
FRESH_NS = 10 * NS_PER_S
#: Who is turned away again and again fills no logs.
LOG_EVERY_NS = 60 * NS_PER_S

Refusal = LinkRefused | PeerRefused | BadMessage


class Refusals:
    """`note` may be called from any thread."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock_ns = clock_ns
        #: Text and time as one value, so that readers never see halves of two.
        self._newest = ("", 0)
        self._logged = ("", 0)

    def note(self, refusal: Refusal) -> None:
        text, now_ns = describe(refusal), self._clock_ns()
        self._newest = (text, now_ns)
        logged, logged_ns = self._logged
        if text != logged or now_ns - logged_ns > LOG_EVERY_NS:
            self._logged = (text, now_ns)
            _LOG.warning("%s", text)

    def settle(self) -> None:
        """The peer was let in: what was refused before is over."""
        self._newest = ("", 0)

    def newest(self) -> str:
        """What was refused last, and what to do about it; "" when that is long ago."""
        text, noted_ns = self._newest
        return text if self._clock_ns() - noted_ns < FRESH_NS else ""


def describe(refusal: Refusal) -> str:
    """Reason and remedy in one line."""
    if isinstance(refusal, BadMessage):
        return f"a message on the {refusal.channel.value} channel was dropped: {refusal.error}"
    return f"{refusal.reason}; {refusal.hint}" if refusal.hint else refusal.reason
