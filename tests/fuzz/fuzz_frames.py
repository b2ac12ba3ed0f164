"""Messages between the relays of a COLO pair: what is taken is written again and means the same."""

from __future__ import annotations

from typing import Final

import harness
from harness import expect
from mutations import mutate_message

from replicator.errors import RemoteWireError
from replicator.wire import frames

SESSION: Final = bytes(range(16))
MESSAGES: Final[tuple[frames.FrameMessage, ...]] = (
    frames.OpenFrames(),
    frames.FramesOpen(),
    frames.InputBatch(7, ((0, bytes(60)), (1, bytes(1514)))),
    frames.ShiftTold(5, 2, b"\0\0\4\6" + bytes(12), 1 << 31, 77),
    frames.LastingShifts(True, ((b"\0\0\4\6" + bytes(12), 1, 2),)),
    frames.OutputBatch(5, 8, ((0, bytes(60)),)),
    frames.InputsLogged(9),
    frames.ShiftsKnown(2),
)


def check(data: bytes) -> None:
    try:
        envelope = frames.decode(data)
    except RemoteWireError as error:
        expect(str(error).isprintable(), f"not printable: {error!r}")
        return
    written = frames.encode(envelope)
    expect(frames.decode(memoryview(written)) == envelope, f"{envelope} does not come back")
    for is_primary in (True, False):
        numbers = frames.FrameNumbers(envelope.session, is_primary=is_primary)
        try:
            taken = numbers.take(data)
        except RemoteWireError:
            continue
        expect(taken == envelope.message and envelope.number == 1, f"{envelope} is taken for a first message")


if __name__ == "__main__":
    harness.run(check, mutate_message)
