"""TCP: streams by content, events, acknowledgements, connections that begin with other numbers."""

from __future__ import annotations

import pytest
from compare_frames import FIN, RST, SYN, SYN_OPTIONS, tcp_frame, times
from compare_stand import ENDS, FIRST, Stand, Talker

MINE, OTHERS = Talker(), Talker()


def test_data_waits_for_the_secondary() -> None:
    stand = Stand()
    number = stand.primary(MINE.says(0, b"hello"))
    assert stand.released == []
    stand.secondary(OTHERS.says(0, b"hello"))
    assert stand.released == [number]
    assert stand.held == 0


def test_the_secondary_may_speak_first() -> None:
    stand = Stand()
    stand.secondary(OTHERS.says(0, b"hello"))
    assert stand.released == [stand.primary(MINE.says(0, b"hello"))]


def test_borders_of_segments_do_not_matter() -> None:
    stand = Stand()
    first, second = stand.primary(MINE.says(0, b"hel")), stand.primary(MINE.says(3, b"lo world"))
    stand.secondary(OTHERS.says(0, b"hello wo"))
    assert stand.released == [first]
    stand.secondary(OTHERS.says(8, b"rld"))
    assert stand.released == [first, second]


def test_a_difference_asks_and_holds_until_the_commit() -> None:
    stand = Stand()
    first, second = stand.primary(MINE.says(0, b"ok")), stand.primary(MINE.says(2, b"mine"))
    stand.secondary(OTHERS.says(0, b"okothers"))
    assert stand.released == [first]
    assert [(one.epoch, one.reason.value) for one in stand.asked] == [(FIRST, "differs")]
    third = stand.primary(MINE.says(6, b"more"))
    stand.secondary(OTHERS.says(8, b"more"))
    assert stand.released == [first]
    stand.commit()
    assert stand.released == [first, second, third]
    assert stand.both(MINE.says(10, b"again")) == stand.released[-1]
    assert len(stand.asked) == 1


def test_one_checkpoint_is_asked_for_in_an_epoch() -> None:
    stand = Stand()
    for port in (1, 2):
        ends = ENDS.__class__(target_port=port)
        stand.both(Talker(ends=ends).says(0, b"a"), Talker(ends=ends).says(0, b"b"))
    assert len(stand.asked) == 1


@pytest.mark.parametrize("flags", [FIN, RST])
def test_an_end_is_compared(flags: int) -> None:
    stand = Stand()
    end = tcp_frame(ENDS, 1001, ack=7001, flags=flags)
    number = stand.primary(end)
    assert stand.released == []
    stand.secondary(end)
    assert stand.released == [number]
    assert not stand.machine.is_waiting


def test_an_end_of_one_side_only_differs() -> None:
    stand = Stand()
    stand.both(MINE.says(0, b"abc", fin=True), OTHERS.says(0, b"abcd"))
    assert stand.reasons() == ["differs"]
    assert stand.released == []


def test_frames_after_the_end_leave() -> None:
    stand = Stand()
    stand.both(MINE.says(0, b"abc", fin=True))
    late = stand.primary(MINE.says(4))
    again = stand.primary(MINE.says(0, b"abc", fin=True))
    assert stand.released[-2:] == [late, again]


def test_an_acknowledgement_waits_for_the_secondarys() -> None:
    stand = Stand(confirms=False)
    stand.input(tcp_frame(ENDS.flipped(), 7001, ack=1001, data=b"request"))
    number = stand.primary(MINE.says(0, ack=7008))
    stand.secondary(OTHERS.says(0, ack=7005))
    assert stand.released == []
    stand.secondary(OTHERS.says(0, ack=7008))
    assert stand.released == [number]


