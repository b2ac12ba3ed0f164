"""Any stream through AnyDecoder. What the strict mode takes is what the tolerant mode takes, up to its first fault."""

from __future__ import annotations

import harness
from harness import expect
from mutations import mutate_stream

from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.faults import Strict
from replicator.wire.grammar import StreamKind
from replicator.wire.legacy import MemoryBases, TmemPolicy

KINDS = (None, None, None, StreamKind.PLAIN, StreamKind.REMUS, StreamKind.COLO)


def check(data: bytes) -> None:
    fuzzed = harness.take_apart(data)
    kind, has_bases = fuzzed.choose(KINDS), fuzzed.choose((True, True, False))
    tmem, bits = fuzzed.choose((TmemPolicy.DROP, TmemPolicy.REFUSE)), fuzzed.choose((None, None, 32, 64))
    options, size = ReadOptions(kind, bits, tmem), len(fuzzed.stream)
    tolerant, strict = (
        harness.read(
            AnyDecoder(options, judge=judge, bases=MemoryBases() if has_bases else None),
            fuzzed.pieces(),
            size,
        )
        for judge in (None, Strict())
    )
    common = len(strict.items)
    expect(tolerant.items[:common] == strict.items, "the modes read different records")
    expect(
        strict.error is not None or tolerant == strict, f"only the tolerant mode refuses: {tolerant.error}"
    )


if __name__ == "__main__":
    harness.run(check, mutate_stream)
