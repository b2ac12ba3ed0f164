"""The xl header: real ones to records and back, every refusal, and what its configuration says of the guest."""

from __future__ import annotations

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_vectors import load_xl_header, patch, u32

from replicator.errors import BadHeader, LocalWireError, WireError
from replicator.limits import XL_OPTIONAL_BYTES_MAX
from replicator.wire import xl
from replicator.wire.any_decoder import AnyDecoder
from replicator.wire.faults import Strict
from replicator.wire.records import XlHeader

GUESTS = ("pv1", "pvh1", "hvm1")
#: Offsets in the fixed part.
BYTE_ORDER, MANDATORY, OPTIONAL, LENGTH = 32, 36, 40, 44


def decode(data: bytes, *, strict: bool = False) -> XlHeader:
    """The header in front of nothing else."""
    decoder = AnyDecoder(judge=Strict() if strict else None)
    header = next(item for item in decoder.feed(data + bytes(16)))
    assert isinstance(header, XlHeader)
    return header


@pytest.mark.parametrize("guest", GUESTS)
def test_real_headers_come_back_byte_by_byte(guest: str) -> None:
    data = load_xl_header(guest)
    header = decode(data, strict=True)
    assert (header.is_json, header.is_stream_v2, header.optional_flags) == (True, True, 0)
    assert json.loads(header.config or b"")["c_info"]["name"]
    assert xl.encode(header) == data


def test_the_configuration_bounds_the_pfns_of_an_hvm_guest() -> None:
    """48 MiB, part of which lies behind the hole below 4 GiB."""
    assert xl.guest_pfn_limit(decode(load_xl_header("hvm1"))) == (4 << 30) // 4096 + (48 << 20) // 4096


@pytest.mark.parametrize(
    "config", [b"", b"[]", b"{", b'{"b_info": 1}', b'{"b_info": {"max_memkb": true}}', b"[" * 10_000, b"\xff"]
)
def test_a_configuration_that_does_not_tell_gives_no_bound(config: bytes) -> None:
    assert xl.guest_pfn_limit(xl.make_header(config, is_json=True)) is None


def test_a_text_configuration_is_kept_as_it_is() -> None:
    header = xl.make_header(b'name = "web"\n', is_json=False)
    assert decode(xl.encode(header)) == header
    assert header.config == b'name = "web"\n'


def test_no_configuration() -> None:
    header = xl.make_header(None, is_json=True)
    assert decode(xl.encode(header)).config is None
    with pytest.raises(BadHeader, match="expects a configuration"):
        decode(xl.encode(header), strict=True)


def test_what_newer_versions_put_behind_the_configuration_is_kept() -> None:
    header = XlHeader(True, True, 0, struct.pack("<I", 3) + b"{}\0" + b"newer")
    assert decode(xl.encode(header)) == header
    assert header.config == b"{}"


REFUSALS = {
    "magic": ({20: b"X"}, "magic"),
    "big endian": ({BYTE_ORDER: b"\1\2\3\4"}, "big endian machine"),
    "byte order": ({BYTE_ORDER: u32(7)}, "byte order mark 0x00000007 instead of 0x01020304"),
    "mandatory flags": ({MANDATORY: u32(7)}, "mandatory flags 0x7, known are 0x3"),
    "optional data": ({LENGTH: u32(XL_OPTIONAL_BYTES_MAX + 1)}, "at most"),
    "optional data of 3 bytes": ({LENGTH: u32(3)}, "a configuration needs 4"),
    "configuration": ({48: u32(5000)}, "configuration of 5000 bytes in"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name: str) -> None:
    fields, message = REFUSALS[name]
    with pytest.raises(BadHeader, match=message) as caught:
        decode(patch(load_xl_header("pv1"), fields))
    assert (caught.value.offset, caught.value.record) == (0, "xl header")


STRICT = {
    "optional flags": ({OPTIONAL: u32(1)}, "optional flags 0"),
    "no JSON": ({52: b"x"}, "JSON object"),
}


@pytest.mark.parametrize("name", STRICT)
def test_only_strict_reading_refuses(name: str) -> None:
    fields, message = STRICT[name]
    data = patch(load_xl_header("pv1"), fields)
    decode(data)
    with pytest.raises(BadHeader, match=message):
        decode(data, strict=True)


@given(
    st.booleans(), st.booleans(), st.integers(0, (1 << 32) - 1), st.binary(max_size=50), st.binary(max_size=9)
)
def test_headers_survive_writing_and_reading(
    is_json: bool, is_stream_v2: bool, flags: int, config: bytes, rest: bytes
) -> None:
    header = XlHeader(is_json, is_stream_v2, flags, struct.pack("<I", len(config)) + config + rest)
    assert decode(xl.encode(header)) == header


@pytest.mark.parametrize("data", [b"abc", struct.pack("<I", 2) + b"x", bytes(XL_OPTIONAL_BYTES_MAX + 1)])
def test_impossible_headers_are_not_written(data: bytes) -> None:
    with pytest.raises(LocalWireError):
        xl.encode(XlHeader(True, True, 0, data))


@given(st.binary(max_size=200))
def test_any_bytes_behind_the_magic_give_a_header_or_a_wire_error(data: bytes) -> None:
    decoder = AnyDecoder()
    try:
        list(decoder.feed(load_xl_header("pv1")[:32] + data))
        list(decoder.finish())
    except WireError as error:
        assert error.offset is not None