def test_an_acknowledgement_leaves_when_its_inputs_are_logged() -> None:
    stand = Stand(confirms=False)
    other = ENDS.__class__(target_port=9).flipped()
    stand.input(tcp_frame(ENDS.flipped(), 7001, ack=1001, data=b"request"))
    stand.primary(MINE.says(0, ack=7001))
    stand.log_inputs()
    stand.input(tcp_frame(ENDS.flipped(), 7008, ack=1001, data=b"more"))
    stand.input(tcp_frame(other, 1, ack=1, data=b"of another connection"))
    number = stand.primary(MINE.says(0, ack=7012))
    stand.log_inputs(1)
    assert number not in stand.released
    stand.log_inputs(2)
    assert stand.released[-1] == number


def test_data_that_was_said_by_both_waits_for_its_acknowledgement() -> None:
    stand = Stand(confirms=False)
    stand.input(tcp_frame(ENDS.flipped(), 7001, ack=1001, data=b"request"))
    number = stand.primary(MINE.says(0, b"answer", ack=7008))
    stand.secondary(OTHERS.says(0, b"answer", ack=7001))
    assert stand.released == []
    stand.log_inputs()
    assert stand.released == [number]


def test_a_repetition_of_what_left_leaves() -> None:
    stand = Stand()
    stand.both(MINE.says(0, b"hello"))
    assert stand.primary(MINE.says(0, b"hello")) == stand.released[-1]


def test_a_side_that_contradicts_itself_differs() -> None:
    stand = Stand()
    stand.primary(MINE.says(0, b"hello"))
    stand.primary(MINE.says(2, b"LLO"))
    assert stand.reasons() == ["differs"]


def test_silence_of_one_side_ends_in_a_checkpoint() -> None:
    stand = Stand()
    number = stand.primary(MINE.says(0, b"hello"))
    stand.wait(400)
    assert stand.asked == []
    stand.wait(101)
    assert stand.reasons() == ["timeout"]
    stand.commit()
    assert stand.released == [number]


def test_what_only_the_secondary_says_ends_in_a_checkpoint() -> None:
    stand = Stand()
    stand.secondary(OTHERS.says(0, b"hello"))
    stand.wait(501)
    assert stand.reasons() == ["timeout"]
    stand.commit()
    assert not stand.machine.is_waiting


def test_the_wait_adapts_to_a_busy_host() -> None:
    stand = Stand()
    stand.primary(MINE.says(0, b"slow"))
    stand.wait(400)
    stand.secondary(OTHERS.says(0, b"slow"))
    stand.primary(MINE.says(4, b"slower"))
    stand.wait(1500)
    assert stand.asked == []
    stand.wait(200)
    assert stand.reasons() == ["timeout"]


def test_a_new_connection_is_shifted() -> None:
    stand = Stand(confirms=False)
    mine, others = Talker(1000, ts=50), Talker(0xFFFFFFF0, ts=45)
    stand.input(tcp_frame(ENDS.flipped(), 7000, flags=SYN, options=SYN_OPTIONS + times(1)))
    number = stand.both(mine.syn_ack(), others.syn_ack())
    (told,) = stand.told
    assert told.shift.seq == (0xFFFFFFF0 - 1000) & 0xFFFFFFFF
    assert told.shift.ts == (45 - 50) & 0xFFFFFFFF
    assert stand.released == []
    stand.know_shifts(told.number)
    assert stand.released == [number]
    stand.log_inputs()
    assert stand.both(mine.says(0, b"x" * 40), others.says(0, b"x" * 40)) == stand.released[-1]


def test_a_connection_that_the_guest_opens_is_shifted_too() -> None:
    stand = Stand()
    number = stand.both(Talker(10).syn(), Talker(30).syn())
    assert stand.released == [number]
    assert stand.told[0].shift.seq == 20
    assert stand.both(Talker(10).says(0, b"hi"), Talker(30).says(0, b"hi")) == stand.released[-1]


def test_other_options_of_a_syn_differ() -> None:
    stand = Stand()
    stand.both(Talker(10).syn_ack(), Talker(30).syn_ack(options=b"\3\3\5"))
    assert stand.reasons() == ["differs"]


