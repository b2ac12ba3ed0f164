"""A stream of any format to one of the newest version, piece by piece."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from replicator.errors import TruncatedStream
from replicator.wire.any_decoder import AnyDecoder
from replicator.wire.layout import Buffer
from replicator.wire.rewrite import Rewriter


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
