"""What the decoders of all formats have in common: bytes in, items out one a step, and the first error for ever.

A format gives `_next`. It takes what it needs of the intake, and answers None as long as that is not here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from replicator.errors import RecordOrder, WireError
from replicator.wire.grammar import Grammar, Layer
from replicator.wire.intake import Intake
from replicator.wire.layout import Buffer
from replicator.wire.records import Item


class ItemDecoder(ABC):
    """Decodes one stream of one format. After a WireError it raises that same error for ever."""

    #: What is known of the stream, and what may come next.
    grammar: Grammar

    def __init__(self, intake: Intake | None) -> None:
        self._intake = intake or Intake()
        self._error: WireError | None = None

    @property
    @abstractmethod
    def offset(self) -> int:
        """Where the header, record or legacy thing starts that is read now, or that comes next."""

    @abstractmethod
    def _next(self) -> Item | None:
        """The next item, or None when more bytes are needed for it. Not called when `done`."""

    @abstractmethod
    def finish(self) -> Iterator[Item]:
        """The bytes are over: the items that only their end tells. Raises TruncatedStream, here or from the
        iterator, when the stream is not over."""

    @property
    def pending(self) -> int:
        """Bytes fed and not yet part of a whole record."""
        return self._intake.offset - self.offset + self._intake.pending

    @property
    def done(self) -> bool:
        """The stream's last item was read."""
        return self.grammar.layer is Layer.DONE

    def feed(self, data: Buffer) -> Iterator[Item]:
        """Take bytes at once; the iterator then decodes one item a step and raises WireError where they go
        wrong. Items left in an iterator that was dropped come out of the next one. `data` may be changed once
        the iterator is exhausted."""
        self._intake.add(data)
        return self.drain()

    def drain(self) -> Iterator[Item]:
        """As `feed`, for bytes that are in the intake already."""
        self._raise_again()
        return self._drain()

    def take_rest(self) -> bytes:
        """Take the bytes behind the stream's end out of the decoder (after the iterator gave the last item)."""
        return self._intake.take_rest()

    # Pages that nobody wants

    @property
    @abstractmethod
    def passable(self) -> int:
        """Bytes that come next and may be passed over: pages, when nobody wants them as `PageRun`s. They are not
        judged. To be asked when an iterator of `feed` is exhausted; the start of a page may then be `held`."""

    @abstractmethod
    def pass_over(self, size: int) -> None:
        """These bytes, at most `passable`, are not fed: they are there, and that is enough."""

    # Inside

    def _raise_again(self) -> None:
        if self._error is not None:
            raise self._error

    def _drain(self) -> Iterator[Item]:
        while True:
            try:
                item = self._step()
            except WireError as error:
                self._error = error
                raise
            if item is None:
                self._intake.hold()
                return
            yield item

    def _step(self) -> Item | None:
        if not self.done:
            return self._next()
        if self._intake.pending:
            raise RecordOrder("bytes behind the end of the stream", offset=self.offset)
        return None
