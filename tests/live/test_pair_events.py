"""What the guest does by itself while it is protected, and its inputs around a take-over."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import pairwise

import pytest
from pair_lab import NEVER, PATIENCE_S, Pair, open_pair
from telling_relay import DOUBTED, REPLAYED, find_told

pytestmark = pytest.mark.live

#: More than are asked again while a reset guest boots, so that a count below it is another life's.
COUNTED_BEFORE_RESET = 100
#: Some epochs' worth.
ANSWERS_BEFORE_DEATH = 150


def test_reset_goes_through_and_the_survivor_survives_one_too() -> None:
    with open_pair() as pair:
        pair.protect()
        total = reboot(pair)
        pair.wait_state("a", "protected")
        pair.kill_host("a")
        pair.wait_state("b", "active-alone")
        assert count(pair) > total
        reboot(pair)


def reboot(pair: Pair) -> int:
    """Reset the guest and wait until its counter has begun anew; returns what it counts now."""
    while (before := count(pair)) < COUNTED_BEFORE_RESET:
        pass
    pair.commands.send("reboot")
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        total = count(pair)
        if total < before:
            return total
        before = total
    raise AssertionError("the guest never came back from its reset")


def count(pair: Pair) -> int:
    """How many requests the guest has counted since it booted."""
    return int(pair.counter.ask(f"again {time.monotonic_ns()}").split(" ")[0])


@pytest.mark.parametrize(
    ("command", "reason"), [("poweroff", "the guest powered off"), ("crash", "the guest panicked")]
)
def test_the_guests_own_end_is_the_pairs_end(command: str, reason: str) -> None:
    with open_pair() as pair:
        pair.protect()
        pair.commands.send(command)
        assert pair.wait_end("a") == 0
        assert reason in pair.said("a")
        pair.wait_state("b", "stood down")
        # Nobody brings it back, whatever the arbiter's lease does.
        assert pair.counter.hear(1.0) is None
        assert pair.take_overs() == []


@pytest.mark.parametrize("vcpus", [1, 2])
def test_requests_around_a_death_are_executed_and_repeated_only_when_in_doubt(vcpus: int) -> None:
    """One that came after the checkpoint is replayed, one that it contains is not.

    What the guest may or may not have read when it was stopped is given once more (output/inputs.py). A busy machine
    stops it at such moments, so only the relay's own word says which requests may have been executed again."""
    with open_pair(vcpus=vcpus) as pair:
        pair.protect(phases=("before:PauseGuest", NEVER))
        sent = send_until_death(pair, "a")
        pair.wait_death("a")
        acknowledged = find_requests(pair.counter.heard)
        pair.wait_state("b", "active-alone")
        # Answers come in the order of the requests: after this one nothing of before is under way.
        pair.counter.ask("settled")
        executed = {request: int(pair.counter.ask(request).split(" ")[1]) - 1 for request in sent}
        doubted = find_told(DOUBTED, pair.said("a")) + find_told(DOUBTED, pair.said("b"))
        replayed = find_told(REPLAYED, pair.said("b"))

        again = {request: times for request, times in executed.items() if times > 1 + doubted[request]}
        assert again == {}, "executed again without a doubt"
        assert replayed, "nothing was replayed"
        # What came before such a one is in the checkpoint, or was replayed too.
        newest = max(number_of(request) for request in [*acknowledged, *replayed])
        assert [request for request in sent[: newest + 1] if not executed[request]] == [], "lost"
        (running,) = pair.take_overs()
        assert running.fields["replayed_inputs"] >= replayed.total()
        totals = [int(answer.split(" ")[0]) for answer in pair.counter.heard]
        assert all(before < after for before, after in pairwise(totals)), "an answer was contradicted"


def send_until_death(pair: Pair, name: str) -> list[str]:
    """Requests, each once, 5 ms apart, until some have been answered and the side has died at the end of an epoch."""
    pair.counter.ask("ready")
    sent: list[str] = []
    deadline, daemon = time.monotonic() + PATIENCE_S, pair.daemons[name]
    is_armed = False
    while daemon.poll() is None:
        assert time.monotonic() < deadline, f"{name} goes on, {len(pair.counter.heard)} answers"
        if not is_armed and len(pair.counter.heard) > ANSWERS_BEFORE_DEATH:
            pair.arm(name)
            is_armed = True
        sent.append(f"request-{len(sent)}")
        pair.counter.send(sent[-1])
        while pair.counter.hear(0.005) is not None:
            pass
    return sent


def find_requests(answers: Iterable[str]) -> list[str]:
    """Those of `send_until_death` that were answered."""
    return [name for answer in answers if (name := answer.split(" ", 2)[2]).startswith("request-")]


def number_of(request: str) -> int:
    return int(request.removeprefix("request-"))
