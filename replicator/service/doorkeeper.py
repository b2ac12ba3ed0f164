"""Reads the link: what comes in goes to the role of that moment, is turned away, or is noted as a refusal.

What a role makes of it is the role's; who is turned away, and with which words, says turn_away.py.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from replicator.link.base import BadMessage, Link, LinkEvent, LinkRefused, LinkUp, PeerRefused, Received
from replicator.service.primary_role import PrimaryRole
from replicator.service.refusals import Refusals
from replicator.service.secondary_role import SecondaryRole
from replicator.service.turn_away import turn_away, why_turned_away
from replicator.service.views import Role, term_of
from replicator.wire.session import Hello

_REFUSALS = (LinkRefused, PeerRefused, BadMessage)


class Doorkeeper:
    """`on_hello` is called when a primary has introduced itself to a secondary here."""

    def __init__(
        self,
        link: Link,
        node: str,
        refusals: Refusals,
        *,
        find_role: Callable[[], Awaitable[Role]],
        on_hello: Callable[[], None],
    ) -> None:
        self._link = link
        self._node = node
        self._refusals = refusals
        self._find_role = find_role
        self._on_hello = on_hello

    async def read(self) -> None:
        """One event after another, until the link is closed."""
        async for event in self._link.received():
            greets = is_hello(event)
            if greets or not isinstance(event, Received):
                self._note(event)
            role = await self._find_role()
            away = why_turned_away(event, runs_guest=isinstance(role, PrimaryRole))
            if away is not None and isinstance(event, Received | BadMessage):
                await turn_away(self._link, self._node, event.peer_id, away, term_of(role))
            elif isinstance(role, SecondaryRole):
                await role.on_link(event)
                if greets:
                    # It may die before its first beat comes.
                    self._on_hello()
            else:
                role.on_link(event)

    def _note(self, event: LinkEvent) -> None:
        """Of the peers that come and go."""
        if isinstance(event, _REFUSALS):
            self._refusals.note(event)
        elif isinstance(event, Received | LinkUp):
            self._refusals.settle()


def is_hello(event: LinkEvent) -> bool:
    return isinstance(event, Received) and isinstance(event.message, Hello)
