"""InputLog: what a take-over replays, and that it never claims more than it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.engine.output import FRAME_OVERHEAD_BYTES, Frame, InputLog, Replay
from replicator.errors import InvariantError


def frames(first: int, count: int) -> list[Frame]:
    return [Frame(0, seq.to_bytes(4, "big")) for seq in range(first, first + count)]


def numbers(replay: Replay) -> list[int]:
    return [int.from_bytes(frame.data, "big") for frame in replay.frames]


def test_replays_what_the_checkpoint_does_not_contain() -> None:
    log = InputLog()
    log.append(1, frames(1, 5))
    log.append(6, frames(6, 2))
    log.trim(3)
    assert numbers(log.after(3)) == [4, 5, 6, 7]
    assert numbers(log.after(5)) == [6, 7]
    assert log.after(7) == Replay()
    assert log.missing_frames == 0


def test_a_skipped_batch_is_missing() -> None:
    log = InputLog()
    log.append(1, frames(1, 2))
    log.append(5, frames(5, 1))
    replay = log.after(1)
    assert (numbers(replay), replay.missing) == ([2, 5], 2)
    assert log.missing_frames == 2
    log.trim(4)
    assert log.missing_frames == 0
    assert log.after(4).missing == 0


def test_a_repeated_batch_is_ignored() -> None:
    log = InputLog()
    log.append(1, frames(1, 3))
    log.append(2, frames(2, 3))
    assert numbers(log.after(0)) == [1, 2, 3, 4]


def test_a_checkpoint_may_arrive_before_its_inputs() -> None:
    log = InputLog()
    log.trim(10)
    log.append(9, frames(9, 3))
    replay = log.after(10)
    assert (numbers(replay), replay.missing) == ([11], 0)


def test_a_full_log_drops_the_oldest_and_says_so() -> None:
    log = InputLog(bytes_max=3 * (4 + FRAME_OVERHEAD_BYTES))
    log.append(1, frames(1, 5))
    replay = log.after(0)
    assert (numbers(replay), replay.missing, log.evicted_frames) == ([3, 4, 5], 2, 2)
    log.trim(2)
    assert log.after(2).missing == 0


def test_a_new_synchronisation_starts_anew() -> None:
    log = InputLog()
    log.append(1, frames(1, 3))
    log.clear()
    log.append(1, frames(1, 1))
    assert numbers(log.after(0)) == [1]


def test_numbers_start_at_one() -> None:
    with pytest.raises(InvariantError):
        InputLog().append(0, frames(0, 1))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(-3, 4), st.integers(0, 6)),
        st.tuples(st.just("trim"), st.integers(-4, 3), st.just(0)),
    ),
    max_size=40,
)


@given(steps, st.sampled_from([1, 5, 1000]))
def test_any_history_replays_a_tail_and_counts_the_rest(
    history: list[tuple[str, int, int]], room_frames: int
) -> None:
    log = InputLog(bytes_max=room_frames * (4 + FRAME_OVERHEAD_BYTES))
    seen: set[int] = set()
    newest = trimmed = 0
    for name, offset, count in history:
        if name == "append":
            first = max(newest + 1 + offset, 1)
            log.append(first, frames(first, count))
            seen.update(seq for seq in range(first, first + count) if seq > newest)
            newest = max([newest, *range(first, first + count)])
        else:
            trimmed = max(trimmed, newest + offset, 0)
            log.trim(trimmed)
            newest = max(newest, trimmed)
        replay = log.after(trimmed)
        got = numbers(replay)
        wanted = sorted(seq for seq in seen if seq > trimmed)
        assert got == wanted[max(len(wanted) - room_frames, 0) :]
        assert len(got) + replay.missing == newest - trimmed
        assert log.missing_frames == replay.missing
        assert log.newest_seq == newest
