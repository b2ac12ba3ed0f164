"""Answers for a primary that came to the wrong door, so that its operator reads why and not just silence."""

from __future__ import annotations

import logging

from replicator.errors import TransportError
from replicator.link.base import BadMessage, Link, LinkEvent, Received
from replicator.wire.session import (
    NO_DIGEST,
    NO_SESSION,
    Channel,
    Hello,
    HelloReply,
    OtherVersion,
    Refusal,
)

_LOG = logging.getLogger(__name__)


def why_turned_away(event: LinkEvent, *, runs_guest: bool) -> tuple[str, str] | None:
    """(code, detail) for a hello that this daemon cannot follow, whatever guest it is about; None for all else."""
    if isinstance(event, Received):
        if runs_guest and isinstance(event.message, Hello):
            return Refusal.NOT_SECONDARY, "it runs a guest itself; start `replicator secondary` there"
        return None
    error = event.error if isinstance(event, BadMessage) and event.channel is Channel.CONTROL else None
    if isinstance(error, OtherVersion):
        return Refusal.WRONG_VERSION, f"as the secondary sees it, {error}; {error.hint}"
    return None


async def turn_away(link: Link, node: str, peer_id: bytes, reason: tuple[str, str], term: int) -> None:
    code, detail = reason
    _LOG.info("a primary was turned away: %s: %s", code, detail)
    try:
        await link.reply(peer_id, HelloReply(node, False, code, detail, term, NO_SESSION, 0, NO_DIGEST))
    except TransportError as error:
        _LOG.info("it is not there to be answered: %s", error)
