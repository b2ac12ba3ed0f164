"""Legacy streams through LegacyDecoder, with and without what it may know beforehand; cuts change nothing."""

from __future__ import annotations

import harness
from mutations import mutate_stream

from replicator.wire.faults import Strict
from replicator.wire.grammar import StreamKind
from replicator.wire.legacy import LegacyDecoder, MemoryBases, TmemPolicy


def check(data: bytes) -> None:
    fuzzed = harness.take_apart(data)
    kind = fuzzed.choose((None, None, StreamKind.PLAIN, StreamKind.REMUS))
    bits, tmem = fuzzed.choose((None, None, 32, 64)), fuzzed.choose((TmemPolicy.DROP, TmemPolicy.REFUSE))
    has_device_model, has_bases = fuzzed.choose((None, None, False, True)), fuzzed.choose((True, True, False))
    is_strict, is_dropping = fuzzed.choose((False, True)), fuzzed.choose((False, True))

    def decoder() -> LegacyDecoder:
        return LegacyDecoder(
            kind=kind,
            sender_bits=bits,
            tmem=tmem,
            bases=MemoryBases() if has_bases else None,
            judge=Strict() if is_strict else None,
            has_device_model=has_device_model,
        )

    size = len(fuzzed.stream)
    whole = harness.read(decoder(), [fuzzed.stream], size)
    harness.expect_same(harness.read(decoder(), fuzzed.pieces(), size, drop=is_dropping), whole, "in pieces")


if __name__ == "__main__":
    harness.run(check, mutate_stream)
