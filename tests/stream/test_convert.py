"""Every legacy stream becomes a strictly valid one of today that is the same guest, from files and from pipes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from legacy_maker import MATRIX, XALLOC, XTAB, Checkpoint, LegacyStream, Shape, make_stream
from legacy_reader import replay

from replicator.errors import FileAccessError, UnknownMandatoryRecord
from replicator.stream.bases import bases_for
from replicator.stream.convert import Converter, convert_into, open_decoder
from replicator.stream.image import GuestImage, Pages
from replicator.stream.restore_point import read_to_checkpoint
from replicator.stream.sink import Sink
from replicator.stream.source import Source
from replicator.units import PAGE_SIZE
from replicator.wire import decode_stream, layout, verify_stream, xl
from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.legacy import TmemPolicy
from replicator.wire.records import XlHeader
from replicator.wire.rewrite import Framing, Rewriter

each_shape = pytest.mark.parametrize("shape", MATRIX, ids=str)
COMPRESSED = next(shape for shape in MATRIX if shape.is_compressed)


@pytest.fixture
def made(shape: Shape, tmp_path: Path) -> tuple[LegacyStream, Path]:
    stream = make_stream(shape)
    path = tmp_path / "legacy"
    path.write_bytes(stream.data)
    return stream, path


def convert(source: Source, out: Path, spool: str | None = None, rewriter: Rewriter | None = None) -> bytes:
    reading = ReadOptions()
    converter = Converter(open_decoder(source, reading, spool), rewriter or Rewriter())
    with Sink(str(out)) as sink:
        convert_into(source, converter, sink)
        sink.commit()
    return out.read_bytes()


@contextmanager
def piped(data: bytes) -> Iterator[Source]:
    """The same through a pipe, which can be read only once."""
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as file:
            file.write(data)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with Source(f"/dev/fd/{reading}") as source:
            os.close(reading)
            yield source
    finally:
        writer.join()


@each_shape
def test_the_matrix(made: tuple[LegacyStream, Path], shape: Shape, tmp_path: Path) -> None:
    stream, path = made
    with Source(str(path)) as source:
        written = convert(source, tmp_path / "out")
    report = verify_stream([written])
    assert report.version == 3
    assert report.checkpoints == (len(stream.checkpoints) if shape.is_remus else 0)
    assert replay(decode_stream(written, strict=True)) == stream.checkpoints
    with piped(stream.data) as source:
        assert convert(source, tmp_path / "piped", str(tmp_path)) == written


@each_shape
def test_every_checkpoint_of_the_matrix(made: tuple[LegacyStream, Path], shape: Shape) -> None:
    stream, path = made
    for number, truth in enumerate(stream.checkpoints, 1):
        image = GuestImage(Pages())
        reading = ReadOptions()
        with Source(str(path)) as source:
            decoder = AnyDecoder(reading, bases=bases_for(source, reading))
            builder = read_to_checkpoint(source, decoder, image, number if shape.is_remus else None)
        assert builder.state.libxl_header.converted
        memory, expected = memory_of(image), present(truth)
        assert memory.keys() == expected.keys()
        # What is only allocated keeps what it had before.
        assert {pfn: memory[pfn] for pfn in expected if expected[pfn][0] != XALLOC} == {
            pfn: page for pfn, page in expected.items() if page[0] != XALLOC
        }


def memory_of(image: GuestImage) -> dict[int, tuple[int, bytes | None]]:
    memory: dict[int, tuple[int, bytes | None]] = {}
    for batch in image.batches():
        at = 0
        for entry in batch.entries:
            kind, pfn = entry >> layout.ENTRY_TYPE_SHIFT, entry & layout.ENTRY_PFN_MASK
            page = None
            if kind not in layout.TYPES_WITHOUT_DATA:
                page, at = bytes(batch.cells[at : at + PAGE_SIZE]), at + PAGE_SIZE
            memory[pfn] = (kind, page)
    return memory


def present(truth: Checkpoint) -> dict[int, tuple[int, bytes | None]]:
    """What a guest has of the pages of a checkpoint: an unmapped one is none."""
    return {pfn: page for pfn, page in truth.pages.items() if page[0] != XTAB}


def test_a_compressed_stream_from_a_pipe_needs_a_folder(tmp_path: Path) -> None:
    with piped(make_stream(COMPRESSED).data) as source:
        with pytest.raises(UnknownMandatoryRecord, match="builds on pages of earlier ones") as caught:
            convert(source, tmp_path / "out")
        for _ in source.pieces():
            pass
    assert "--spool FOLDER" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_pages_within_the_kernel(tmp_path: Path) -> None:
    """Batches that are large enough to be copied from file to file without coming here."""
    shape = Shape(
        frames=1500, batch_most=1024, rounds=2, is_remus=True, is_compressed=True, vcpus=(0,), has_last=False
    )
    stream = make_stream(shape)
    path = tmp_path / "legacy"
    path.write_bytes(stream.data)
    with Source(str(path)) as source:
        written = convert(source, tmp_path / "out")
    assert replay(decode_stream(written, strict=True)) == stream.checkpoints
    with Source(str(tmp_path / "out")) as source:
        assert convert(source, tmp_path / "again") == written


def test_a_legacy_stream_behind_an_xl_header(tmp_path: Path) -> None:
    """As `xl save` of Xen 4.5 wrote it; today's flags stand in front of what is written."""
    stream = make_stream(MATRIX[0])
    config = xl.make_header(b'{"c_info": {"name": "old"}}', is_json=True)
    path = tmp_path / "legacy"
    path.write_bytes(xl.encode(XlHeader(True, False, 0, config.optional_data)) + stream.data)
    with Source(str(path)) as source:
        written = convert(source, tmp_path / "out")
    assert written.startswith(xl.encode(config))
    assert replay(decode_stream(written[len(xl.encode(config)) :], strict=True)) == stream.checkpoints


def test_dropped_tmem_pages_are_counted(tmp_path: Path) -> None:
    stream = make_stream(replace(MATRIX[0], has_tmem=True))
    path = tmp_path / "legacy"
    path.write_bytes(stream.data)
    converter = Converter(AnyDecoder(ReadOptions(tmem=TmemPolicy.DROP)), Rewriter(Framing.LIBXL))
    with Source(str(path)) as source, Sink(str(tmp_path / "out")) as sink:
        convert_into(source, converter, sink)
    assert converter.dropped() == {"tmem page": stream.tmem_pages}


def test_an_output_that_is_full_is_named() -> None:
    with piped(make_stream(MATRIX[0]).data) as source:
        with Sink("/dev/full") as sink, pytest.raises(FileAccessError, match="No space left on device"):
            convert_into(source, Converter(AnyDecoder(), Rewriter()), sink)
        for _ in source.pieces():
            pass
