"""Sockets of the link: every option in one place, the CURVE roles and the ZAP answer about who may come in.

With keys, control and heartbeats have CURVE. Bulk has none: its messages are sealed one by one (sealing.py), which is
faster. Its port lets an address in from which an allowed key has come to the control port, so that others cannot fill
memory with what would never open.

Bounds. A frame larger than MAXMSGSIZE ends its connection before it is read. Bulk keeps at most BULK_HWM messages
on either side, so a stalled receiver costs each side BULK_HWM * PART_BYTES_MAX. A dead peer is noticed by the
heartbeat thread; the values here only see to it that no socket stays half open for ever. TCP_MAXRT (the kernel's
TCP_USER_TIMEOUT) also ends a connection whose receiver took nothing for so long, so it must be longer than any
pause of a healthy secondary. There are no ZMTP pings: libzmq 4.3.5 aborts the process at the next ping of a connection
that ended while its receiver was at its bound (zeromq/libzmq issue 4841), and a daemon that is busy when its peer dies
is the one that is needed then.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Final

import zmq
from zmq.utils import z85

from replicator import urgency
from replicator.errors import ConfigError, TransportError
from replicator.limits import (
    FRAME_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    PART_BYTES_MAX,
)
from replicator.link.base import LinkConfig, PeerAddress
from replicator.link.buffers import keep_freed_memory
from replicator.link.keys import Keys
from replicator.wire.session import INPUT_BATCH_BYTES_MAX, Channel

Socket = zmq.Socket[bytes]
Context = zmq.Context[Socket]

BULK_HWM: Final = 4
CONTROL_HWM: Final = 64
HEARTBEAT_HWM: Final = 8
HANDSHAKE_MS: Final = 2_000
RECONNECT_MS: Final = 50
STALLED_MS: Final = 15_000
#: MAXMSGSIZE counts a frame as it travels; CURVE adds a nonce, a tag and a command name (33 bytes today), sealing 16 to
#: a payload.
SEALING_BYTES: Final = 64
#: Addresses that may come in for bulk.
KNOWN_ADDRESSES_MAX: Final = 16
#: SCHED_RR, as libzmq takes it.
_SCHED_RR: Final = int(os.SCHED_RR)
#: Half-open connections that may wait in a port's queue.
BACKLOG: Final = 16

_ZAP_ENDPOINT: Final = "inproc://zeromq.zap.01"
_ZAP_DOMAIN: Final = b"replicator"

_HWM: Final = {Channel.BULK: BULK_HWM, Channel.CONTROL: CONTROL_HWM, Channel.HEARTBEAT: HEARTBEAT_HWM}
_FRAME_BYTES_MAX: Final = {
    Channel.BULK: PART_BYTES_MAX,
    Channel.CONTROL: max(MESSAGE_BYTES_MAX, INPUT_BATCH_BYTES_MAX),
    Channel.HEARTBEAT: MESSAGE_BYTES_MAX,
}
if FRAME_BYTES_MAX > INPUT_BATCH_BYTES_MAX:
    raise AssertionError("one guest frame must fit one batch of inputs")


def make_context() -> Context:
    """Whose I/O thread is urgent in a daemon. libzmq aborts where it may not schedule, so it is only asked to where this
    process has done so already."""
    keep_freed_memory()
    context: Context = zmq.Context()
    if urgency.is_begun():
        context.set(zmq.THREAD_SCHED_POLICY, _SCHED_RR)
        context.set(zmq.THREAD_PRIORITY, urgency.IO_PRIORITY)
    return context


def listen(context: Context, config: LinkConfig, channel: Channel, port: int) -> Socket:
    """A bound socket for the channel: PULL for bulk, ROUTER else. TransportError when the port is not to be had."""
    socket = context.socket(zmq.PULL if channel is Channel.BULK else zmq.ROUTER)
    _set_bounds(socket, _HWM[channel], _FRAME_BYTES_MAX[channel], config.bind_host)
    socket.set(zmq.BACKLOG, BACKLOG)
    if channel is not Channel.BULK:
        # A reply to a peer that is gone must fail, not vanish.
        socket.set(zmq.ROUTER_MANDATORY, 1)
    if (keys := _curve_keys(config, channel)) is not None:
        socket.set(zmq.CURVE_SERVER, 1)
        _set_own_keys(socket, keys)
    if config.keys is not None:
        socket.set(zmq.ZAP_DOMAIN, _ZAP_DOMAIN)
    _bind(socket, config, channel.value, port)
    return socket


def dial(context: Context, config: LinkConfig, channel: Channel, peer: PeerAddress) -> Socket:
    """A socket for the channel that will connect once `socket.connect(endpoint_of(...))` is called."""
    check_keys(config, peer.host, peer.public_key)
    socket = context.socket(zmq.PUSH if channel is Channel.BULK else zmq.DEALER)
    _set_bounds(socket, _HWM[channel], _FRAME_BYTES_MAX[channel], peer.host)
    # Nothing is queued until the handshake is through, and nothing outlives the connection.
    socket.set(zmq.IMMEDIATE, 1)
    socket.set(zmq.RECONNECT_IVL, RECONNECT_MS)
    if (keys := _curve_keys(config, channel)) is not None:
        socket.set(zmq.CURVE_SERVERKEY, peer.public_key.encode())
        _set_own_keys(socket, keys)
    return socket


def endpoint_of(channel: Channel, peer: PeerAddress) -> str:
    """Where the peer listens for the channel."""
    ports = {
        Channel.BULK: peer.bulk_port,
        Channel.CONTROL: peer.control_port,
        Channel.HEARTBEAT: peer.heartbeat_port,
    }
    return _endpoint(peer.host, ports[channel])


def bound_port(socket: Socket) -> int:
    """The port that a socket of `listen` has."""
    return int(socket.get_string(zmq.LAST_ENDPOINT).rpartition(":")[2])


def _endpoint(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def _bind(socket: Socket, config: LinkConfig, what: str, port: int) -> None:
    endpoint = _endpoint(config.bind_host, port)
    try:
        socket.bind(endpoint.replace(":0", ":*") if port == 0 else endpoint)
    except zmq.ZMQError as error:
        socket.close()
        raise TransportError(
            f"cannot listen for {what} on {config.bind_host} port {port}: {error.strerror}",
            hint="another daemon may run here, or the address is not one of this host",
        ) from error


def check_keys(config: LinkConfig, host: str, public_key: str) -> None:
    """Raise ConfigError unless both sides have keys, or neither, and plaintext may travel to `host`."""
    config.check_secrecy(host)
    if (config.keys is None) != (public_key == ""):
        raise ConfigError(
            "keys are configured for one side of the link only",
            hint="name the peer's public key beside our own, or leave out both",
        )


def _set_bounds(socket: Socket, hwm: int, frame_bytes_max: int, host: str) -> None:
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.SNDHWM, hwm)
    socket.set(zmq.RCVHWM, hwm)
    socket.set(zmq.MAXMSGSIZE, frame_bytes_max + SEALING_BYTES)
    socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    socket.set(zmq.TCP_MAXRT, STALLED_MS)
    socket.set(zmq.TCP_KEEPALIVE, 1)
    socket.set(zmq.TCP_KEEPALIVE_IDLE, 5)
    socket.set(zmq.TCP_KEEPALIVE_INTVL, 2)
    socket.set(zmq.TCP_KEEPALIVE_CNT, 3)
    if ":" in host:
        socket.set(zmq.IPV6, 1)


def _curve_keys(config: LinkConfig, channel: Channel) -> Keys | None:
    """What the channel is encrypted with as a whole: nothing when its messages are sealed one by one."""
    return None if config.sealed and channel is Channel.BULK else config.keys


def _set_own_keys(socket: Socket, keys: Keys) -> None:
    socket.set(zmq.CURVE_PUBLICKEY, keys.public.encode())
    socket.set(zmq.CURVE_SECRETKEY, keys.secret.encode())


class Gatekeeper:
    """Answers libzmq's question (ZAP, RFC 27) who may come in: an allowed key, and then its address without a key too.
    One a context, made before `listen`."""

    def __init__(self, context: Context, keys: Keys, on_refused: Callable[[str, str], None]) -> None:
        """`on_refused(address, key)` hears of each peer that was turned away; the key is "" where none is asked for."""
        self._allowed = keys.allowed
        #: Newest addresses of allowed keys.
        self._known: deque[str] = deque(maxlen=KNOWN_ADDRESSES_MAX)
        self._on_refused = on_refused
        self.socket: Socket = context.socket(zmq.REP)
        self.socket.set(zmq.LINGER, 0)
        self.socket.bind(_ZAP_ENDPOINT)

    def answer(self) -> None:
        """Answer every question that waits."""
        while True:
            try:
                question = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.socket.send_multipart(self._judge(question))

    def _judge(self, question: list[bytes]) -> list[bytes]:
        version, request, _domain, from_where, _identity, mechanism, *credentials = question
        address = from_where.decode(errors="replace")
        if mechanism == b"CURVE":
            is_allowed = self._judge_key(address, z85.encode(credentials[0]).decode())
        else:
            is_allowed = self._judge_address(address)
        status, text = (b"200", b"OK") if is_allowed else (b"400", b"not allowed")
        return [version, request, status, text, b"", b""]

    def _judge_key(self, address: str, key: str) -> bool:
        if key not in self._allowed:
            self._on_refused(address, key)
            return False
        if address not in self._known:
            self._known.append(address)
        return True

    def _judge_address(self, address: str) -> bool:
        if address not in self._known:
            self._on_refused(address, "")
        return address in self._known
