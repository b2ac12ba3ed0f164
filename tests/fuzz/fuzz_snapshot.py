"""A guest at a checkpoint of any stream: written as a plain stream it is read again, and is the same guest.

Of a stream that the strict mode takes the plain one is strictly valid too. That of others need not be: what a
reader forgives is part of the guest when it stands in what makes one up, such as page tables of an HVM guest, flags in
a policy, or no SHARED_INFO. Left out are pages that first come, or change their type, behind VERIFY: they count for the
reader's judgement of a PV guest's frames, but are in no guest.
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
from replicator.wire import layout
from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.faults import Judge, Strict
from replicator.wire.legacy import MemoryBases, TmemPolicy
from replicator.wire.records import PageData, Verify
from replicator.wire.rewrite import Rewriter


def check(data: bytes) -> None:
    fuzzed = harness.take_apart(data)
    checkpoint, is_strict = fuzzed.choose((None, None, 1, 2, 3)), fuzzed.choose((True, True, False))
    judge = Strict() if is_strict else None
    with closing(GuestImage(Pages())) as image:
        written = _squash(fuzzed.stream, image, checkpoint, judge)
    if written is None:
        return
    if _verifies_other_pages(fuzzed.stream):
        return
    found = harness.read(AnyDecoder(judge=judge), [written], len(written))
    expect(found.error is None, f"the plain stream is refused: {found.error}")
    with closing(GuestImage(Pages())) as image:
        again = _squash(written, image, None, judge)
    expect(again == written, "the plain stream of the plain stream is another one")


def _verifies_other_pages(stream: bytes) -> bool:
    """Whether behind VERIFY a page has another type than before it, or comes for the first time."""
    decoder = AnyDecoder(ReadOptions(tmem=TmemPolicy.DROP), bases=MemoryBases())
    kinds: dict[int, int] = {}
    is_verifying = False
    for item in harness.read(decoder, [stream], len(stream)).items:
        is_verifying |= isinstance(item, Verify)
        for entry in item.entries if isinstance(item, PageData) else ():
            kind, pfn = entry >> layout.ENTRY_TYPE_SHIFT, entry & layout.ENTRY_PFN_MASK
            if is_verifying and kinds.get(pfn) != kind:
                return True
            kinds[pfn] = kind
    return False


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
