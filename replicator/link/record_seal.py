"""Sealing of what the relays of a COLO pair say to each other, with AES-256-GCM. No I/O, no clock, no chance.

Keys. Both relays know a secret of 16 bytes that was drawn for their channel alone and travelled over the control
channel, which CURVE keeps secret and which proves who speaks. Each connection begins with a salt of either side, and
its two keys, one a direction, are derived from the secret and both salts: so nothing was ever sealed under them, even
if the secret serves a second connection, and what was recorded of another connection does not open.

Messages. A nonce is the message's number in its direction, which grows by one: no nonce is used twice under a key, and
what was changed, left out, repeated or changed places does not open."""

from __future__ import annotations

from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from replicator.errors import InvariantError, RemoteWireError, require
from replicator.link.sealing import hkdf_sha256

SALT_BYTES: Final = 32
#: By so much a sealed message is larger.
SEAL_BYTES: Final = 16
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"replicator frames, version 1"


class RecordSeal:
    """Of one connection. `salt` was drawn for this side of it."""

    def __init__(self, secret: bytes, salt: bytes, *, is_dialler: bool) -> None:
        require(len(salt) == SALT_BYTES, f"a salt of {len(salt)} bytes")
        self.salt = salt
        self._secret = secret
        self._is_dialler = is_dialler
        self._sealing: AESGCM | None = None
        self._opening: AESGCM | None = None
        self._sealed = 0
        self._opened = 0

    @property
    def is_agreed(self) -> bool:
        return self._sealing is not None

    def agree(self, salt: bytes) -> None:
        """With the other side's salt. RemoteWireError when it is none."""
        if len(salt) != SALT_BYTES or salt == self.salt:
            raise RemoteWireError("a sealed connection does not begin with a salt of the other side")
        salts = self.salt + salt if self._is_dialler else salt + self.salt
        drawn = hkdf_sha256(self._secret, info=_PURPOSE, size=2 * _KEY_BYTES, salt=salts)
        keys = AESGCM(drawn[:_KEY_BYTES]), AESGCM(drawn[_KEY_BYTES:])
        self._sealing, self._opening = keys if self._is_dialler else keys[::-1]

    def seal(self, message: bytes) -> bytes:
        """The next message as it travels. It must be sent, or the connection be given up."""
        if self._sealing is None:
            raise InvariantError("nothing is sealed before both salts are known")
        number, self._sealed = self._sealed, self._sealed + 1
        return self._sealing.encrypt(number.to_bytes(_NONCE_BYTES, "big"), message, None)

    def open(self, record: bytes) -> bytes:
        """The next message of the other side. RemoteWireError when it is not that."""
        if self._opening is None:
            raise InvariantError("nothing is opened before both salts are known")
        try:
            message = self._opening.decrypt(self._opened.to_bytes(_NONCE_BYTES, "big"), record, None)
        except InvalidTag:
            raise RemoteWireError(
                f"sealed message {self._opened} of the other relay was changed on its way"
            ) from None
        self._opened += 1
        return message
