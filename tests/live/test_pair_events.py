"""What the guest does by itself while it is protected, and its inputs around a take-over."""

from __future__ import annotations

import re
import time

import pytest
from pair_lab import NEVER, PATIENCE_S, Pair, open_pair

pytestmark = pytest.mark.live

#: More than are asked again while a reset guest boots, so that a count below it is another life's.
COUNTED_BEFORE_RESET = 100


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
def test_requests_around_a_death_are_executed_once_and_their_repeats_twice(vcpus: int) -> None:
    """A request that came after the last checkpoint is replayed; one that the checkpoint contains is not."""
    with open_pair(vcpus=vcpus) as pair:
        pair.protect(phases=("before:PauseGuest", NEVER))
        sent, answered = send_until_death(pair, "a")
        pair.wait_death("a")
        pair.wait_state("b", "active-alone")
        while (answer := pair.counter.hear(1.0)) is not None:
            note(answer, answered)
        (running,) = pair.take_overs()
        assert running.fields["replayed_inputs"] > 0
        assert all(seen == 1 for seen in answered.values()), "a request was executed twice"
        assert len(answered) > len(sent) // 2
        replayed = 0
        for request in sent[-60:]:
            seen = int(pair.counter.ask(request).split(" ")[1])
            # Repeated answers of `ask` count: at least once, never more than it was sent.
            assert seen == 2 or request not in answered, f"{request} counts {seen}, it was acknowledged"
            assert 1 <= seen <= 2
            replayed += seen == 2
        assert replayed > 0


def send_until_death(pair: Pair, name: str) -> tuple[list[str], dict[str, int]]:
    """Requests, each once, 5 ms apart, for a second and until the side has died at the end of an epoch.

    Returns them, and how often the guest had seen those that it answered."""
    sent: list[str] = []
    answered: dict[str, int] = {}
    end, daemon = time.monotonic() + 1.0, pair.daemons[name]
    is_armed = False
    while daemon.poll() is None:
        if not is_armed and time.monotonic() > end:
            pair.arm(name)
            is_armed = True
        sent.append(f"request-{len(sent)}")
        pair.counter.send(sent[-1])
        while (answer := pair.counter.hear(0.005)) is not None:
            note(answer, answered)
    return sent, answered


def note(answer: str, answered: dict[str, int]) -> None:
    match = re.fullmatch(r"\d+ (\d+) (request-\d+)", answer)
    assert match is not None, answer
    assert match[2] not in answered, f"{match[2]} was answered twice"
    answered[match[2]] = int(match[1])
