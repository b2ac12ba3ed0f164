"""What the counting client takes for lost and for repeated."""

from __future__ import annotations

import pytest

from replicator.drill.actors.counting import Answer, Count, check_answers, longest_gap


def answers(*pairs: tuple[int, int], boots: int = 1) -> list[Answer]:
    return [Answer(sequence, counter, boots, 1000 * place) for place, (sequence, counter) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("pairs", "count"),
    [
        ([(7, 40), (8, 41), (9, 42)], Count()),
        # Requests 8 and 9 got no reply: executed or not, both are possible.
        ([(7, 40), (10, 41), (11, 42)], Count()),
        ([(7, 40), (10, 43)], Count()),
        # The network brought request 7 once more.
        ([(7, 40), (8, 41), (7, 41), (9, 42)], Count()),
        ([(7, 40), (8, 40)], Count(lost=1)),
        ([(7, 40), (8, 31)], Count(lost=10)),
        ([(7, 40), (8, 41), (7, 40)], Count(lost=1)),
        ([(7, 40), (8, 42)], Count(repeated=1)),
        ([(7, 40), (10, 45)], Count(repeated=2)),
        ([], Count()),
    ],
)
def test_replies_are_judged_in_the_order_they_came(pairs, count):
    assert check_answers(answers(*pairs)) == count


def test_a_guest_that_starts_afresh_is_found():
    seen = [*answers((7, 40)), *answers((8, 1), (9, 2), boots=2)]
    assert check_answers(seen) == Count(restarts=1)


def test_the_longest_gap_counts_from_the_beginning_to_the_end():
    seen = answers((1, 1), (2, 2))
    assert longest_gap(seen, -5000, 1500) == (-5000, 0)
    assert longest_gap(seen, 0, 9000) == (1000, 9000)
    assert longest_gap([], 0, 10) == (0, 10)
