"""Reads the guest of a stream at one checkpoint, with a progress bar: what squash, extract and diff start with."""

from __future__ import annotations

from replicator.cli.stream.options import progress_of
from replicator.stream.bases import bases_for
from replicator.stream.image import GuestImage
from replicator.stream.restore_point import read_to_checkpoint
from replicator.stream.snapshot import SnapshotBuilder
from replicator.stream.source import Source
from replicator.wire.any_decoder import AnyDecoder, ReadOptions


def read_guest(
    name: str, image: GuestImage | None, checkpoint: int | None, spool: str | None, reading: ReadOptions
) -> SnapshotBuilder:
    """The guest of the stream `name` ("-": standard input); `image` None: without its memory."""
    with Source(name) as source, progress_of(source) as advance:
        decoder = AnyDecoder(reading, bases=bases_for(source, reading, spool))
        return read_to_checkpoint(source, decoder, image, checkpoint, advance=advance)
