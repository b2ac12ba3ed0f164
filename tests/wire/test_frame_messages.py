"""What the relays of a COLO pair say: it comes back as it was, nothing else passes, and nothing may be missing."""

from __future__ import annotations

import contextlib
from dataclasses import fields, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import LocalWireError, RemoteWireError
from replicator.limits import FRAME_BYTES_MAX, FRAMES_BATCH_BYTES_MAX, FRAMES_MESSAGE_BYTES_MAX
from replicator.wire import frames as f

SESSION = bytes(range(16))
COUNTS = st.integers(0, f.INT_MAX)
POSITIVE = st.integers(1, f.INT_MAX)
WORDS = st.integers(0, (1 << 32) - 1)
KEYS = st.binary(min_size=1, max_size=f.KEY_BYTES_MAX)
ROWS = st.lists(
    st.tuples(st.integers(0, f.NICS_MAX - 1), st.binary(min_size=1, max_size=200)), min_size=1, max_size=20
).map(tuple)
TO_SECONDARY = st.one_of(
    st.builds(f.InputBatch, POSITIVE, ROWS),
    st.builds(f.ShiftTold, POSITIVE, POSITIVE, KEYS, WORDS, WORDS),
    st.builds(
        f.LastingShifts, st.booleans(), st.lists(st.tuples(KEYS, WORDS, WORDS), max_size=20).map(tuple)
    ),
)
MESSAGES = st.one_of(
    TO_SECONDARY,
    st.just(f.OpenFrames()),
    st.just(f.FramesOpen()),
    st.builds(f.OutputBatch, POSITIVE, COUNTS, ROWS),
    st.builds(f.InputsLogged, COUNTS),
    st.builds(f.ShiftsKnown, COUNTS),
)
LARGEST = [
    f.InputBatch(f.INT_MAX, ((f.NICS_MAX - 1, bytes(FRAME_BYTES_MAX)),)),
    f.OutputBatch(
        f.INT_MAX, f.INT_MAX, ((0, bytes(FRAMES_BATCH_BYTES_MAX // f.BATCH_FRAMES_MAX)),) * f.BATCH_FRAMES_MAX
    ),
    f.LastingShifts(False, ((bytes(f.KEY_BYTES_MAX), (1 << 32) - 1, (1 << 32) - 1),) * f.SHIFTS_MAX),
]


@given(MESSAGES, POSITIVE)
def test_what_is_encoded_comes_back(message: f.FrameMessage, number: int) -> None:
    envelope = f.Envelope(SESSION, number, message)
    assert f.decode(f.encode(envelope)) == envelope


@pytest.mark.parametrize("message", LARGEST, ids=f.kind_of)
def test_the_largest_of_each_kind_fits(message: f.FrameMessage) -> None:
    data = f.encode(f.Envelope(SESSION, f.INT_MAX, message))
    assert len(data) <= FRAMES_MESSAGE_BYTES_MAX
    assert f.decode(data).message == message


@given(st.binary(max_size=300))
def test_any_bytes_give_an_envelope_or_an_error(data: bytes) -> None:
    with contextlib.suppress(RemoteWireError):
        f.decode(data)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.binary(max_size=20)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(MESSAGES, st.data())
def test_a_field_that_is_changed_gives_another_envelope_or_an_error(
    message: f.FrameMessage, data: st.DataObject
) -> None:
    found: list[Any] = msgpack.unpackb(f.encode(f.Envelope(SESSION, 1, message)))
    at = data.draw(st.integers(0, len(found)))
    found[at : at + data.draw(st.integers(0, 1))] = data.draw(st.lists(VALUES, max_size=2))
    with contextlib.suppress(RemoteWireError):
        f.decode(msgpack.packb(found))


@pytest.mark.parametrize(
    "message",
    [
        f.InputBatch(0, ((0, b"x"),)),
        f.InputBatch(1, ()),
        f.InputBatch(1, ((0, b""),)),
        f.InputBatch(1, ((f.NICS_MAX, b"x"),)),
        f.InputBatch(1, ((0, bytes(FRAME_BYTES_MAX + 1)),)),
        f.OutputBatch(1, 0, ((0, bytes(FRAMES_BATCH_BYTES_MAX)), (0, b"x"))),
        f.OutputBatch(1, 0, ((0, b"x"),) * (f.BATCH_FRAMES_MAX + 1)),
        f.ShiftTold(1, 1, b"", 0, 0),
        f.ShiftTold(1, 1, bytes(f.KEY_BYTES_MAX + 1), 0, 0),
        f.ShiftTold(1, 1, b"k", 1 << 32, 0),
        f.LastingShifts(True, ((b"k", 0, 0),) * (f.SHIFTS_MAX + 1)),
        f.InputsLogged(-1),
        f.ShiftsKnown(f.INT_MAX + 1),
    ],
    ids=f.kind_of,
)
def test_what_is_out_of_bounds_is_refused_on_both_sides(message: f.FrameMessage) -> None:
    with pytest.raises(LocalWireError):
        f.encode(f.Envelope(SESSION, 1, message))
    values = [getattr(message, one.name) for one in fields(message)]
    with pytest.raises(RemoteWireError):
        f.decode(msgpack.packb([f.kind_of(message), SESSION, 1, *values]))


@pytest.mark.parametrize(
    "found",
    [
        ["inputs-logged", bytes(15), 1, 5],
        ["inputs-logged", SESSION, 0, 5],
        ["hello", SESSION, 1, 5],
        [7, SESSION, 1, 5],
        ["inputs-logged", SESSION, 1],
        ["inputs-logged", SESSION, 1, 5, 6],
        ["inputs-logged", SESSION],
        [],
        {"kind": "inputs-logged", "session": SESSION, "number": 1, "upto": 5},
    ],
)
def test_a_broken_envelope_is_refused(found: object) -> None:
    with pytest.raises(RemoteWireError):
        f.decode(msgpack.packb(found))


def test_a_field_that_is_not_in_order_is_named() -> None:
    with pytest.raises(RemoteWireError, match="field upto: "):
        f.decode(msgpack.packb(["inputs-logged", SESSION, 1, "5"]))


def test_a_message_that_is_too_large_is_not_even_read() -> None:
    with pytest.raises(RemoteWireError, match="larger"):
        f.decode(bytes(FRAMES_MESSAGE_BYTES_MAX + 1))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, FRAME_BYTES_MAX)), max_size=40))
