"""Streams in other framings and of older versions: nothing of the guest is lost, and what is written is strict."""

from __future__ import annotations

from contextlib import suppress
from itertools import product

import pytest
from wire_vectors import SCENES, STREAMS, join, load_stream, load_xl_header

from replicator.errors import LocalWireError, TruncatedStream
from replicator.wire import decode_stream, verify_stream, xl
from replicator.wire.any_decoder import AnyDecoder
from replicator.wire.layout import XL_HANDSHAKE_GO
from replicator.wire.records import (
    CheckpointEnd,
    EmulatorContext,
    EmulatorXenstoreData,
    ImageHeader,
    LibxcContext,
    LibxlEnd,
    LibxlHeader,
    Record,
    StaticDataEnd,
    XlHeader,
)
from replicator.wire.rewrite import Framing, Rewriter

LIBXL_ONLY = (LibxlHeader, LibxcContext, CheckpointEnd, LibxlEnd, EmulatorContext, EmulatorXenstoreData)
WHOLE = [name for name in SCENES if "back channel" not in name]


def rewrite(data: bytes, rewriter: Rewriter) -> bytes:
    """The whole stream; what it lacks at its end is not written either."""
    decoder = AnyDecoder()
    parts = [bytes(part) for item in decoder.feed(data) for part in rewriter.write(item)]
    with suppress(TruncatedStream):
        parts += [bytes(part) for item in decoder.finish() for part in rewriter.write(item)]
    return b"".join(parts)


def libxc_part(data: bytes) -> list[Record]:
    """What a libxc stream has of it, as version 3."""
    records = [record for record in decode_stream(data) if not isinstance(record, LIBXL_ONLY)]
    return [ImageHeader(3) if isinstance(record, ImageHeader) else record for record in records]


@pytest.mark.parametrize("stream", STREAMS)
def test_real_streams_come_back_byte_by_byte(stream: str) -> None:
    data = load_xl_header(stream.partition(".")[0]) + load_stream(stream)
    assert data.startswith(rewrite(data, Rewriter()))
    assert rewrite(load_stream(stream), Rewriter()) == rewrite(data, Rewriter(Framing.LIBXL))


@pytest.mark.parametrize(("scene", "framing"), [*product(WHOLE, Framing)])
def test_every_framing_keeps_the_guest(scene: str, framing: Framing) -> None:
    data = join(SCENES[scene])
    if "colo" in scene and framing is Framing.LIBXC:
        with pytest.raises(LocalWireError, match="COLO needs libxl"):
            rewrite(data, Rewriter(framing, drop_device_model=True))
        return
    rewriter = Rewriter(framing, drop_device_model=True)
    written = rewrite(data, rewriter)
    bare = written.removeprefix(xl.encode(xl.make_header(None, is_json=True)))
    assert (len(bare) < len(written)) is (framing is Framing.XL)
    without_static_end = [r for r in libxc_part(bare) if not isinstance(r, StaticDataEnd)]
    assert without_static_end == [r for r in libxc_part(data) if not isinstance(r, StaticDataEnd)]
    kept = [r for r in decode_stream(data) if isinstance(r, EmulatorContext | EmulatorXenstoreData)]
    found = [r for r in decode_stream(bare) if isinstance(r, EmulatorContext | EmulatorXenstoreData)]
    assert found == ([] if framing is Framing.LIBXC else kept)
    assert sum(rewriter.dropped.values()) == len(kept) - len(found)


@pytest.mark.parametrize("scene", ["pv 32 bit, version 2", "hvm, version 2, bare libxc"])
@pytest.mark.parametrize("framing", [Framing.LIBXC, Framing.LIBXL])
def test_version_2_becomes_a_strict_version_3(scene: str, framing: Framing) -> None:
    written = rewrite(join(SCENES[scene]), Rewriter(framing))
    assert verify_stream([written]).version == 3


def test_a_version_2_stream_that_has_a_static_end_keeps_one() -> None:
    names = "image_header_v2 domain_header_hvm static_data_end page_data_hvm hvm_params hvm_context end"
    records = list(decode_stream(rewrite(join(names), Rewriter()), strict=True))
    assert sum(isinstance(record, StaticDataEnd) for record in records) == 1


def test_the_device_model_is_lost_only_on_demand() -> None:
    with pytest.raises(LocalWireError, match="no place for the device model") as caught:
        rewrite(load_stream("hvm1.save"), Rewriter(Framing.LIBXC))
    assert "--drop-device-model" in caught.value.hint


def test_a_configuration_can_be_given() -> None:
    header = xl.make_header(b'{"c_info": {}}', is_json=True)
    written = rewrite(load_stream("hvm1.save"), Rewriter(xl_header=header))
    first = next(AnyDecoder().feed(written))
    assert first == header
    replaced = rewrite(load_xl_header("hvm1") + load_stream("hvm1.save"), Rewriter(xl_header=header))
    assert replaced == written


def test_what_is_left_out_is_counted() -> None:
    data = load_xl_header("pv1") + load_stream("pv1.save") + XL_HANDSHAKE_GO
    rewriter = Rewriter(Framing.LIBXL)
    assert rewrite(data, rewriter) == load_stream("pv1.save")
    assert rewriter.dropped == {XlHeader.NAME: 1, "migration handshake": 1}
