"""What the comparison leaves out changes nothing: to ask about equal bytes, and to look at flows that no confirmation
concerns."""

from __future__ import annotations

from compare_frames import Ends, tcp_frame
from compare_stand import Stand, Talker
from hypothesis import given, settings
from hypothesis import strategies as st

#: What every connection says; the second one is the same but for a byte.
CONTENTS = b"abcdefghijklmnop", b"abcdefgXijklmnop"
CONNECTIONS = 3
PLACES = st.integers(0, 12)
SIDES = st.sampled_from(["primary", "secondary"])
STEPS = st.one_of(
    st.tuples(
        SIDES,
        st.integers(0, CONNECTIONS - 1),
        PLACES,
        st.integers(0, 6),
        st.sampled_from([0, 0, 0, 0, 1]),
        st.booleans(),
        st.integers(0, 3),
    ),
    st.tuples(SIDES, st.integers(0, CONNECTIONS - 1), st.sampled_from(["syn", "reset"])),
    st.tuples(st.just("input"), st.integers(0, CONNECTIONS - 1), PLACES),
    st.tuples(st.just("log"), st.integers(0, 30)),
    st.tuples(st.just("know"), st.integers(0, 5)),
    st.tuples(st.just("wait"), st.integers(1, 400)),
    st.just(("commit",)),
)


def talker(side: str, connection: int) -> Talker:
    ends = Ends(target_port=40_000 + connection)
    return Talker(isn=1000 if side == "primary" else 9000, ends=ends, ts=5)


def play(stand: Stand, step: tuple) -> None:
    match step:
        case ("input", connection, place):
            stand.input(tcp_frame(Ends(target_port=40_000 + connection).flipped(), place, ack=5, data=b"x"))
        case ("log", upto):
            stand.log_inputs(min(upto, stand.inputs))
        case ("know", upto):
            stand.know_shifts(min(upto, len(stand.told)))
        case ("wait", ms):
            stand.wait(ms)
        case ("commit",):
            stand.commit()
        case (side, connection, "syn"):
            getattr(stand, side)(talker(side, connection).syn_ack())
        case (side, connection, "reset"):
            getattr(stand, side)(talker(side, connection).resets())
        case (side, connection, place, size, which, fin, ack):
            data = CONTENTS[which if side == "secondary" else 0][place : place + size]
            said = talker(side, connection).says(place, data, fin=fin and place > 10, ack=7000 + ack)
            getattr(stand, side)(said)


@settings(deadline=None, max_examples=300)
@given(st.lists(STEPS, max_size=40))
def test_equal_bytes_need_not_be_asked_about(steps: list[tuple]) -> None:
    stands = Stand(confirms=False), Stand(confirms=False)
    stands[1].machine._guard.passes_equal = False
    assert stands[0].machine._guard.passes_equal
    for step in steps:
        for stand in stands:
            play(stand, step)
        assert stands[0].released == stands[1].released
        assert stands[0].asked == stands[1].asked and stands[0].told == stands[1].told
        assert stands[0].machine.status() == stands[1].machine.status()


@settings(deadline=None, max_examples=300)
@given(st.lists(STEPS, max_size=40))
def test_nothing_that_may_leave_is_passed_over(steps: list[tuple]) -> None:
    stand = Stand(confirms=False)
    for step in steps:
        play(stand, step)
        machine = stand.machine
        if machine.has_asked:
            continue
        for flow in machine._flows:
            assert flow.release(machine._confirmed, stand.now_ns) == []
        kept = sum(flow.kept_bytes for flow in machine._flows)
        assert machine.status().kept_bytes == kept
