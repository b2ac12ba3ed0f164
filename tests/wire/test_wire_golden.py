"""Golden records and real streams, whole and in pieces: to records and back to the same bytes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from wire_vectors import FORGIVEN, RECORDS, SCENES, STREAMS, RecordDecoder, join, load, load_stream

from replicator.errors import RemoteWireError, TruncatedStream
from replicator.wire import (
    StreamEncoder,
    StreamKind,
    decode_stream,
    encode_record,
    verify_stream,
)
from replicator.wire.records import PageData, Record


def kind_of(scene: str) -> StreamKind | None:
    if "back channel" in scene:
        return StreamKind.BACK_CHANNEL
    return StreamKind.COLO if "colo" in scene else None


def is_strict(scene: str) -> bool:
    return scene not in FORGIVEN


def decode_pieces(pieces: list[bytes], kind: StreamKind | None, strict: bool) -> list[Record]:
    return list(decode_stream(pieces, kind, strict=strict))


@pytest.mark.parametrize("name", RECORDS)
def test_record_encodes_to_its_golden_bytes(name: str) -> None:
    assert encode_record(RECORDS[name]) == load(name)


def test_scenes_use_every_golden_record() -> None:
    used = set(" ".join(SCENES.values()).split())
    assert used == set(RECORDS)


@pytest.mark.parametrize("scene", SCENES)
def test_scene_decodes_whole(scene: str) -> None:
    names = SCENES[scene].split()
    assert decode_pieces([join(SCENES[scene])], kind_of(scene), is_strict(scene)) == [
        RECORDS[n] for n in names
    ]


@pytest.mark.parametrize("scene", SCENES)
def test_scene_decodes_byte_by_byte(scene: str) -> None:
    data = join(SCENES[scene])
    pieces = [data[i : i + 1] for i in range(len(data))]
    expected = [RECORDS[name] for name in SCENES[scene].split()]
    assert decode_pieces(pieces, kind_of(scene), is_strict(scene)) == expected


@pytest.mark.parametrize("name", RECORDS)
def test_record_decodes_cut_at_every_offset(name: str) -> None:
    """In the shortest scene that has the record, the stream is cut once, at each offset of the record."""
    scene = min((s for s in SCENES if name in SCENES[s].split()), key=lambda s: len(join(SCENES[s])))
    names = SCENES[scene].split()
    index = names.index(name)
    before, after = join(" ".join(names[:index])), join(" ".join(names[index + 1 :]))
    record = load(name)
    for cut in range(len(record) + 1):
        decoder = RecordDecoder(kind_of(scene), strict=is_strict(scene))
        assert len(list(decoder.feed(before + record[:cut]))) == index + (cut == len(record))
        assert decoder.offset == len(before) + (cut == len(record)) * cut
        assert decoder.pending == (cut if cut < len(record) else 0)
        rest = list(decoder.feed(record[cut:] + after))
        assert rest == [RECORDS[n] for n in names[index + (cut == len(record)) :]]
        decoder.finish()


@pytest.mark.parametrize("scene", SCENES)
def test_scene_cut_short_is_truncated_except_between_rounds(scene: str) -> None:
    """A prefix is a TruncatedStream at the offset of the first record that is not whole, or ends legally."""
    names = SCENES[scene].split()
    offset = 0
    for name, following in pairwise([*names, ""]):
        size = len(load(name))
        steps = range(1, size) if size < 300 else (1, 7, 8, 9, size // 2, size - 1)
        for cut in steps:
            with pytest.raises(TruncatedStream) as caught:
                decode_pieces([join(SCENES[scene])[: offset + cut]], kind_of(scene), is_strict(scene))
            assert caught.value.offset == offset
            assert caught.value.record
        offset += size
        between_rounds = name in ("checkpoint_end", "checkpoint_state_new") or (
            name == "checkpoint" and "bare" in scene
        )
        if following and not between_rounds and "back channel" not in scene:
            with pytest.raises(TruncatedStream):
                decode_pieces([join(SCENES[scene])[:offset]], kind_of(scene), is_strict(scene))
        elif following:
            decode_pieces([join(SCENES[scene])[:offset]], kind_of(scene), is_strict(scene))


@pytest.mark.parametrize("scene", [s for s in SCENES if is_strict(s)])
def test_scene_encodes_back(scene: str) -> None:
    kind = kind_of(scene) or (StreamKind.REMUS if "checkpoint" in SCENES[scene] else StreamKind.PLAIN)
    encoder = StreamEncoder(kind)
    assert b"".join(encoder.encode(RECORDS[name]) for name in SCENES[scene].split()) == join(SCENES[scene])
    encoder.finish()


@pytest.mark.parametrize("scene", FORGIVEN)
def test_strict_mode_refuses_what_the_tolerant_forgives(scene: str) -> None:
    with pytest.raises(RemoteWireError, match="strict reading expects"):
        decode_pieces([join(SCENES[scene])], None, True)


# Real streams


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("piece_bytes", [13, 4093, 1 << 20])
def test_real_stream_decodes_and_encodes_back(name: str, piece_bytes: int) -> None:
    data = load_stream(name)
    decoder = RecordDecoder(strict=True)
    encoder = StreamEncoder(StreamKind.REMUS if "remus" in name else StreamKind.PLAIN)
    again = bytearray()
    for start in range(0, len(data), piece_bytes):
        for record in decoder.feed(data[start : start + piece_bytes]):
            again += encoder.encode(record)
    assert len(again) == len(data) - decoder.pending
    assert data.startswith(again)
    assert bool(decoder.pending) == (name == "pv1.remus-50ms")


@pytest.mark.parametrize("name", STREAMS)
def test_real_pages_come_with_their_entries(name: str) -> None:
    """The page of each entry was replaced by the entry, repeated: pages and entries must pair up."""
    decoder = RecordDecoder()
    pages = [record for record in decoder.feed(load_stream(name)) if isinstance(record, PageData)]
    assert pages
    for record in pages:
        with_data = [e for e in record.entries if e >> 60 < 0xD]
        ends = [record.pages[end - 8 : end] for end in range(4096, len(record.pages) + 1, 4096)]
        assert ends == [e.to_bytes(8, "little") for e in with_data]
        assert list(record.pfns) == [e & ((1 << 52) - 1) for e in record.entries]


def test_verify_reports_what_real_streams_hold() -> None:
    report = verify_stream([load_stream("hvm1.remus-50ms")])
    assert (report.kind, report.version, report.xen_version) == (StreamKind.REMUS, 3, (4, 17))
    assert (report.checkpoints, report.records["EMULATOR_CONTEXT"], report.device_state_bytes) == (4, 4, 6128)
    assert report.discarded_bytes == 0
    assert report.usable_bytes == len(load_stream("hvm1.remus-50ms"))
    assert not report.is_qemu_recording
    plain = verify_stream([load_stream("pv1.save")])
    assert (plain.kind, plain.checkpoints, plain.records["X86_PV_VCPU_XSAVE"]) == (StreamKind.PLAIN, 0, 1)


def test_verify_of_a_stream_that_breaks_off() -> None:
    data = load_stream("pv1.remus-50ms")
    with pytest.raises(TruncatedStream) as caught:
        verify_stream([data])
    report = verify_stream([data], strict=False)
    assert report.checkpoints == 2
    assert report.usable_bytes == caught.value.offset
    assert report.usable_bytes + report.discarded_bytes == len(data)
    before_first_checkpoint = data[: data.index(bytes([14, 0, 0, 0, 0, 0, 0, 0]))]
    with pytest.raises(TruncatedStream):
        verify_stream([before_first_checkpoint], strict=False)
