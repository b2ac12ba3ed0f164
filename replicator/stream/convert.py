"""A stream of any format to one of the newest version, piece by piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from replicator.errors import TruncatedStream
from replicator.stream.bases import bases_for
from replicator.stream.restore_point import Advance
from replicator.stream.sink import Sink
from replicator.stream.source import PIECE_BYTES, Source
from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.layout import Buffer
from replicator.wire.rewrite import Rewriter

#: Small, so that little of what could be copied within the kernel is read.
_PIECE_BYTES: Final = 128 << 10
#: Fewer bytes are read as fast as they are copied.
_COPY_BYTES_MIN: Final = 64 << 10


def open_decoder(source: Source, reading: ReadOptions, spool: str | None = None) -> AnyDecoder:
    """The decoder of a source whose pages go out as they are. `spool`: see bases_for."""
    look_back = source.look_back if source.is_file else None
    return AnyDecoder(reading, bases=bases_for(source, reading, spool), look_back=look_back)


class Converter:
    """Bytes in, bytes out. What it yields is valid until its next step; memory does not grow with the stream.

    A checkpointed stream that breaks off behind a whole checkpoint becomes one that breaks off too, of which a
    receiver makes what it can; `cut` then says how.
    """

    def __init__(self, decoder: AnyDecoder, rewriter: Rewriter) -> None:
        self.decoder = decoder
        self.rewriter = rewriter
        self.cut: TruncatedStream | None = None

    @property
    def done(self) -> bool:
        """The stream is over; what follows in the input is not part of it."""
        return self.decoder.done

    def feed(self, piece: Buffer) -> Iterator[Buffer]:
        """What these bytes become. Raises WireError."""
        for item in self.decoder.feed(piece):
            yield from self.rewriter.write(item)

    def finish(self) -> Iterator[Buffer]:
        """What the end of the input adds. Raises TruncatedStream when it comes before any whole state."""
        try:
            for item in self.decoder.finish():
                yield from self.rewriter.write(item)
        except TruncatedStream as error:
            grammar = self.decoder.grammar
            if grammar is None or not grammar.checkpoints:
                raise
            self.cut = error

    def dropped(self) -> Counter[str]:
        """What was left out, by name."""
        dropped = Counter(self.rewriter.dropped)
        if self.decoder.tmem_pages_dropped:
            dropped["tmem page"] = self.decoder.tmem_pages_dropped
        return dropped


def convert_into(source: Source, converter: Converter, sink: Sink, advance: Advance | None = None) -> None:
    """Write what the whole source becomes; of a file, pages go from input to output within the kernel. The caller
    commits."""
    copies = source.is_file and sink.can_copy
    for piece in source.pieces(advance, _PIECE_BYTES if copies else PIECE_BYTES):
        for data in converter.feed(piece):
            sink.write(data)
        if converter.done:
            break
        if copies and converter.decoder.passable >= _COPY_BYTES_MIN:
            copied = _copy_pages(source, converter.decoder, sink)
            if advance is not None:
                advance(copied)
    for data in converter.finish():
        sink.write(data)


def _copy_pages(source: Source, decoder: AnyDecoder, sink: Sink) -> int:
    """Pages that come next go out as they are, and before them what the decoder has of the first one."""
    sink.write(decoder.held)
    copied = sink.copy_from(source, decoder.passable)
    decoder.pass_over(copied)
    return copied
