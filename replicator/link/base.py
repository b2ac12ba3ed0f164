"""What the service may ask of any link, whatever carries the messages.

A daemon has one link object. It listens always (a secondary's part) and is connected to a peer when told so (a
primary's part); both at once are possible because the role is state. Rules every adapter keeps:

1. Bulk messages of one connection arrive in the order of `send_bulk`, control messages in the order of `send`; the
   two channels have no order among each other.
2. Nothing waits for an absent peer: sending without a connection is a TransportError, and what was under way when
   the connection fell is gone. After a LinkUp the primary says hello with a new session id; whatever still arrives
   with an older one is dropped by the receiver.
3. Bounded: a sender waits (and may be cancelled) while the peer does not take its messages; a receiver reads
   nothing from the network that `received` was not asked for, beyond the high-water marks.
4. A connection that fell is made again by itself until `disconnect`.
5. A link with keys (`sealed`) carries bulk messages only under keys that a greeting agreed on (sealing.py): it sends
   none before `seal_bulk`, and takes none that `open_bulk` was not called for. Keys end with their connection.

The link checks form (size, fields, channel, direction) and decides nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator
from typing import Protocol

from replicator.errors import ConfigError, LocalWireError, RemoteWireError, WireError
from replicator.frozen import frozen
from replicator.link.keys import Keys
from replicator.link.sealing import BulkKeys
from replicator.wire.session import (
    Abort,
    Ack,
    Channel,
    CheckpointWord,
    HandOverReply,
    HelloReply,
    KeyShare,
    Message,
    channel_of,
    check_payload,
    decode,
    encode,
    kind_of,
    payload_bytes,
)

#: `Received.peer_id` of what comes from the peer that we connected to.
CONNECTED_PEER = b""
_REPLIES = frozenset({KeyShare, HelloReply, Ack, Abort, CheckpointWord, HandOverReply})


@frozen
class PeerAddress:
    """Where a daemon listens."""

    host: str
    bulk_port: int
    control_port: int
    heartbeat_port: int = 0
    #: The daemon's CURVE public key (40 characters of Z85); "" for plaintext.
    public_key: str = ""


@frozen
class LinkConfig:
    """Where and how this daemon listens. ConfigError when it would speak plaintext beyond this host."""

    node: str
    bind_host: str
    #: 0 lets the kernel choose; `ZmqLink.address` names what it chose.
    bulk_port: int = 0
    control_port: int = 0
    heartbeat_port: int = 0
    keys: Keys | None = None
    allow_plaintext: bool = False

    @property
    def sealed(self) -> bool:
        """Whether bulk messages are sealed. Control and heartbeats then have CURVE."""
        return self.keys is not None

    def __post_init__(self) -> None:
        self.check_secrecy(self.bind_host)

    def check_secrecy(self, host: str) -> None:
        """Raise ConfigError when traffic with `host` would be readable for others and nobody agreed to that."""
        if self.keys is None and not self.allow_plaintext and not is_loopback(host):
            raise ConfigError(
                f"the link of {self.node} with {host} would carry the guest's memory unencrypted",
                hint="make keys with `replicator keygen` and name them in the configuration on both hosts, "
                "or set allow_plaintext on a network that nobody else can reach",
            )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine by form; names other than localhost are not looked up."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@frozen
class Received:
    """A well-formed message. `payload` is read-only and stays valid as long as it is referenced."""

    channel: Channel
    #: CONNECTED_PEER, or for control messages from a connecting peer its address for `reply`; b"" on bulk.
    peer_id: bytes
    message: Message
    payload: memoryview | None = None


@frozen
class LinkUp:
    """Our connection to the peer stands on all channels; the next thing to send is hello."""


@frozen
class LinkDown:
    """Our connection to the peer fell; it is being made again."""

    reason: str


@frozen
class LinkRefused:
    """The peer did not let us in, or is not who we take it for. Tried again, reported once while it stays so."""

    reason: str
    hint: str = ""


@frozen
class PeerRefused:
    """We did not let somebody in who connected to us. Equal ones in a row are reported once."""

    channel: Channel
    reason: str
    hint: str = ""


@frozen
class PeerLeft:
    """A connection that somebody made to our control port ended. A hint only: silence is judged by heartbeats."""


@frozen
class BadMessage:
    """Something arrived that is no message for this channel. It was dropped."""

    channel: Channel
    peer_id: bytes
    error: WireError
    #: Sealed messages of the present connection were changed or lost: nothing more of it is taken, and what it carried
    #: must be sent anew, over another connection.
    breaks_bulk: bool = False


LinkEvent = Received | LinkUp | LinkDown | LinkRefused | PeerRefused | PeerLeft | BadMessage


class Link(Protocol):
    """One daemon's link. All methods belong to one event loop."""

    @property
    def address(self) -> PeerAddress:
        """Where this link listens; valid after `start`."""
        ...

    @property
    def sealed(self) -> bool:
        """Whether bulk messages need keys, both ways."""
        ...

    async def start(self) -> None:
        """Listen. TransportError when a port cannot be bound."""
        ...

    async def close(self) -> None:
        """End everything at once; `received` ends, waiting senders get TransportError. May be repeated."""
        ...

    async def connect(self, peer: PeerAddress) -> None:
        """Begin to connect to `peer` as a primary; LinkUp follows. Replaces an older connection."""
        ...

    async def disconnect(self) -> None:
        """Drop the connection to the peer; no LinkDown follows."""
        ...

    async def send(self, message: Message, payload: memoryview | bytes | None = None) -> None:
        """Send a control message to the connected peer. TransportError when there is none or it falls."""
        ...

    async def reply(
        self,
        peer_id: bytes,
        message: Message,
        payload: memoryview | bytes | None = None,
        *,
        patience_s: float = 0,
    ) -> None:
        """Send a control message to who sent us one. TransportError when it is gone, or there is no room for another
        message to it within `patience_s`: it does not read."""
        ...

    def seal_bulk(self, keys: BulkKeys) -> None:
        """Seal what follows on the present connection. TransportError when there is none; for `sealed` links only."""
        ...

    def open_bulk(self, keys: BulkKeys) -> None:
        """Take what is sealed with these keys, and nothing older; to be called before the peer learns of them."""
        ...

    async def send_bulk(self, header: Message, payload: memoryview | bytes | None = None) -> None:
        """Send a bulk message to the connected peer.

        The payload is not copied: it must keep its content until its epoch is acknowledged or given up.
        TransportError when there is no connection or it falls, or `seal_bulk` is due. Cancelled while waiting, nothing was sent.
        """
        ...

    def received(self) -> AsyncIterator[LinkEvent]:
        """Messages and events as they come, to one consumer; control goes before bulk. Ends with `close`."""
        ...


