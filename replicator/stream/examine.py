"""Examines a source: the pages of a file, which nobody judges, are passed over instead of copied."""

from __future__ import annotations

from typing import Final

from replicator.stream.bases import bases_for
from replicator.stream.restore_point import Advance
from replicator.stream.source import Source
from replicator.wire.any_decoder import ReadOptions
from replicator.wire.verify import Examiner, VerifyReport, Watch

#: Small, so that little of what could be passed over is read.
_PIECE_BYTES: Final = 128 << 10
#: Fewer bytes are read as fast as they are passed over.
_PASS_BYTES_MIN: Final = 64 << 10


def examine_source(
    source: Source,
    reading: ReadOptions,
    *,
    strict: bool,
    spool: str | None = None,
    watch: Watch | None = None,
    advance: Advance | None = None,
) -> VerifyReport:
    """Read a stream to its end; see Examiner. `advance` is told the bytes as they are read; `spool` is a folder for
    the pages of a compressed legacy stream."""
    look_back = source.look_back if source.is_file else None
    bases = bases_for(source, reading, spool)
    examiner = Examiner(reading, strict=strict, watch=watch, bases=bases, look_back=look_back)
    for piece in source.pieces(advance, _PIECE_BYTES):
        examiner.feed(piece)
        passable = examiner.passable if source.is_file else 0
        if passable >= _PASS_BYTES_MIN:
            passed = source.pass_over(passable)
            examiner.pass_over(passed)
            if advance is not None:
                advance(passed)
    return examiner.finish()
