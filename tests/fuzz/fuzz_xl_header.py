"""The xl header: one that is taken is written as the same bytes, and what is asked of it is answered."""

from __future__ import annotations

import harness
from harness import expect

from replicator.errors import WireError
from replicator.wire import layout, xl
from replicator.wire.any_decoder import AnyDecoder
from replicator.wire.faults import Strict


def check(data: bytes) -> None:
    fuzzed = harness.take_apart(data)
    stream, size = fuzzed.stream, len(fuzzed.stream)
    judge = fuzzed.choose((None, Strict()))
    whole = harness.read(AnyDecoder(judge=judge), [stream], size)
    harness.expect_same(harness.read(AnyDecoder(judge=judge), fuzzed.pieces(), size), whole, "in pieces")
    if size >= layout.XL_HEADER.size:
        _check_header(stream)


def _check_header(stream: bytes) -> None:
    fixed, rest = memoryview(stream)[: layout.XL_HEADER.size], memoryview(stream)[layout.XL_HEADER.size :]
    try:
        head = xl.decode_head(fixed, 0)
        header = xl.decode_optional_data(head, rest[: head.optional_bytes], 0)
    except WireError as error:
        harness.judge_error(error, 0)
        return
    if head.optional_bytes <= len(rest):
        expect(xl.encode(header) == stream[: len(fixed) + head.optional_bytes], "written as other bytes")
    list(xl.list_faults(header))
    limit = xl.guest_pfn_limit(header)
    expect(limit is None or limit > 0, f"limit {limit}")


if __name__ == "__main__":
    harness.run(check)
