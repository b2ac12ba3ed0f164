"""Our own messages: what is taken is written again and means the same; its payload is as it says."""

from __future__ import annotations

import harness
from harness import expect
from mutations import mutate_message

from replicator.errors import RemoteWireError
from replicator.wire import session


def check(data: bytes) -> None:
    message = _decode(data, None)
    for channel in session.Channel:
        found = _decode(data, channel)
        belongs = message is not None and session.channel_of(message) is channel
        expect(found == (message if belongs else None), f"on {channel}: {found}")
    if message is None:
        return
    written = session.encode(message)
    expect(session.decode(memoryview(written)) == message, f"{message} does not come back")
    _check_payload(message)


def _decode(data: bytes, channel: session.Channel | None) -> session.Message | None:
    try:
        return session.decode(data, channel)
    except RemoteWireError as error:
        expect(str(error).isprintable(), f"not printable: {error!r}")
        return None


def _check_payload(message: session.Message) -> None:
    size = session.payload_bytes(message)
    session.check_payload(message, size)
    try:
        session.check_payload(message, 0 if size is None else size + 1)
    except RemoteWireError:
        pass
    else:
        raise harness.Broken(f"{message} takes any payload")
    if isinstance(message, session.InputFrames):
        frames = session.split_frames(message, memoryview(bytes(size or 0)))
        expect([len(each) for each in frames] == list(message.lengths), "frames of other lengths")


if __name__ == "__main__":
    harness.run(check, mutate_message)
