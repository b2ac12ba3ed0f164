"""Seals of the frames' channel: what one side seals the other opens, in order, once, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import InvariantError, RemoteWireError
from replicator.link.record_seal import SALT_BYTES, SEAL_BYTES, RecordSeal

SECRET = bytes(range(16))
SALTS = bytes(SALT_BYTES), bytes([1]) * SALT_BYTES


def make_ends(
    secrets: tuple[bytes, bytes] = (SECRET, SECRET), salts: tuple[bytes, bytes] = SALTS
) -> tuple[RecordSeal, RecordSeal]:
    ends = (
        RecordSeal(secrets[0], salts[0], is_dialler=True),
        RecordSeal(secrets[1], salts[1], is_dialler=False),
    )
    ends[0].agree(ends[1].salt)
    ends[1].agree(ends[0].salt)
    return ends


@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=100))))
def test_what_is_sealed_opens_in_order(messages: list[tuple[bool, bytes]]) -> None:
    ends = make_ends()
    for is_dialler, message in messages:
        sender, taker = ends if is_dialler else ends[::-1]
        record = sender.seal(message)
        assert len(record) == len(message) + SEAL_BYTES
        assert taker.open(record) == message


@given(st.binary(max_size=60), st.data())
def test_what_was_changed_does_not_open(message: bytes, data: st.DataObject) -> None:
    ends = make_ends()
    record = bytearray(ends[0].seal(message))
    record[data.draw(st.integers(0, len(record) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(RemoteWireError, match="changed"):
        ends[1].open(bytes(record))


def test_no_message_opens_twice_early_or_in_its_own_direction() -> None:
    ends = make_ends()
    first, second = ends[0].seal(b"first"), ends[0].seal(b"second")
    for wrong in (second, b"", first[:-1]):
        with pytest.raises(RemoteWireError):
            ends[1].open(wrong)
    with pytest.raises(RemoteWireError):
        ends[0].open(first)
    assert ends[1].open(first) == b"first"
    with pytest.raises(RemoteWireError):
        ends[1].open(first)


def test_keys_are_of_one_secret_and_one_connection() -> None:
    record = make_ends()[0].seal(b"message")
    others = (
        make_ends(secrets=(bytes(16), bytes(16))),
        make_ends(salts=(SALTS[0], bytes([2]) * SALT_BYTES)),
        make_ends(salts=(bytes([2]) * SALT_BYTES, SALTS[1])),
    )
    for ends in others:
        with pytest.raises(RemoteWireError):
            ends[1].open(record)


@pytest.mark.parametrize("salt", [b"", bytes(SALT_BYTES - 1), SALTS[0]])
def test_a_connection_begins_with_a_salt_of_the_other_side(salt: bytes) -> None:
    with pytest.raises(RemoteWireError, match="salt"):
        RecordSeal(SECRET, SALTS[0], is_dialler=True).agree(salt)


def test_nothing_is_sealed_or_opened_before_that() -> None:
    seal = RecordSeal(SECRET, SALTS[0], is_dialler=True)
    assert not seal.is_agreed
    for use in (seal.seal, seal.open):
        with pytest.raises(InvariantError):
            use(b"message")
