"""What became of connections: libzmq's monitor events in the words of the link.

A bound socket (`PeerWatch`) learns who was turned away and that a connection ended. A connecting one (`DialWatch`)
learns that its handshake went through, or why not. After a protocol error or a refusal libzmq gives a connecting
socket up for good and says nothing more, so the owner makes a new one after each failure.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import zmq
from zmq.utils.monitor import parse_monitor_message

from replicator.link.base import LinkRefused, PeerLeft, PeerRefused
from replicator.link.polled import PolledSocket
from replicator.link.sockets import Socket
from replicator.wire.session import Channel

_BAD_MECHANISM = zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH
_BAD_CRYPTO = zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC

_KEYS_HINT = (
    "compare [keys] on both hosts: allow must name the other host's .key file, and both need keys or none"
)


_EVENTS = (
    zmq.Event.HANDSHAKE_SUCCEEDED
    | zmq.Event.HANDSHAKE_FAILED_AUTH
    | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
    | zmq.Event.HANDSHAKE_FAILED_NO_DETAIL
    | zmq.Event.DISCONNECTED
)
_numbers = itertools.count(1)


class Monitor:
    """Turns the events of one socket into calls of `on_event(event, value)`. To be closed before that socket.

    libzmq's I/O thread waits, with a lock held that the socket's owner needs too, while an event finds no room or no
    receiver. So there is room without bound (an event is small, and costs a peer a connection), and the socket is told
    to stop before the receiver goes.
    """

    def __init__(self, socket: Socket, on_event: Callable[[zmq.Event, int], None]) -> None:
        self._socket = socket
        self._on_event = on_event
        endpoint = f"inproc://monitor-{next(_numbers)}"
        socket.monitor(endpoint, _EVENTS)
        receiver = socket.context.socket(zmq.PAIR)
        receiver.set(zmq.RCVHWM, 0)
        receiver.connect(endpoint)
        self._pair = PolledSocket(receiver, self._drain)

    def close(self) -> None:
        self._socket.disable_monitor()
        self._pair.close("closed")

    def _drain(self) -> None:
        for event, value in self._events():
            self._on_event(event, value)

    def _events(self) -> Iterator[tuple[zmq.Event, int]]:
        while (frames := self._pair.receive()) is not None:
            found = parse_monitor_message([bytes(frame) for frame in frames])
            yield zmq.Event(found["event"]), found["value"]


class PeerWatch:
    """Tells `report` what happens to the connections of a bound socket."""

    def __init__(
        self, socket: Socket, channel: Channel, report: Callable[[PeerRefused | PeerLeft], None]
    ) -> None:
        self._channel = channel
        self._report = report
        #: Failed handshakes whose DISCONNECTED is still to come.
        self._failed = 0
        self._monitor = Monitor(socket, self._on_event)

    def close(self) -> None:
        self._monitor.close()

    def _on_event(self, event: zmq.Event, value: int) -> None:
        if event is zmq.Event.DISCONNECTED:
            if self._failed:
                self._failed -= 1
            elif self._channel is Channel.CONTROL:
                self._report(PeerLeft())
        elif event is not zmq.Event.HANDSHAKE_SUCCEEDED:
            self._failed += 1
            # The gatekeeper reports a refused key itself, with the key.
            if event is zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
                self._report(PeerRefused(self._channel, *_why_refused(value)))


def why_dial_failed(event: zmq.Event, value: int) -> LinkRefused | None:
    """The refusal behind a failed handshake of a connecting socket; None for an ordinary loss."""
    if event is zmq.Event.HANDSHAKE_FAILED_AUTH:
        return LinkRefused(
            "the peer does not allow our key",
            "name our .key file in [keys] allow on the peer, and restart it",
        )
    if event is zmq.Event.HANDSHAKE_FAILED_PROTOCOL:
        if value == _BAD_MECHANISM:
            return LinkRefused("one side wants encryption and the other does not", _KEYS_HINT)
        return LinkRefused(f"the peer's handshake makes no sense ({value:#x})", "is it a replicator's port?")
    if event is zmq.Event.HANDSHAKE_FAILED_NO_DETAIL:
        return LinkRefused(
            f"the peer ended the handshake ({os.strerror(value)})",
            "only one side may have [keys], or the .key file in allow is not the peer's, or its port is not a replicator's",
        )
    return None


def _why_refused(value: int) -> tuple[str, str]:
    if value == _BAD_MECHANISM:
        return "somebody connected without our encryption", _KEYS_HINT
    if value == _BAD_CRYPTO:
        return "somebody connected with another public key of ours in mind", _KEYS_HINT
    return f"somebody sent what is not our protocol ({value:#x})", "something else may use this port"
