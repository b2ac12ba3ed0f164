"""The digest of an epoch against its definition, and what it must tell apart."""

from __future__ import annotations

import random
from array import array

import pytest
import xxhash

from replicator.units import PAGE_SIZE
from replicator.wire.epoch_digest import EpochDigest, digest_page_data
from replicator.wire.recording import page_data_header

ZEROS = bytes(PAGE_SIZE)


def page(seed: int) -> bytes:
    return random.Random(seed).randbytes(PAGE_SIZE)


@pytest.mark.parametrize("kinds", ["x", "0", "x0", "0x", "00xx0x", "xxx", "000"])
def test_a_record_counts_by_its_header_a_mask_and_pages_with_something_in_them(kinds: str) -> None:
    pages = [ZEROS if kind == "0" else page(index) for index, kind in enumerate(kinds)]
    header = page_data_header(array("Q", range(len(pages))))
    mask = bytes(kind == "0" for kind in kinds)
    kept = b"".join(one for one in pages if one != ZEROS)
    wanted = xxhash.xxh3_128_digest(header + mask + kept)
    assert digest_page_data(header, memoryview(b"".join(pages))) == wanted


def test_no_two_records_count_alike() -> None:
    digests = {
        digest_page_data(page_data_header(array("Q", pfns)), memoryview(b"".join(pages)))
        for pfns, pages in [
            ([1, 2], [page(1), ZEROS]),
            ([1, 2], [ZEROS, page(1)]),
            ([2, 1], [page(1), ZEROS]),
            ([1], [page(1)]),
            ([1, 2], [page(1), page(1)]),
            ([1, 2], [ZEROS, ZEROS]),
        ]
    }
    assert len(digests) == 6


def test_an_epoch_is_its_records_in_their_order() -> None:
    first, second = digest_page_data(b"a", memoryview(ZEROS)), digest_page_data(b"b", memoryview(ZEROS))
    whole = EpochDigest()
    whole.add(b"pro")
    whole.add(b"logue")
    whole.add_page_data(first)
    before = whole.copy()
    whole.add_page_data(second)
    assert whole.digest() == xxhash.xxh3_128_digest(b"prologue" + first + second)
    assert before.digest() == xxhash.xxh3_128_digest(b"prologue" + first)
