"""The relay of a live daemon, telling on stdout which numbered requests (`request-N`) the guest is given again.

What was told is told before the guest gets it. The relay does what it always does; only it knows which frames were in
doubt at a pause, and from outside nobody can tell those from frames repeated by mistake.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from replicator.engine.output import Frame
from replicator.output import core, relay
from replicator.output.core import RelayCore
from replicator.output.inputs import NicInputs

#: In doubt at a pause, and therefore given once more.
DOUBTED = "doubted"
#: Given to the survivor, because it came after the checkpoint.
REPLAYED = "replayed"
_REQUEST: Final = re.compile(rb"request-\d+$")


class TellingInputs(NicInputs):
    def resume(self) -> None:
        tell(DOUBTED, (frame.data for frame in self._doubtful))
        super().resume()


class TellingCore(RelayCore):
    def replay(self, frames: Sequence[Frame]) -> None:
        tell(REPLAYED, (frame.data for frame in frames))
        super().replay(frames)


def tell(word: str, frames: Iterable[bytes]) -> None:
    for data in frames:
        if (match := _REQUEST.search(data)) is not None:
            print(f"relay: {word} {match[0].decode()}", flush=True)


def find_told(word: str, said: str) -> Counter[str]:
    """Request -> how often the word was told of it, in what a daemon said."""
    return Counter(re.findall(rf"^relay: {word} (request-\d+)$", said, re.MULTILINE))


def install() -> None:
    """Relays that this process makes from now on tell."""
    core.NicInputs = TellingInputs  # type: ignore[misc]
    relay.RelayCore = TellingCore  # type: ignore[misc]
