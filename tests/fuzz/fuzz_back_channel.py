"""The back channel of COLO, of older and newer Xen, strict and tolerant; cuts change nothing."""

from __future__ import annotations

import harness
from mutations import mutate_stream

from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.faults import Strict
from replicator.wire.grammar import StreamKind


def check(data: bytes) -> None:
    fuzzed = harness.take_apart(data)
    is_strict, is_wide = fuzzed.choose((False, True)), fuzzed.choose((False, True))
    options, size = ReadOptions(StreamKind.BACK_CHANNEL, wide_dirty_lists=is_wide), len(fuzzed.stream)

    def decoder() -> AnyDecoder:
        return AnyDecoder(options, judge=Strict() if is_strict else None)

    whole = harness.read(decoder(), [fuzzed.stream], size)
    harness.expect_same(harness.read(decoder(), fuzzed.pieces(), size), whole, "in pieces")


if __name__ == "__main__":
    harness.run(check, mutate_stream)
