"""What was refused is told while it is fresh, and logged without filling the log."""

from __future__ import annotations

import logging

from replicator.errors import RemoteWireError
from replicator.link.base import BadMessage, LinkRefused, PeerRefused
from replicator.service.refusals import FRESH_NS, LOG_EVERY_NS, Refusals
from replicator.wire.session import Channel


def test_it_is_told_until_it_is_old():
    now = [0]
    refusals = Refusals(lambda: now[0])
    assert refusals.newest() == ""
    refusals.note(LinkRefused("no", "do this"))
    now[0] = FRESH_NS - 1
    assert refusals.newest() == "no; do this"
    now[0] = FRESH_NS
    assert refusals.newest() == ""


def test_it_is_over_when_the_peer_is_let_in():
    refusals = Refusals(lambda: 0)
    refusals.note(LinkRefused("no"))
    assert refusals.newest() == "no"
    refusals.settle()
    assert refusals.newest() == ""


def test_the_same_one_is_logged_once_a_minute(caplog):
    now = [0]
    refusals = Refusals(lambda: now[0])
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            refusals.note(PeerRefused(Channel.CONTROL, "who?"))
        assert caplog.messages == ["who?"]
        refusals.note(BadMessage(Channel.BULK, b"", RemoteWireError("garbage")))
        assert caplog.messages[1:] == ["a message on the bulk channel was dropped: garbage"]
        now[0] = LOG_EVERY_NS + 1
        refusals.note(BadMessage(Channel.BULK, b"", RemoteWireError("garbage")))
        assert len(caplog.messages) == 3
