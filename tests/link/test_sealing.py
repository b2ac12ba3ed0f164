"""What is sealed opens once, in its order, under its own key; nothing else opens."""

from __future__ import annotations

import random
from dataclasses import replace

import gcm_reference
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from link_tools import ANSWER, GUEST, HELLO
from sealing_tools import KEYS, make_opener, make_sealer

from replicator.errors import RemoteWireError
from replicator.limits import MESSAGE_BYTES_MAX, PART_BYTES_MAX
from replicator.link.sealing import (
    KEY_ID_BYTES,
    OLD_KEYS_MAX,
    OVERHEAD_BYTES,
    TAG_BYTES,
    ForeignMessage,
    KeyExhausted,
    Opener,
    StaleMessage,
    StreamBroken,
    derive_keys,
    hkdf_sha256,
)
from replicator.link.sockets import SEALING_BYTES
from replicator.wire.session import NO_SHARE

HEADERS = st.binary(min_size=1, max_size=80)
PAYLOADS = st.none() | st.binary(max_size=300)
MESSAGES = st.lists(st.tuples(HEADERS, PAYLOADS), min_size=1, max_size=6)


def opened(frames: list[memoryview]) -> tuple[bytes, bytes | None]:
    return bytes(frames[0]), bytes(frames[1]) if len(frames) == 2 else None


# What is assembled is what it is called.