def test_a_signed_connection_cannot_be_shifted() -> None:
    signature = bytes((19, 18)) + bytes(16)
    stand = Stand()
    stand.both(Talker(10).syn_ack(options=signature), Talker(30).syn_ack(options=signature))
    assert stand.reasons() == ["differs"]


def test_a_checkpoint_ends_the_shift() -> None:
    stand = Stand()
    mine, others = Talker(10), Talker(30)
    stand.both(mine.syn_ack(), others.syn_ack())
    stand.both(mine.says(0, b"a"), others.says(0, b"b"))
    stand.commit()
    assert stand.both(mine.says(1, b"same")) == stand.released[-1]


def test_a_syn_that_only_one_side_said_leaves_with_the_checkpoint() -> None:
    stand = Stand()
    number = stand.primary(Talker(10).syn_ack())
    stand.wait(600)
    stand.commit()
    assert stand.released == [number]
    again = stand.primary(Talker(10).syn_ack())
    assert stand.released == [number, again]


def test_addresses_may_be_used_again() -> None:
    stand = Stand()
    for isn in (10, 5000, 900):
        mine, others = Talker(isn), Talker(isn + 7)
        for one, other in (
            (mine.syn_ack(), others.syn_ack()),
            (mine.says(0, b"bye", fin=True), others.says(0, b"bye", fin=True)),
        ):
            assert stand.both(one, other) == stand.released[-1]
    assert stand.asked == []


def test_a_connection_opened_anew_in_the_middle_of_another_differs() -> None:
    stand = Stand()
    stand.primary(MINE.says(0, b"half"))
    stand.primary(Talker(99_000).syn_ack())
    assert stand.reasons() == ["differs"]


def test_a_refusal_is_compared() -> None:
    stand = Stand()
    refusal = tcp_frame(ENDS, 0, ack=7001, flags=RST)
    number = stand.primary(refusal)
    assert stand.released == []
    stand.secondary(refusal)
    assert stand.released == [number]
    accepted = stand.both(Talker(10).syn_ack(), Talker(20).syn_ack())
    assert stand.released[-1] == accepted
    assert not stand.machine.is_waiting


def test_events_of_an_older_epoch_change_nothing() -> None:
    stand = Stand()
    number = stand.primary(MINE.says(0, b"hello"))
    stand.secondary(OTHERS.says(0, b"jello"), epoch=FIRST - 1)
    stand.commit(FIRST - 1)
    assert (stand.released, stand.asked) == ([], [])
    late = stand.primary(MINE.says(5, b"late"), epoch=FIRST - 1)
    assert stand.released == [late]
    stand.secondary(OTHERS.says(0, b"hello"))
    assert stand.released == [late, number]


def test_what_is_said_early_waits_for_its_epoch() -> None:
    stand = Stand()
    old = stand.primary(MINE.says(0, b"old"))
    early = stand.primary(MINE.says(3, b"new"), epoch=FIRST + 1)
    stand.secondary(OTHERS.says(3, b"new"), epoch=FIRST + 1)
    assert stand.released == []
    stand.commit()
    assert stand.released == [old, early]
    assert stand.asked == []


def test_nothing_leaves_between_a_difference_and_its_commit() -> None:
    """Neither what both have said nor what is confirmed only now: it may build on the difference."""
    stand = Stand(confirms=False)
    elsewhere, third = (Talker(ends=ENDS.__class__(target_port=port)) for port in (9, 10))
    stand.both(elsewhere.says(0, b"hello"))
    stand.both(third.says(0, b"hello"))
    stand.input(tcp_frame(elsewhere.ends.flipped(), 7001, ack=1001, data=b"request"))
    confirmed_late = stand.primary(elsewhere.says(5, ack=7008))
    released = list(stand.released)
    stand.both(MINE.says(0, b"a"), OTHERS.says(0, b"b"))
    again = stand.primary(third.says(0, b"hello"))
    stand.log_inputs()
    assert stand.released == released
    stand.commit()
    assert stand.released == [*released, confirmed_late, again - 1, again]
