"""The bytes of a legacy stream, for code that reads them one thing after the other.

Nothing in a legacy stream tells how long the next thing is before half of it was read, so its reader is
sequential code: generators that take bytes with `yield from source.take(size)`. A generator that lacks bytes
yields NEED_MORE, is resumed when more are here, and goes on where it stopped; all else that it yields is an
item of the stream. Once the bytes are over (`ended`), whoever takes what is not there gets TruncatedStream.
"""

from __future__ import annotations

from collections.abc import Generator
from struct import Struct
from typing import Any, Final, TypeVar

from replicator.errors import TruncatedStream
from replicator.wire.intake import Intake
from replicator.wire.records import Item, Place

NEED_MORE: Final = None
_T = TypeVar("_T")
#: Code that reads: yields items and NEED_MORE, and returns what it read.
Steps = Generator[Item | None, None, _T]

#: Bytes that `take_some` copies at once.
_SOME_BYTES = 1 << 16


class Source:
    """Hands out the bytes of an intake; views are valid until the next item is yielded."""

    def __init__(self, intake: Intake, name: str) -> None:
        self.intake = intake
        #: What is read now, for errors, and where it starts.
        self.place = Place(intake.offset, name)
        #: Where the first thing starts that was not read whole.
        self.offset = intake.offset
        #: No more bytes will come.
        self.ended = False

    def begin(self, name: str) -> Place:
        """The next thing starts here."""
        self.settle()
        self.place = Place(self.offset, name)
        return self.place

    def settle(self) -> None:
        """All that was taken is read whole."""
        self.offset = self.intake.offset

    def take(self, size: int) -> Steps[memoryview]:
        """The next `size` bytes. The caller bounded `size`: so many are held until all are here."""
        view = self.intake.take(size)
        while view is None:
            yield from self.await_more()
            view = self.intake.take(size)
        return view

    def unpack(self, form: Struct) -> Steps[tuple[Any, ...]]:
        """The next fields."""
        data = yield from self.take(form.size)
        return form.unpack(data)

    def take_some(self, most: int) -> Steps[bytes]:
        """A copy of what is here of the next `most` bytes, at least one. It stays valid."""
        while not self.intake.pending:
            yield from self.await_more()
        view = yield from self.take(min(most, self.intake.pending, _SOME_BYTES))
        return bytes(view)

    def skip(self, size: int) -> Steps[None]:
        """Drop the next `size` bytes; they may be as many as they like."""
        size -= self.intake.skip(size)
        while size:
            yield from self.await_more()
            size -= self.intake.skip(size)

    def peek(self, size: int) -> Steps[bytes]:
        """The next `size` bytes, which are not taken."""
        while self.intake.pending < size:
            yield from self.await_more()
        return self.intake.peek(size) or b""

    def peek_until_end(self, size: int) -> Steps[bytes]:
        """The next `size` bytes, or fewer when the bytes end before; they are not taken."""
        while self.intake.pending < size and not self.ended:
            yield NEED_MORE
        return self.intake.peek(min(size, self.intake.pending)) or b""

    def at_end(self) -> Steps[bool]:
        """Whether the bytes are over."""
        head = yield from self.peek_until_end(1)
        return not head

    def truncated(self) -> TruncatedStream:
        """What to raise when the bytes end inside the thing that is read now."""
        offset, name = self.place
        read = self.intake.offset - offset + self.intake.pending
        return TruncatedStream(f"{read} bytes of it, then nothing", offset=offset, record=name)

    def await_more(self) -> Steps[None]:
        """Go on when more bytes are here."""
        if self.ended:
            raise self.truncated()
        yield NEED_MORE
