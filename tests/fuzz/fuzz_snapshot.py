"""A guest at a checkpoint of any stream: written as a plain stream it is read again, and is the same guest.

Of a stream that the strict mode takes the plain one is strictly valid too. That of others need not be: what a
reader forgives is part of the guest when it stands in what makes one up, such as page tables of an HVM guest, flags in
a policy, or no SHARED_INFO.
"""

from __future__ import annotations

from contextlib import closing

import harness
from harness import expect
from mutations import mutate_stream

from replicator.errors import RemoteWireError, TruncatedStream, WireError
from replicator.stream.image import GuestImage, Pages
from replicator.stream.plain import plain_items
from replicator.stream.snapshot import SnapshotBuilder
from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.faults import Judge, Strict
from replicator.wire.legacy import MemoryBases, TmemPolicy
from replicator.wire.rewrite import Rewriter


def check(data: bytes) -> None:
    fuzzed = harness.take_apart(data)
    checkpoint, is_strict = fuzzed.choose((None, None, 1, 2, 3)), fuzzed.choose((True, True, False))
    judge = Strict() if is_strict else None
    with closing(GuestImage(Pages())) as image:
        written = _squash(fuzzed.stream, image, checkpoint, judge)
    if written is None:
        return
    found = harness.read(AnyDecoder(judge=judge), [written], len(written))
    expect(found.error is None, f"the plain stream is refused: {found.error}")
    with closing(GuestImage(Pages())) as image:
        again = _squash(written, image, None, judge)
    expect(again == written, "the plain stream of the plain stream is another one")


def _squash(stream: bytes, image: GuestImage, checkpoint: int | None, judge: Judge | None) -> bytes | None:
    """The plain stream; None when there is no guest to write."""
    decoder = AnyDecoder(ReadOptions(tmem=TmemPolicy.DROP), judge=judge, bases=MemoryBases())
    builder = SnapshotBuilder(image, checkpoint)
    try:
        _build(decoder, builder, stream)
    except WireError as error:
        expect(isinstance(error, RemoteWireError), f"{type(error).__name__}: {error}")
        return None
    rewriter = Rewriter()
    return b"".join(
        bytes(part) for item in plain_items(builder.state, image) for part in rewriter.write(item)
    )


def _build(decoder: AnyDecoder, builder: SnapshotBuilder, stream: bytes) -> None:
    """As read_to_checkpoint does it."""
    for item in decoder.feed(stream):
        builder.take(item)
        if builder.reached:
            return
    try:
        for item in decoder.finish():
            builder.take(item)
    except TruncatedStream:
        if not builder.checkpoints:
            raise
    builder.finish()


if __name__ == "__main__":
    harness.run(check, mutate_stream)
