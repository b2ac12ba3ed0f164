"""Every level of vectors that this processor has against plain loops."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from page_kinds import LEVELS, RUNS, changed, noise

from replicator._native import ffi, lib
from replicator.memory import reference
from replicator.units import PAGE_SIZE


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[int]:
    before = lib.rp_simd_level()
    assert lib.rp_simd_force(request.param) == 0
    yield request.param
    lib.rp_simd_force(before)


def diff(page: bytes, base: bytes) -> tuple[bool, list[int]]:
    masks = ffi.new("uint64_t[64]", [2**64 - 1] * 64)
    return lib.rp_page_diff(page, base, masks), list(masks)


def test_the_widest_level_is_used_unless_told_otherwise() -> None:
    assert lib.RP_SIMD_SCALAR in LEVELS
    assert lib.rp_simd_level() == max(LEVELS)


def test_a_forced_level_is_in_use(level: int) -> None:
    assert lib.rp_simd_level() == level


@pytest.mark.parametrize("level", [-1, 7, 31, 32, 2**31 - 1])
def test_levels_that_there_are_not_are_refused(level: int) -> None:
    before = lib.rp_simd_level()
    assert lib.rp_simd_force(level) == -errno.EINVAL
    assert lib.rp_simd_level() == before


@settings(deadline=None, max_examples=40)
@given(runs=RUNS, seed=st.integers(0, 1000), shift=st.integers(0, 63))
def test_differences_match_the_reference(runs: list[tuple[int, int]], seed: int, shift: int) -> None:
    base = noise(seed)
    page = changed(base, runs, seed)
    expected = reference.diff_masks(page, base)
    # Pages need not be aligned.
    room = ffi.new("uint8_t[]", shift + PAGE_SIZE)
    ffi.buffer(room)[shift:] = page
    masks = ffi.new("uint64_t[64]")
    before = lib.rp_simd_level()
    for level in LEVELS:
        lib.rp_simd_force(level)
        assert lib.rp_page_diff(room + shift, base, masks) == any(expected)
        assert list(masks) == expected
    lib.rp_simd_force(before)


def test_each_single_byte_is_seen(level: int) -> None:
    base = noise(level)
    for at in range(PAGE_SIZE):
        one = bytearray(PAGE_SIZE)
        one[at] = 1 << at % 8
        assert not lib.rp_page_is_zero(bytes(one))
        masks = [0] * 64
        masks[at // 64] = 1 << at % 64
        assert diff(bytes(a ^ b for a, b in zip(base, one)), base) == (True, masks)
    assert lib.rp_page_is_zero(bytes(PAGE_SIZE))
    assert diff(base, base) == (False, [0] * 64)
