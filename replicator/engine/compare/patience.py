"""For how long one side may say what the other has not, before that counts as a difference.

A busy host makes one side late without any difference. The bound is several times the longest wait that ended well of
late, and never less than half a second.
"""

from __future__ import annotations

from typing import Final

from replicator.errors import require
from replicator.units import NS_PER_MS

PATIENCE_MIN_NS: Final = 500 * NS_PER_MS
PATIENCE_MAX_NS: Final = 5000 * NS_PER_MS
_TIMES: Final = 4
#: A wait that is not repeated is forgotten by this part with each shorter one.
_FORGET_SHIFT: Final = 6


class Patience:
    def __init__(self, *, min_ns: int = PATIENCE_MIN_NS, max_ns: int = PATIENCE_MAX_NS) -> None:
        require(0 < min_ns <= max_ns, f"patience of {min_ns} to {max_ns} ns")
        self._min_ns = min_ns
        self._max_ns = max_ns
        self._longest_ns = 0

    @property
    def bound_ns(self) -> int:
        return min(max(self._min_ns, _TIMES * self._longest_ns), self._max_ns)

    @property
    def limits_ns(self) -> tuple[int, int]:
        """The least and the most that the bound can be."""
        return self._min_ns, self._max_ns

    @property
    def longest_ns(self) -> int:
        """The longest wait of late."""
        return self._longest_ns

    def go_on_from(self, longest_ns: int) -> None:
        """Others have observed."""
        self._longest_ns = longest_ns

    def observe(self, wait_ns: int) -> None:
        """A frame waited for so long, and then the other side said the same."""
        faded_ns = self._longest_ns - (self._longest_ns >> _FORGET_SHIFT)
        self._longest_ns = max(wait_ns, faded_ns)
