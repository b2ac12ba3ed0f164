"""Our own messages: what is encoded comes back, and nothing else passes."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import LocalWireError, RemoteWireError
from replicator.limits import FRAME_BYTES_MAX, MESSAGE_BYTES_MAX, PART_BYTES_MAX
from replicator.wire import session as s

SESSION = bytes(range(16))
DIGEST = bytes(range(16, 32))
GUEST = s.GuestRecord(
    name="redis",
    uuid="0b1e4a5c-0000-4000-8000-000000000001",
    ram_bytes=256 << 20,
    layout=((0, 0, 1000), (0x100000, 1000, 64536)),
    machine="microvm/max/7.2",
    disks=(("root", "sha256:00ff"),),
    macs=("52:54:00:00:00:01",),
)
EXAMPLES: list[s.Message] = [
    s.Hello(s.PROTOCOL_VERSION, "host-a", GUEST, 3, SESSION, 2),
    s.KeyShare(bytes(range(32)), bytes(range(32, 64))),
    s.HelloReply("host-b", True, "", "", 3, SESSION, 17, DIGEST),
    s.HelloReply(
        "host-b", False, s.Refusal.WRONG_GUEST, "256 MiB here, 512 MiB there", 3, s.NO_SESSION, 0, s.NO_DIGEST
    ),
    s.EpochBegin(SESSION, 3, 18, 17),
    s.EpochPart(SESSION, 18, 0, PART_BYTES_MAX),
    s.EpochEnd(SESSION, 18, 5, 9_000_000, DIGEST, 77),
    s.Ack(SESSION, 18, DIGEST),
    s.Abort(SESSION, 18, "wrong-digest", "part 3"),
    s.InputFrames(SESSION, 1, (60, FRAME_BYTES_MAX)),
    s.CheckpointNew(SESSION, 18),
    s.CheckpointWord(SESSION, 18, 16, bytes(16)),
    s.StandDown(3, "stopped by the operator"),
    s.HandOver(SESSION, 3, 18),
    s.HandOverReply(SESSION, 18, False, "no standby", 3),
    s.Heartbeat("host-a", "primary", 3, 1, 18, 1_000_000, 0),
]
BY_KIND = pytest.mark.parametrize("message", EXAMPLES, ids=[s.kind_of(one) for one in EXAMPLES])


def as_map(message: s.Message) -> dict[str, Any]:
    found = msgpack.unpackb(s.encode(message), use_list=True)
    assert isinstance(found, dict)
    return found


@BY_KIND
def test_what_is_encoded_comes_back(message: s.Message) -> None:
    assert s.decode(s.encode(message)) == message
    assert s.decode(memoryview(s.encode(message)), s.channel_of(message)) == message


def test_every_kind_has_an_example() -> None:
    assert {type(one) for one in EXAMPLES} == set(s.Message.__args__)


@BY_KIND
def test_each_field_is_needed_and_no_other_allowed(message: s.Message) -> None:
    for name in as_map(message):
        short = {key: value for key, value in as_map(message).items() if key != name}
        with pytest.raises(RemoteWireError, match=f"missing: '{name}'" if name != "kind" else "unknown kind"):
            s.decode(msgpack.packb(short))
    with pytest.raises(RemoteWireError, match=rf"foreign: 'color'.* in {s.kind_of(message)}"):
        s.decode(msgpack.packb(as_map(message) | {"color": 1}))


@BY_KIND
def test_each_field_has_a_type(message: s.Message) -> None:
    for one in fields(message):
        for foreign in (1.5, None, {"a": 1}, msgpack.ExtType(1, b""), msgpack.Timestamp(1)):
            with pytest.raises(RemoteWireError, match=f"field {one.name}: .* in {s.kind_of(message)}"):
                s.decode(msgpack.packb(as_map(message) | {one.name: foreign}))


@BY_KIND
def test_integers_have_a_range(message: s.Message) -> None:
    for name, value in as_map(message).items():
        if type(value) is int and name != "protocol_version":
            for wrong in (-1, 1 << 63, True):
                with pytest.raises(RemoteWireError, match=f"field {name}"):
                    s.decode(msgpack.packb(as_map(message) | {name: wrong}))


@BY_KIND
def test_a_cut_message_is_refused(message: s.Message) -> None:
    data = s.encode(message)
    for cut in range(len(data)):
        with pytest.raises(RemoteWireError):
            s.decode(data[:cut])
    with pytest.raises(RemoteWireError, match="not a msgpack message"):
        s.decode(data + b"\0")


@BY_KIND
def test_a_message_stays_on_its_channel(message: s.Message) -> None:
    for channel in s.Channel:
        if channel is not s.channel_of(message):
            with pytest.raises(RemoteWireError, match=f"does not belong on the {channel.value} channel"):
                s.decode(s.encode(message), channel)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_message_or_an_error(data: bytes) -> None:
    try:
        s.decode(data)
    except RemoteWireError as error:
        assert str(error).isprintable()


@given(st.sampled_from(EXAMPLES), st.data())
def test_changed_bytes_give_a_message_or_an_error(message: s.Message, data: st.DataObject) -> None:
    raw = bytearray(s.encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        changed = s.decode(bytes(raw))
    except RemoteWireError as error:
        assert str(error).isprintable()
    else:
        assert s.decode(s.encode(changed)) == changed


def test_other_versions_are_named_before_the_rest_is_read() -> None:
    future = {"kind": "hello", "protocol_version": 9, "something": "new"}
    with pytest.raises(s.OtherVersion, match="version 9, this side 4") as caught:
        s.decode(msgpack.packb(future))
    assert caught.value.peer_version == 9
    assert caught.value.hint


def test_oversized_messages_are_refused_both_ways() -> None:
    with pytest.raises(RemoteWireError, match="larger than"):
        s.decode(bytes(MESSAGE_BYTES_MAX + 1))
    disks = tuple((f"{i}" + "\U0001f4be" * 250, "\U0001f4be" * 255) for i in range(64))
    with pytest.raises(LocalWireError, match="more than 65536 in hello"):
        s.encode(s.Hello(1, "a", replace(GUEST, disks=disks), 1, SESSION, 1))


def test_encoding_checks_what_decoding_would_refuse() -> None:
    with pytest.raises(LocalWireError, match="field session: 3 bytes instead of 16 in ack"):
        s.encode(s.Ack(b"abc", 1, DIGEST))
    with pytest.raises(LocalWireError, match="field epoch"):
        s.encode(s.EpochBegin(SESSION, 1, 0, 0))
    with pytest.raises(LocalWireError, match="field guest: field macs"):
        s.encode(s.Hello(1, "a", replace(GUEST, macs=("nonsense",)), 1, SESSION, 1))


def test_a_key_that_stands_twice_is_refused() -> None:
    pair = msgpack.packb("term") + msgpack.packb(1)
    with pytest.raises(RemoteWireError, match="'term' stands twice"):
        s.decode(b"\x82" + pair + pair)


def test_a_reply_refuses_exactly_when_it_does_not_accept() -> None:
    reply = EXAMPLES[2]
    assert isinstance(reply, s.HelloReply)
    for wrong in (replace(reply, accepted=False), replace(reply, refusal="busy")):
        with pytest.raises(LocalWireError, match="refusal"):
            s.encode(wrong)


def test_payloads_must_have_the_announced_size() -> None:
    part = s.EpochPart(SESSION, 1, 0, 100)
    s.check_payload(part, 100)
    for wrong in (None, 0, 99, 101):
        with pytest.raises(RemoteWireError, match="100 bytes must come in epoch-part"):
            s.check_payload(part, wrong)
    s.check_payload(s.EpochBegin(SESSION, 1, 1, 0), None)
    with pytest.raises(RemoteWireError, match="payload of 0 bytes where no bytes must come"):
        s.check_payload(s.EpochBegin(SESSION, 1, 1, 0), 0)


def test_input_frames_are_bounded_and_split_where_they_were_joined() -> None:
    frames = [b"a" * 60, b"b" * 1514, b"c"]
    message = s.InputFrames(SESSION, 4, tuple(map(len, frames)))
    payload = b"".join(frames)
    s.check_payload(message, len(payload))
    assert [bytes(one) for one in s.split_frames(message, memoryview(payload))] == frames
    for lengths in ((), (0,), (FRAME_BYTES_MAX + 1,), (1,) * (s.FRAMES_MAX + 1), (FRAME_BYTES_MAX,) * 5):
        with pytest.raises(LocalWireError):
            s.encode(s.InputFrames(SESSION, 1, lengths))


def test_texts_for_people_are_made_printable_and_cut() -> None:
    sent = s.Abort(SESSION, 1, "store-failed", "line one\nline two\x1b[31m" + "x" * 5000)
    got = s.decode(s.encode(sent))
    assert isinstance(got, s.Abort)
    assert got.detail.startswith("line one line two [31mx")
    assert len(got.detail) == s.TEXT_CHARS_MAX
    raw = as_map(replace(sent, detail="")) | {"detail": "\x07" * 2000}
    got = s.decode(msgpack.packb(raw))
    assert isinstance(got, s.Abort)
    assert got.detail == " " * s.TEXT_CHARS_MAX