def test_batches_hold_all_frames_in_order_and_fit(sizes: list[tuple[int, int]]) -> None:
    rows = [(nic, bytes(size)) for nic, size in sizes]
    cut = list(f.batches(rows))
    assert [row for batch in cut for row in batch] == rows
    for batch in cut:
        f.encode(f.Envelope(SESSION, f.INT_MAX, f.InputBatch(f.INT_MAX, batch)))


def opened() -> tuple[f.FrameNumbers, f.FrameNumbers]:
    primary, secondary = f.FrameNumbers(SESSION, is_primary=True), f.FrameNumbers(SESSION, is_primary=False)
    secondary.take(primary.wrap(f.OpenFrames()))
    primary.take(secondary.wrap(f.FramesOpen()))
    return primary, secondary


@given(st.lists(TO_SECONDARY, max_size=10))
def test_messages_are_taken_in_their_order(messages: list[f.FrameMessage]) -> None:
    primary, secondary = opened()
    assert [secondary.take(primary.wrap(message)) for message in messages] == messages


@given(st.integers(0, 4), st.sampled_from(["lost", "twice", "exchanged"]))
def test_a_message_that_is_missing_or_in_another_place_is_noticed(place: int, harm: str) -> None:
    primary, secondary = opened()
    sent = [primary.wrap(f.InputBatch(seq, ((0, b"x"),))) for seq in range(1, 7)]
    if harm == "lost":
        del sent[place]
    elif harm == "twice":
        sent.insert(place, sent[place])
    else:
        sent[place], sent[place + 1] = sent[place + 1], sent[place]
    with pytest.raises(RemoteWireError, match="came after"):
        for data in sent:
            secondary.take(data)


def test_another_session_is_dropped_and_changes_nothing() -> None:
    primary, secondary = opened()
    other = f.FrameNumbers(bytes(16), is_primary=True)
    assert secondary.take(other.wrap(f.OpenFrames())) is None
    assert secondary.stale == 1
    message = f.InputBatch(1, ((0, b"x"),))
    assert secondary.take(primary.wrap(message)) == message


def test_directions_and_openings_are_checked() -> None:
    primary, secondary = opened()
    with pytest.raises(LocalWireError):
        primary.wrap(f.InputsLogged(1))
    wrong = f.encode(f.Envelope(SESSION, 2, f.InputsLogged(1)))
    with pytest.raises(RemoteWireError, match="direction"):
        secondary.take(wrong)
    with pytest.raises(RemoteWireError, match="opened once"):
        secondary.take(primary.wrap(f.OpenFrames()))
    fresh = f.FrameNumbers(SESSION, is_primary=False)
    early = replace(f.Envelope(SESSION, 1, f.InputBatch(1, ((0, b"x"),))))
    with pytest.raises(RemoteWireError, match="opened once"):
        fresh.take(f.encode(early))
