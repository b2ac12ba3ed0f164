"""Where a stream is cut, and which of its pages are passed over, changes neither the records nor the error."""

from __future__ import annotations

from dataclasses import fields

import harness
from harness import Input, expect
from mutations import mutate_stream

from replicator.errors import WireError
from replicator.wire.any_decoder import AnyDecoder, ReadOptions
from replicator.wire.faults import Strict
from replicator.wire.grammar import StreamKind
from replicator.wire.legacy import MemoryBases, TmemPolicy
from replicator.wire.verify import Examiner, VerifyReport

KINDS = (None, None, None, StreamKind.PLAIN, StreamKind.REMUS, StreamKind.COLO)


def check(data: bytes) -> None:
    fuzzed = harness.take_apart(data)
    options = ReadOptions(fuzzed.choose(KINDS), tmem=TmemPolicy.DROP)
    is_strict = fuzzed.choose((False, True))
    _check_decoder(fuzzed, options, is_strict)
    _check_examiner(fuzzed, options, is_strict)


def _check_decoder(fuzzed: Input, options: ReadOptions, is_strict: bool) -> None:
    size = len(fuzzed.stream)

    def decoder() -> AnyDecoder:
        return AnyDecoder(options, judge=Strict() if is_strict else None, bases=MemoryBases())

    whole = harness.read(decoder(), [fuzzed.stream], size)
    harness.expect_same(harness.read(decoder(), fuzzed.pieces(), size), whole, "in pieces")
    dropped = harness.read(decoder(), fuzzed.pieces(), size, drop=True)
    harness.expect_same(dropped, whole, "with dropped iterators")


def _check_examiner(fuzzed: Input, options: ReadOptions, is_strict: bool) -> None:
    stream = fuzzed.stream

    def look_back(offset: int, size: int) -> bytes:
        return stream[offset : offset + size]

    def examiner(*, looks_back: bool = False) -> Examiner:
        back = look_back if looks_back else None
        return Examiner(options, strict=is_strict, bases=MemoryBases(), look_back=back)

    whole = examiner()
    whole.feed(stream)
    expected = whole.finish()
    for problem in expected.problems:
        harness.judge_error(problem.error, len(stream))
    cut = examiner()
    for piece in fuzzed.pieces():
        cut.feed(piece)
        piece[:] = b"\xee" * len(piece)
    _expect_same(cut.finish(), expected, "in pieces")
    for looks_back in (False, True):
        found = _examine_passing(examiner(looks_back=looks_back), fuzzed)
        _expect_same(found, expected, f"passed over, looks back {looks_back}")


def _examine_passing(examiner: Examiner, fuzzed: Input) -> VerifyReport:
    """As `examine_source` does it with a file."""
    stream, at = fuzzed.stream, 0
    for piece in fuzzed.pieces():
        if at >= len(stream):
            break
        examiner.feed(stream[at : at + len(piece)])
        at += len(piece)
        passed = min(examiner.passable, max(len(stream) - at, 0))
        examiner.pass_over(passed)
        at += passed
    examiner.feed(stream[at:])
    return examiner.finish()


def _expect_same(found: VerifyReport, expected: VerifyReport, what: str) -> None:
    for field in fields(VerifyReport):
        one, other = (_comparable(getattr(report, field.name)) for report in (found, expected))
        expect(one == other, f"{what}: {field.name} is {one} instead of {other}")


def _comparable(value: object) -> object:
    if isinstance(value, WireError):
        return harness.signature(value)
    if isinstance(value, tuple):
        return [
            (harness.signature(each.error), each.is_forgiven) if hasattr(each, "is_forgiven") else each
            for each in value
        ]
    return value


if __name__ == "__main__":
    harness.run(check, mutate_stream)