def pack(
    message: Message, payload: memoryview | bytes | None, channel: Channel, *, reply: bool
) -> list[bytes | memoryview]:
    """The frames of a message, checked against its channel, direction and payload: LocalWireError."""
    if channel_of(message) is not channel:
        raise LocalWireError(f"does not belong on the {channel.value} channel", record=kind_of(message))
    if (type(message) in _REPLIES) is not reply:
        raise LocalWireError("sent in the wrong direction", record=kind_of(message))
    if payload_bytes(message) != (None if payload is None else memoryview(payload).nbytes):
        raise LocalWireError("the payload is not as long as the message says", record=kind_of(message))
    return [encode(message)] if payload is None else [encode(message), payload]


def unpack(
    channel: Channel, peer_id: bytes, frames: list[memoryview], *, reply: bool
) -> Received | BadMessage:
    """The message in the frames of one arrival. Anything that is not one becomes BadMessage."""
    try:
        if not 1 <= len(frames) <= 2:
            raise RemoteWireError(f"message of {len(frames)} frames; there are one or two")
        message = decode(frames[0], channel)
        if channel is not Channel.HEARTBEAT and (type(message) in _REPLIES) is not reply:
            raise RemoteWireError("came from the wrong direction", record=kind_of(message))
        payload = frames[1] if len(frames) == 2 else None
        check_payload(message, None if payload is None else len(payload))
    except RemoteWireError as error:
        return BadMessage(channel, peer_id, error)
    return Received(channel, peer_id, message, payload)
