"""A stop that is ordered while a daemon still starts is not forgotten."""

from __future__ import annotations

import signal

import pytest


@pytest.mark.parametrize("role", ["primary", "secondary"])
def test_sigterm_at_the_first_word(pair, role):
    side = pair.start("a", role)
    side.wait_for("starting")
    side.signal(signal.SIGTERM)
    assert side.process.wait(30) == 0
    side.wait_for("ended: ")
