"""Units that cross module borders. Times are integers in nanoseconds, sizes are bytes unless named otherwise."""

from typing import NewType

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT

#: Guest's own frame number (guest physical address >> PAGE_SHIFT), never an offset in the RAM file.
Pfn = NewType("Pfn", int)
#: Number of a checkpointed span of guest execution; 1 is the initial synchronisation.
Epoch = NewType("Epoch", int)
#: Grows at each change of the active side.
Term = NewType("Term", int)
Nanoseconds = NewType("Nanoseconds", int)

NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000
