"""How long a guest stands still when it moves: what its epochs have shown, and what earlier moves have.

The stretch of a move is that of a last epoch, from the order to pause to its ack, and the take-over after it: the
arbiter's record, the word to the secondary, the load of the device state there. Epochs show the first part: time over
pages is taken as a line, and the fixed part is the worst distance from it, because a promise is made of it. This file
sees events and effects go by and decides nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.precopy import Rates
from replicator.units import NS_PER_MS, NS_PER_S, PAGE_SIZE

#: Epochs that count.
WINDOW = 12
#: Of a take-over, until one was measured: a record at the arbiter, a message, a load, a start.
TAKE_OVER_NS_DEFAULT = 60 * NS_PER_MS
#: A measured take-over may be so much quicker than the next one.
CAUTION = 1.25
#: A page costs so much until epochs of different sizes have shown it, and never less than that at the fastest.
PAGE_NS_DEFAULT, PAGE_NS_MIN = 8_000, 200


class Stretch:
    """`take_over_ns` is what earlier moves took after their last ack, 0 when there was none."""

    def __init__(self, take_over_ns: int = 0) -> None:
        self.take_over_ns = round(take_over_ns * CAUTION) or TAKE_OVER_NS_DEFAULT
        #: When the newest pause was ordered.
        self.pausing_ns = 0
        #: When the newest ack came.
        self.acked_ns = 0
        self._pages = 0
        self._still_ns = 0
        self._sent: dict[int, tuple[int, int, int]] = {}
        self._seen: deque[tuple[int, int]] = deque(maxlen=WINDOW)

    def watch(self, event: ev.Event, effects: Sequence[fx.Effect], now_ns: int) -> None:
        """An event that was handled, and what followed from it."""
        if isinstance(event, ev.GuestPaused):
            self._pages = event.dirty_pages
        elif isinstance(event, ev.DeviceStateSaved):
            self._still_ns = now_ns - self.pausing_ns
        elif isinstance(event, ev.EpochAcked):
            self._note_ack(event.epoch, now_ns)
        for effect in effects:
            if isinstance(effect, fx.PauseGuest):
                self.pausing_ns = now_ns
            elif isinstance(effect, fx.SendEpoch):
                self._sent[effect.epoch] = (self._pages, self._still_ns, now_ns)

    def _note_ack(self, epoch: int, now_ns: int) -> None:
        self.acked_ns = now_ns
        for number in [number for number in self._sent if number <= epoch]:
            pages, still_ns, sent_ns = self._sent.pop(number)
            self._seen.append((pages, still_ns + now_ns - sent_ns))

    def forget(self) -> None:
        """Another connection: what was on its way says nothing."""
        self._sent.clear()

    @property
    def rates(self) -> Rates:
        """Of the whole stretch of a move."""
        page_ns = self._page_ns()
        fixed_ns = max((took_ns - pages * page_ns for pages, took_ns in self._seen), default=0.0)
        return Rates(PAGE_SIZE / page_ns * NS_PER_S, max(0, round(fixed_ns)) + self.take_over_ns, PAGE_SIZE)

    def _page_ns(self) -> float:
        """Slope of the line through what was seen."""
        count = len(self._seen)
        if not count:
            return PAGE_NS_DEFAULT
        mean_pages = sum(pages for pages, _ in self._seen) / count
        mean_ns = sum(took_ns for _, took_ns in self._seen) / count
        spread = sum((pages - mean_pages) ** 2 for pages, _ in self._seen)
        if not spread:
            return PAGE_NS_DEFAULT
        slope = sum((pages - mean_pages) * (took_ns - mean_ns) for pages, took_ns in self._seen) / spread
        return max(PAGE_NS_MIN, slope)
