"""The link between the two daemons: bulk, control and heartbeat channels over zeromq, or inside one process."""

from replicator.link.base import (
    BadMessage,
    Link,
    LinkConfig,
    LinkDown,
    LinkEvent,
    LinkRefused,
    LinkUp,
    PeerAddress,
    PeerLeft,
    PeerRefused,
    Received,
)
from replicator.link.heartbeat import HeartbeatThread
from replicator.link.keys import Keys, load_keys, write_keypair
from replicator.link.memory import MemoryLink, MemoryNetwork
from replicator.link.zeromq import ZmqLink

__all__ = [
    "BadMessage",
    "HeartbeatThread",
    "Keys",
    "Link",
    "LinkConfig",
    "LinkDown",
    "LinkEvent",
    "LinkRefused",
    "LinkUp",
    "MemoryLink",
    "MemoryNetwork",
    "PeerAddress",
    "PeerLeft",
    "PeerRefused",
    "Received",
    "ZmqLink",
    "load_keys",
    "write_keypair",
]
