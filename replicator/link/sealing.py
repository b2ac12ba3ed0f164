"""Sealing of bulk messages with AES-256-GCM, under keys that one greeting has agreed on. No I/O, no clock, no chance.

Keys. The primary's hello and the secondary's answer each bring 32 bytes that were drawn for them alone and travel over
the control channel, which CURVE keeps secret. Both sides derive the same key from the two, bound to the guest, the
term and the session. So a key serves one connection at most, and starts with nothing sealed under it.

Messages. The first frame is the key's id, the message's number and the sealed header; the second, if there is one, the
sealed payload, which is bound to the first. A nonce is the frame's lane and the message's number, which grows by one a
message: no nonce is used twice under a key, and whatever was changed, left out, repeated or put elsewhere does not
open. The header is sealed like the payload and not only authenticated: an epoch's digest would tell a listener what he
guesses right about the guest's memory.

Opening. Under the present key nothing opens but the next message. Anything else under it ends the key: the rest of that
connection is refused, and its epochs must be sent anew. Who does not know the key's id, which is drawn with the key,
cannot even cause that: what he sends is refused, and changes nothing. What carries an older key was on the way when a
connection broke.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from replicator.errors import RemoteWireError, TransportError
from replicator.wire.session import Hello

KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
NUMBER_BYTES: Final = 8
TAG_BYTES: Final = 16
#: What the first frame has beside the header; a payload's frame has a tag only.
OVERHEAD_BYTES: Final = KEY_ID_BYTES + NUMBER_BYTES + TAG_BYTES
#: Messages of 4 MiB under one key stay below 2^48 blocks, where an observer's advantage is at most 2^-33.
MESSAGES_MAX: Final = 1 << 30
#: Keys that are remembered to know what was under way when their connection broke.
OLD_KEYS_MAX: Final = 16

_PURPOSE: Final = "replicator bulk, version 2"
#: Lanes: a header without a payload, one with a payload, the payload.
_ALONE, _FIRST, _SECOND = (lane.to_bytes(4, "big") for lane in range(3))

Buffer = bytes | memoryview


class ForeignMessage(RemoteWireError):
    """Not under any key that was agreed on with us. Says nothing about the peer."""


class StaleMessage(RemoteWireError):
    """Under a key that is over. Expected after a connection broke."""


class StreamBroken(RemoteWireError):
    """Under the present key, but not the message that was due. The key is over with that."""


class KeyExhausted(TransportError):
    """As many messages as may be were sealed under this key."""


@dataclass(frozen=True, slots=True)
class BulkKeys:
    """Of one connection. The id travels with each message; it tells nothing about the key."""

    key: bytes = field(repr=False)
    key_id: bytes


def derive_keys(hello: Hello, share: bytes) -> BulkKeys:
    """What both sides seal with once the secondary has answered this hello with its share."""
    context = [_PURPOSE, hello.guest.name, hello.guest.uuid, hello.term, hello.session]
    drawn = hkdf_sha256(hello.share + share, info=msgpack.packb(context), size=KEY_BYTES + KEY_ID_BYTES)
    return BulkKeys(drawn[:KEY_BYTES], drawn[KEY_BYTES:])


def hkdf_sha256(secret: bytes, *, info: bytes, size: int, salt: bytes | None = None) -> bytes:
    """RFC 5869, both steps."""
    return HKDF(SHA256(), size, salt, info).derive(secret)


class Sealer:
    """Seals the bulk messages of one connection, in their order. `take_buffer(size)` gives the memory for a payload."""

    def __init__(
        self,
        keys: BulkKeys,
        take_buffer: Callable[[int], memoryview],
        *,
        messages_max: int = MESSAGES_MAX,
    ) -> None:
        self._aes = AESGCM(keys.key)
        self._key_id = keys.key_id
        self._take_buffer = take_buffer
        self._messages_max = messages_max
        #: Of the next message. Only grows, whatever becomes of the message.
        self._number = 0

    def seal(self, header: Buffer, payload: Buffer | None = None) -> list[Buffer]:
        """The frames that travel. They must be sent next, or never and nothing after them. KeyExhausted at the limit."""
        if self._number >= self._messages_max:
            raise KeyExhausted("the link's key has sealed as much as one key may; another connection is made")
        number = self._number.to_bytes(NUMBER_BYTES, "big")
        self._number += 1
        start = self._key_id + number
        lane = _ALONE if payload is None else _FIRST
        first = start + self._aes.encrypt(lane + number, header, start)
        if payload is None:
            return [first]
        second = self._take_buffer(memoryview(payload).nbytes + TAG_BYTES)
        self._aes.encrypt_into(_SECOND + number, payload, first, second)
        return [first, second]


class Opener:
    """Opens what the newest agreement's peer has sealed."""

    def __init__(self) -> None:
        self._key_id = b""
        self._aes: AESGCM | None = None
        self._due = 0
        self._over: deque[bytes] = deque(maxlen=OLD_KEYS_MAX)

    def renew(self, keys: BulkKeys) -> None:
        """From now on only what is sealed with these keys opens."""
        self._end_key()
        self._key_id, self._aes, self._due = keys.key_id, AESGCM(keys.key), 0

    def open(self, frames: Sequence[Buffer]) -> list[memoryview]:
        """Header and payload, if there is one. ForeignMessage, StaleMessage or StreamBroken: nothing is known of it.

        A payload whose frame may be written is opened where it lies.
        """
        aes = self._find_key(frames)
        if len(frames) > 2 or len(frames[0]) < OVERHEAD_BYTES:
            raise self._break("has not the form of one")
        start = frames[0][: KEY_ID_BYTES + NUMBER_BYTES]
        number = start[KEY_ID_BYTES:]
        if number != self._due.to_bytes(NUMBER_BYTES, "big"):
            raise self._break(f"came as number {int.from_bytes(number, 'big')} when {self._due} was due")
        try:
            opened = _decrypt(aes, bytes(number), frames, start)
        except InvalidTag:
            raise self._break(f"number {self._due} was changed on its way") from None
        self._due += 1
        return opened

    def _find_key(self, frames: Sequence[Buffer]) -> AESGCM:
        """The present key, if the message names it."""
        key_id = bytes(frames[0][:KEY_ID_BYTES]) if frames else b""
        if len(key_id) < KEY_ID_BYTES:
            raise ForeignMessage("is not sealed", hint="something else may use this port")
        if key_id in self._over:
            raise StaleMessage("is sealed under a key that is over")
        if self._aes is None or key_id != self._key_id:
            raise ForeignMessage(
                "is not sealed under a key that was agreed on with this side",
                hint="something else may use this port",
            )
        return self._aes

    def _break(self, what: str) -> StreamBroken:
        self._end_key()
        return StreamBroken(
            f"a sealed message {what}",
            hint="the epochs under way are sent again; if this goes on, somebody tampers with the link",
        )

    def _end_key(self) -> None:
        if self._aes is not None:
            self._over.append(self._key_id)
        self._aes = None


def _decrypt(aes: AESGCM, number: bytes, frames: Sequence[Buffer], start: Buffer) -> list[memoryview]:
    lane = _ALONE if len(frames) == 1 else _FIRST
    header = memoryview(aes.decrypt(lane + number, frames[0][len(start) :], start))
    if len(frames) == 1:
        return [header]
    second = memoryview(frames[1])
    if second.nbytes < TAG_BYTES:
        raise InvalidTag
    payload = memoryview(bytearray(second.nbytes - TAG_BYTES)) if second.readonly else second[:-TAG_BYTES]
    aes.decrypt_into(_SECOND + number, second, frames[0], payload)
    return [header, payload.toreadonly()]
