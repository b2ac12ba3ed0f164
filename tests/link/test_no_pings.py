"""No socket of the link pings: see link/sockets.py for what libzmq makes of that when a peer ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from replicator.link.base import LinkConfig, PeerAddress
from replicator.link.sockets import dial, listen
from replicator.wire.session import Channel

CONFIG = LinkConfig("host-a", "127.0.0.1")
PEER = PeerAddress("127.0.0.1", 7410, 7411, 7412)


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    made: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield made
    made.destroy(linger=0)


def test_no_socket_pings(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    sockets = [
        *(listen(context, CONFIG, channel, 0) for channel in Channel),
        *(dial(context, CONFIG, channel, PEER) for channel in Channel),
    ]
    assert [socket.get(zmq.HEARTBEAT_IVL) for socket in sockets] == [0] * 6
