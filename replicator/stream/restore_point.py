"""Reads a stream up to a checkpoint and gives the guest as it was there."""

from __future__ import annotations

from collections.abc import Callable

from replicator.errors import TruncatedStream
from replicator.stream.image import GuestImage
from replicator.stream.snapshot import SnapshotBuilder
from replicator.stream.source import Source
from replicator.wire.any_decoder import AnyDecoder

#: Told the size of each piece that was read.
Advance = Callable[[int], None]


def read_to_checkpoint(
    source: Source,
    decoder: AnyDecoder,
    image: GuestImage | None,
    checkpoint: int | None = None,
    *,
    advance: Advance | None = None,
) -> SnapshotBuilder:
    """The guest at this checkpoint of the stream (None: at the last whole one, or at END).

    `image` takes its memory; None: without it. Nothing is read behind the checkpoint. Raises WireError where
    the stream is wrong before it, TruncatedStream when it has no such checkpoint.
    """
    builder = SnapshotBuilder(image, checkpoint)
    for piece in source.pieces(advance):
        for item in decoder.feed(piece):
            builder.take(item)
            if builder.reached:
                return builder
    _finish(decoder, builder)
    return builder


def _finish(decoder: AnyDecoder, builder: SnapshotBuilder) -> None:
    """The bytes are over. A stream that breaks off behind a checkpoint has that one."""
    try:
        for item in decoder.finish():
            builder.take(item)
    except TruncatedStream:
        if not builder.checkpoints:
            raise
    builder.finish()
