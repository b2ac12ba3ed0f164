"""A real VM moves on the operator's word, there and back, while a client's open connections go on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import pytest
from pair_lab import OTHER, PATIENCE_S, TRY_S, Pair, open_pair
from telling_relay import DOUBTED, find_told

from replicator.service.control import ask_daemon

pytestmark = pytest.mark.live

#: Requests before the move, and after it.
AROUND = 50
#: Requests under way at once that no queue on their way is too short for.
AT_ONCE = 8


def move(pair: Pair, name: str, **bounds: Any) -> dict[str, Any]:
    """Order it on the side that has the guest, and await the new protection by that side."""
    report: dict[str, Any] = ask_daemon(pair.stage.scratch / name, "switchover", **bounds)["report"]
    assert report["outcome"] == "moved", report
    pair.wait_protected(OTHER[name])
    pair.wait_state(name, "standby at epoch")
    return report


@pytest.mark.parametrize("vcpus", [1, 2])
def test_the_guest_moves_there_and_back_and_no_client_can_tell(vcpus: int) -> None:
    with open_pair(vcpus=vcpus) as pair:
        pair.protect()
        pair.start_client()
        daemons = dict(pair.daemons)
        for name in ("a", "b"):
            report = move(pair, name, max_downtime_ms=1000)
            assert report["keeps_promise"], report
            pair.wait_increments()
        assert pair.daemons == daemons and all(daemon.poll() is None for daemon in daemons.values())
        assert pair.stage.status("a")["term"] == 3
        pair.judge("aba")


def test_a_host_that_dies_after_a_move_is_survived_by_the_one_that_had_the_guest() -> None:
    with open_pair() as pair:
        pair.protect()
        pair.start_client()
        move(pair, "a", max_downtime_ms=1000)
        pair.kill_host("b")
        pair.wait_state("a", "active-alone")
        pair.wait_increments()
        pair.judge("aba")


def test_requests_around_a_move_are_repeated_only_when_in_doubt() -> None:
    """What comes while the guest stands still is mirrored and given to it on the other side, and nothing twice."""
    with open_pair() as pair:
        pair.protect()
        pair.counter.ask("ready")
        sent = [send(pair, number) for number in range(AROUND)]
        with ThreadPoolExecutor(1) as pool:
            moving = pool.submit(move, pair, "a", max_downtime_ms=1000)
            while not moving.done():
                sent.append(send(pair, len(sent)))
            moving.result()
        after = [send(pair, number) for number in range(len(sent), len(sent) + AROUND)]
        # Answers come in the order of the requests: after this one nothing of before is under way.
        pair.counter.ask("settled")
        totals = [int(answer.split(" ")[0]) for answer in pair.counter.heard]
        assert all(old < new for old, new in pairwise(totals)), "an answer was contradicted"
        executed = count_executions(pair, [*sent, *after])
        doubted = find_told(DOUBTED, pair.said("a")) + find_told(DOUBTED, pair.said("b"))
        again = {name: times for name, times in executed.items() if times > 1 + doubted[name]}
        assert again == {}, "executed again without a doubt"
        assert [name for name in (*sent[:AROUND], *after) if not executed[name]] == [], "lost"
        assert pair.turns == "ab"
        assert pair.voice.lost() == 0


def send(pair: Pair, number: int) -> str:
    """One request, and 5 ms for answers to whichever."""
    request = f"request-{number}"
    pair.counter.send(request)
    while pair.counter.hear(0.005) is not None:
        pass
    return request


def count_executions(pair: Pair, names: Sequence[str]) -> dict[str, int]:
    """How often each was executed so far."""
    counts: dict[str, int] = {}
    for start in range(0, len(names), AT_ONCE):
        counts |= ask_counts(pair, names[start : start + AT_ONCE])
    return counts


def ask_counts(pair: Pair, names: Sequence[str]) -> dict[str, int]:
    """The first answer to each counts: the question is executed as well."""
    counts: dict[str, int] = {}
    deadline = time.monotonic() + PATIENCE_S
    while missing := [name for name in names if name not in counts]:
        assert time.monotonic() < deadline, f"the guest never answered {missing}"
        for name in missing:
            pair.counter.send(name)
        while len(counts) < len(names) and (answer := pair.counter.hear(TRY_S)) is not None:
            _, times, name = answer.split(" ")
            counts.setdefault(name, int(times) - 1)
    return counts
