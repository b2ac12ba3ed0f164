"""Sealed bulk messages: of all frames that may come, only the very next message opens; what is foreign changes nothing."""

from __future__ import annotations

import harness
from harness import expect

from replicator.errors import RemoteWireError
from replicator.link.sealing import BulkKeys, ForeignMessage, Opener, Sealer, StreamBroken

KEYS = BulkKeys(bytes(range(32)), b"fuzzfuzz")
#: Header and payload of the messages that are sealed; the seeds are what becomes of them.
MESSAGES = ((b"a header alone", None), (b"a header", b"and its payload"), (b"an empty payload's", b""))
_LENGTH_BYTES = 2


def seal(header: bytes, payload: bytes | None) -> list[bytes]:
    sealer = Sealer(KEYS, lambda size: memoryview(bytearray(size)))
    return [bytes(frame) for frame in sealer.seal(header, payload)]


def join(frames: list[bytes]) -> bytes:
    """What `cut` makes these frames of."""
    return b"".join(len(frame).to_bytes(_LENGTH_BYTES, "big") + frame for frame in frames)


def cut(data: bytes) -> list[bytes]:
    frames = []
    while len(data) >= _LENGTH_BYTES:
        end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "big")
        frames.append(data[_LENGTH_BYTES:end])
        data = data[end:]
    return frames


def check(data: bytes) -> None:
    frames, genuine = cut(data), {tuple(seal(*message)): message for message in MESSAGES}
    opener = Opener()
    opener.renew(KEYS)
    try:
        found = opener.open(frames)
    except RemoteWireError as error:
        expect(tuple(frames) not in genuine, f"refused: {error}")
        expect(str(error).isprintable(), f"not printable: {error!r}")
        _check_harm(opener, error, frames)
    else:
        header, payload = genuine.get(tuple(frames), (None, None))
        opened = [None if one is None else bytes(one) for one in (*found, None)][:2]
        expect(opened == [header, payload], f"opened as {opened}")


def _check_harm(opener: Opener, error: RemoteWireError, frames: list[bytes]) -> None:
    """Only who knows the key's id can end the key."""
    knows = bool(frames) and frames[0].startswith(KEYS.key_id)
    expect(isinstance(error, StreamBroken if knows else ForeignMessage), repr(error))
    if isinstance(error, ForeignMessage):
        expect(bytes(opener.open(seal(*MESSAGES[0]))[0]) == MESSAGES[0][0], "the next message does not open")


if __name__ == "__main__":
    harness.run(check)
