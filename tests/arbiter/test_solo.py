"""Without an arbiter terms grow, and nothing is granted by itself."""

from __future__ import annotations

import pytest

from replicator.arbiter.base import TakeOverRefused
from replicator.arbiter.solo import SoloArbiter
from replicator.errors import ArbiterError


def test_terms_grow_over_restarts_and_past_the_floor(tmp_path):
    path = tmp_path / "term"
    assert SoloArbiter(path, "web").acquire("a").term == 1
    again = SoloArbiter(path, "web")
    again.term_floor = 7
    assert again.force_take_over("a").term == 8
    assert SoloArbiter(path, "web").read().term == 8
    assert path.stat().st_mode & 0o777 == 0o600


def test_nothing_is_granted_by_itself(tmp_path):
    arbiter = SoloArbiter(tmp_path / "term", "web")
    lease = arbiter.acquire("a")
    assert lease.is_live()
    with pytest.raises(TakeOverRefused):
        arbiter.take_over("b", 1, 1)
    with pytest.raises(ArbiterError, match="output is held"):
        arbiter.go_alone(lease)


def test_a_corrupt_term_is_named(tmp_path):
    (tmp_path / "term").write_text("{")
    with pytest.raises(ArbiterError, match="cannot be read"):
        SoloArbiter(tmp_path / "term", "web").acquire("a")


def test_a_hand_over_is_undone_by_whoever_may_know(tmp_path):
    arbiter = SoloArbiter(tmp_path / "term", "web")
    lease = arbiter.acquire("a")
    arbiter.release(lease, hand_over=True)
    assert arbiter.take_back(lease, "session", 5) == lease