@pytest.mark.parametrize(
    ("secret", "salt", "info", "expected"),
    [
        (
            b"\x0b" * 22,
            bytes(range(13)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
            "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
        ),
        (
            b"\x0b" * 22,
            None,
            b"",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
    ids=["RFC 5869 A.1", "RFC 5869 A.2", "RFC 5869 A.3"],
)
def test_keys_are_drawn_by_hkdf(secret: bytes, salt: bytes | None, info: bytes, expected: str) -> None:
    wanted = bytes.fromhex(expected)
    assert hkdf_sha256(secret, info=info, size=len(wanted), salt=salt) == wanted


@pytest.mark.parametrize(
    ("key", "nonce", "plain", "bound", "expected"),
    [
        ("00" * 32, "00" * 12, "", "", "530f8afbc74536b9a963b4f1c4cb738b"),
        (
            "00" * 32,
            "00" * 12,
            "00" * 16,
            "",
            "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919",
        ),
        (
            "feffe9928665731c6d6a8f9467308308" * 2,
            "cafebabefacedbaddecaf888",
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
            "feedfacedeadbeeffeedfacedeadbeefabaddad2",
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f66276fc6ece0f4e1768cddf8853bb2d551b",
        ),
    ],
    ids=["13", "14", "16"],
)
def test_the_oracle_keeps_to_the_test_cases_of_gcm(
    key: str, nonce: str, plain: str, bound: str, expected: str
) -> None:
    """Numbers are those of the GCM specification that was submitted to NIST, appendix B."""
    found = gcm_reference.seal(*map(bytes.fromhex, (key, nonce, plain, bound)))
    assert found.hex() == expected


@settings(max_examples=25, deadline=None)
@given(MESSAGES)
def test_a_message_is_sealed_as_the_oracle_seals_it(messages: list[tuple[bytes, bytes | None]]) -> None:
    sealer = make_sealer()
    for number, (header, payload) in enumerate(messages):
        place = number.to_bytes(8, "big")
        start = KEYS.key_id + place
        lane = b"\0\0\0\0" if payload is None else b"\0\0\0\1"
        first = start + gcm_reference.seal(KEYS.key, lane + place, header, start)
        second = (
            [] if payload is None else [gcm_reference.seal(KEYS.key, b"\0\0\0\2" + place, payload, first)]
        )
        assert [bytes(frame) for frame in sealer.seal(header, payload)] == [first, *second]


def test_the_form_of_a_sealed_message() -> None:
    """Golden: a change here is a change of the protocol."""
    assert KEYS.key.hex() == "1b59c730e2f210fe0fbe447b8c8627e14629f9082d4c64b69ad0041236298eb6"
    assert KEYS.key_id.hex() == "b48fa14b5accd950"
    frames = make_sealer().seal(b"header", b"payload")
    assert [bytes(frame).hex() for frame in frames] == [
        "b48fa14b5accd9500000000000000000f449af04ae414954b960e3f675ce20421a7ab8b737f7",
        "5228727838004cf1a587f87d47e5fd21880b536ac00feb",
    ]


# What opens.


@given(MESSAGES)
def test_what_is_sealed_opens_in_its_order(messages: list[tuple[bytes, bytes | None]]) -> None:
    sealer, opener = make_sealer(), make_opener()
    for header, payload in messages:
        assert opened(opener.open(sealer.seal(header, payload))) == (header, payload)


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, PART_BYTES_MAX])
def test_a_payload_is_opened_where_it_lies_if_it_may_be_written(size: int) -> None:
    payload = random.Random(size).randbytes(size)
    first, second = make_sealer().seal(b"header", payload)
    arrived = memoryview(bytearray(second))
    found = make_opener().open([first, arrived])[1]
    assert found == payload and found.readonly
    assert arrived[:size] == payload
    kept = bytes(second)
    assert make_opener().open([first, memoryview(kept)])[1] == payload
    assert kept == second


def test_frames_grow_by_what_the_sockets_allow() -> None:
    first, second = make_sealer().seal(bytes(MESSAGE_BYTES_MAX), bytes(PART_BYTES_MAX))
    assert len(first) == MESSAGE_BYTES_MAX + OVERHEAD_BYTES
    assert len(second) == PART_BYTES_MAX + TAG_BYTES <= PART_BYTES_MAX + SEALING_BYTES


# What does not.


@given(HEADERS, PAYLOADS, st.data())
def test_a_message_with_any_bit_changed_does_not_open(
    header: bytes, payload: bytes | None, data: st.DataObject
) -> None:
    frames = [bytearray(frame) for frame in make_sealer().seal(header, payload)]
    frame = data.draw(st.sampled_from(frames))
    bit = data.draw(st.integers(0, len(frame) * 8 - 1))
    frame[bit // 8] ^= 1 << bit % 8
    with pytest.raises((ForeignMessage, StreamBroken)):
        make_opener().open([memoryview(one) for one in frames])


@given(MESSAGES, st.data())
def test_a_message_out_of_its_turn_ends_the_key(
    messages: list[tuple[bytes, bytes | None]], data: st.DataObject
) -> None:
    """Left out, repeated, or late."""
    sealer, opener = make_sealer(), make_opener()
    sealed = [sealer.seal(*message) for message in [*messages, (b"one more", None)]]
    due = data.draw(st.integers(0, len(messages)))
    other = data.draw(st.integers(0, len(messages)).filter(lambda number: number != due))
    for frames in sealed[:due]:
        opener.open(frames)
    with pytest.raises(StreamBroken, match=f"number {other} when {due} was due"):
        opener.open(sealed[other])
    for frames in sealed:
        with pytest.raises(StaleMessage):
            opener.open(frames)


@given(HEADERS, st.binary(max_size=300), HEADERS)
def test_frames_of_a_message_belong_together(header: bytes, payload: bytes, alone: bytes) -> None:
    first, second = make_sealer().seal(header, payload)
    (single,) = make_sealer().seal(alone)
    third = make_sealer(derive_keys(HELLO, bytes(32))).seal(header, payload)[1]
    for frames in ([first], [single, second], [first, third], [first, first], [first, b""]):
        with pytest.raises(StreamBroken, match="changed"):
            make_opener().open(frames)
    for frames in ([], [second], [first, second, second]):
        with pytest.raises(RemoteWireError):
            make_opener().open(frames)


@pytest.mark.parametrize(
    "hello",
    [
        replace(HELLO, session=bytes(16)),
        replace(HELLO, term=2),
        replace(HELLO, guest=replace(GUEST, name="other")),
        replace(HELLO, guest=replace(GUEST, uuid="0b1e4a5c-0000-4000-8000-000000000001")),
        replace(HELLO, share=NO_SHARE),
    ],
    ids=["session", "term", "name", "UUID", "share"],
)
def test_keys_are_those_of_one_greeting(hello: object) -> None:
    assert isinstance(hello, type(HELLO))
    keys = derive_keys(hello, ANSWER.share)
    assert keys.key != KEYS.key and keys.key_id != KEYS.key_id
    with pytest.raises(ForeignMessage, match="agreed on with this side"):
        make_opener(keys).open(make_sealer().seal(b"header"))
    # Not even under the right name.
    with pytest.raises(StreamBroken, match="changed"):
        make_opener(replace(keys, key_id=KEYS.key_id)).open(make_sealer().seal(b"header"))


def test_both_sides_bring_something_new() -> None:
    assert derive_keys(HELLO, bytes(32)) != KEYS
    assert derive_keys(replace(HELLO, node="other", may_discard=True), ANSWER.share) == KEYS


def test_what_was_under_way_when_the_keys_changed_is_known_as_such() -> None:
    older = [derive_keys(HELLO, bytes([number]) * 32) for number in range(OLD_KEYS_MAX)]
    opener = make_opener(*older, KEYS)
    for keys in older:
        with pytest.raises(StaleMessage):
            opener.open(make_sealer(keys).seal(b"late"))
    assert opened(opener.open(make_sealer().seal(b"in time"))) == (b"in time", None)
    opener.renew(derive_keys(HELLO, b"x" * 32))
    with pytest.raises(ForeignMessage):
        opener.open(make_sealer(older[0]).seal(b"too old to be remembered"))


@given(st.lists(st.binary(max_size=80), max_size=4))
def test_any_frames_are_refused_and_change_nothing(frames: list[bytes]) -> None:
    sealer, opener = make_sealer(), make_opener()
    opener.open(sealer.seal(b"one"))
    with pytest.raises(ForeignMessage) as caught:
        opener.open(frames)
    assert str(caught.value).isprintable()
    assert opened(opener.open(sealer.seal(b"two", b"payload"))) == (b"two", b"payload")


@given(st.binary(max_size=80), st.lists(st.binary(max_size=80), max_size=3))
def test_any_frames_under_the_key_that_is_in_use_end_it(rest: bytes, second: list[bytes]) -> None:
    first = KEYS.key_id + rest
    with pytest.raises(StreamBroken):
        make_opener().open([first, *second])


def test_nothing_opens_before_there_are_keys() -> None:
    with pytest.raises(ForeignMessage):
        Opener().open(make_sealer().seal(b"header"))


# The end of a key.


def test_a_key_that_has_sealed_enough_seals_no_more() -> None:
    sealer = make_sealer(messages_max=3)
    for _ in range(3):
        sealer.seal(b"header")
    for _ in range(2):
        with pytest.raises(KeyExhausted):
            sealer.seal(b"header")


def test_a_key_is_shown_to_nobody() -> None:
    assert KEYS.key.hex() not in repr(KEYS) and repr(KEYS.key) not in repr(KEYS)
    assert len(KEYS.key_id) == KEY_ID_BYTES
