"""What every way of doing harm is: `strike` makes a fault while a daemon stands in the cell's phase, `mend` undoes it.

What a fault must lead to in between is its nature's (matrix/faults.py) and awaited by run/outcomes.py.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

from replicator.drill.stand.stand import Stand


class Injury(ABC):
    """One fault on one stand, once. `primary` and `other` are the sides when the fault is made."""

    def __init__(self, stand: Stand, rng: random.Random) -> None:
        self.stand, self.rng = stand, rng
        self.primary, self.other = stand.primary, stand.other

    @abstractmethod
    def strike(self) -> None:
        """Make the fault."""

    def mend(self) -> None:  # noqa: B027
        """Nothing, where only daemons died: the stand starts them again."""
