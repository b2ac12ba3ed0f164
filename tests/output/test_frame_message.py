"""The native core's messages of the frame channel against `wire.frames`."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from replicator._native import ffi, lib
from replicator.errors import RemoteWireError
from replicator.wire import frames as wire

KINDS = {
    lib.RP_MESSAGE_INPUT_BATCH: wire.InputBatch,
    lib.RP_MESSAGE_OUTPUT_BATCH: wire.OutputBatch,
    lib.RP_MESSAGE_INPUTS_LOGGED: wire.InputsLogged,
}
NUMBERS = st.one_of(
    st.integers(1, 300), st.integers(1, wire.INT_MAX), st.sampled_from([127, 128, 255, 256, 1 << 16, 1 << 32])
)
FRAMES = st.lists(st.tuples(st.integers(0, 31), st.binary(min_size=1, max_size=300)), min_size=1, max_size=20)
MESSAGES = st.one_of(
    st.builds(wire.InputBatch, NUMBERS, FRAMES.map(tuple)),
    st.builds(wire.OutputBatch, NUMBERS, st.one_of(st.just(0), NUMBERS), FRAMES.map(tuple)),
    st.builds(wire.InputsLogged, NUMBERS),
)
ENVELOPES = st.builds(wire.Envelope, st.binary(min_size=16, max_size=16), NUMBERS, MESSAGES)
OTHERS = st.one_of(
    st.just(wire.OpenFrames()),
    st.builds(wire.ShiftsKnown, NUMBERS),
    st.builds(wire.ShiftTold, NUMBERS, NUMBERS, st.just(b"key"), st.just(1), st.just(2)),
)


def read(data: bytes) -> tuple[wire.Envelope | None, Any]:
    """What the core makes of it, and its struct."""
    found = ffi.new("struct rp_message *")
    given_bytes = ffi.from_buffer("uint8_t[]", data)
    kind = lib.rp_message_read(given_bytes, len(data), found)
    if kind == lib.RP_MESSAGE_OTHER:
        return None, found
    rows = tuple((row.nic, ffi.buffer(row.data, row.size)[:]) for row in found.rows[0 : found.row_count])
    fields: dict[Any, tuple[Any, ...]] = {
        wire.InputBatch: (found.seq, rows),
        wire.OutputBatch: (found.epoch, found.seq, rows),
        wire.InputsLogged: (found.seq,),
    }
    cls = KINDS[kind]
    return wire.Envelope(ffi.buffer(found.session)[:], found.number, cls(*fields[cls])), found


@given(ENVELOPES)
def test_messages_are_read_and_written_as_the_codec_does(envelope: wire.Envelope) -> None:
    data = wire.encode(envelope)
    seen, struct = read(data)
    assert seen == envelope
    room = ffi.new("uint8_t[]", len(data))
    assert lib.rp_message_write(struct, room, len(data)) == len(data)
    assert ffi.buffer(room)[:] == data
    assert lib.rp_message_write(struct, room, len(data) - 1) == 0


@given(st.binary(min_size=16, max_size=16), NUMBERS, OTHERS)
def test_other_messages_are_the_codecs(session: bytes, number: int, message: wire.FrameMessage) -> None:
    assert read(wire.encode(wire.Envelope(session, number, message)))[0] is None


@given(ENVELOPES, st.data())
def test_what_it_takes_the_codec_takes_alike(envelope: wire.Envelope, data: st.DataObject) -> None:
    changed = bytearray(wire.encode(envelope))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        match data.draw(st.sampled_from(["set", "cut", "add"])):
            case "set":
                changed[at] = data.draw(st.integers(0, 255))
            case "cut" if len(changed) > 1:
                del changed[at]
            case _:
                changed.insert(at, data.draw(st.integers(0, 255)))
    check(bytes(changed))


@given(st.binary(max_size=200))
def test_any_bytes_are_for_the_codec(data: bytes) -> None:
    check(data)


def check(data: bytes) -> None:
    seen, _ = read(data)
    if seen is None:
        return
    try:
        assert wire.decode(data) == seen
    except RemoteWireError as error:
        raise AssertionError(f"taken, and the codec says: {error}") from error


def frames(*sizes: int) -> tuple[tuple[int, bytes], ...]:
    return tuple((0, bytes(size)) for size in sizes)


def test_the_bounds_are_the_codecs() -> None:
    for rows in (frames(65_536), frames(32_768, 32_768), frames(*[1] * 256)):
        envelope = wire.Envelope(bytes(16), 1, wire.InputBatch(1, rows))
        assert read(wire.encode(envelope))[0] == envelope
    packed = wire.msgpack.packb
    for rows in (frames(65_537), frames(32_768, 32_769), frames(*[1] * 257), (), ((32, b"x"),), ((0, b""),)):
        data = packed(("input-batch", bytes(16), 1, 1, rows), use_bin_type=True)
        assert read(data)[0] is None
    for head in ((0, 1), (1, 0), (1 << 63, 1), (1, 1 << 63), (-1, 1)):
        data = packed(("input-batch", bytes(16), *head, frames(1)), use_bin_type=True)
        assert read(data)[0] is None
