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
from replicator.output.native_relay import NativeRelay

#: In doubt at a pause, and therefore given once more.
DOUBTED = "doubted"
#: Given to the survivor, because it came after the checkpoint.
REPLAYED = "replayed"
_REQUEST: Final = re.compile(rb"request-\d+$")


class TellingRelay(NativeRelay):
    def resume_input(self) -> None:
        tell(DOUBTED, self.doubtful())
        super().resume_input()

    def replay(self, frames: Sequence[Frame]) -> None:
        tell(REPLAYED, frames)
        super().replay(frames)


def tell(word: str, frames: Iterable[Frame]) -> None:
    for frame in frames:
        if (match := _REQUEST.search(frame.data)) is not None:
            print(f"relay: {word} {match[0].decode()}", flush=True)


def find_told(word: str, said: str) -> Counter[str]:
    """Request -> how often the word was told of it, in what a daemon said."""
    return Counter(re.findall(rf"^relay: {word} (request-\d+)$", said, re.MULTILINE))
