"""The dirty bitmap against its reference."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import NativeError
from replicator.limits import PFN_MAX
from replicator.memory import DirtyBitmap, pfn_array
from replicator.memory.reference import ReferenceBitmap

SIZES = [0, 1, 63, 64, 65, 127, 128, 4095, 4096]


@st.composite
def ranges(draw: st.DrawFn, pages: int) -> tuple[int, int]:
    first = draw(st.integers(0, pages))
    return first, draw(st.integers(0, pages - first))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[DirtyBitmap, ReferenceBitmap]:
    """The same random operations on both."""
    pages = draw(st.sampled_from(SIZES))
    return draw(filled(pages))


@st.composite
def filled(draw: st.DrawFn, pages: int) -> tuple[DirtyBitmap, ReferenceBitmap]:
    native, reference = DirtyBitmap(pages), ReferenceBitmap(pages)
    for is_set, (first, count) in draw(st.lists(st.tuples(st.booleans(), ranges(pages)), max_size=8)):
        name = "set_range" if is_set else "clear_range"
        getattr(native, name)(first, count)
        getattr(reference, name)(first, count)
    return native, reference


@given(pairs())
def test_lists_and_runs_match_the_reference(pair: tuple[DirtyBitmap, ReferenceBitmap]) -> None:
    native, reference = pair
    assert list(native.runs()) == reference.runs()
    assert native.count() == len(reference.frames)
    assert native.pfns().tolist() == sorted(reference.frames)
    assert native.read_and_clear().tolist() == reference.read_and_clear()
    assert native.count() == 0 and native.next_run(0) is None


@given(pairs(), st.integers(0, 5000))
def test_next_run_starts_at_or_after_start(pair: tuple[DirtyBitmap, ReferenceBitmap], start: int) -> None:
    native, reference = pair
    assert native.next_run(start) == reference.next_run(start)


@given(pairs(), st.integers(0, 200), st.integers(0, 5000))
def test_take_clears_exactly_what_it_lists(
    pair: tuple[DirtyBitmap, ReferenceBitmap], limit: int, start: int
) -> None:
    native, reference = pair
    assert native.take(limit, start).tolist() == reference.take(limit, start)
    assert native.pfns().tolist() == sorted(reference.frames)


@given(st.sampled_from(SIZES).flatmap(lambda pages: st.tuples(filled(pages), filled(pages))))
def test_merge_and_subtract_match_the_reference(
    pair: tuple[tuple[DirtyBitmap, ReferenceBitmap], tuple[DirtyBitmap, ReferenceBitmap]],
) -> None:
    (native, reference), (other, other_reference) = pair
    for operation in ("merge", "subtract"):
        left, expected = native.copy(), ReferenceBitmap(native.pages)
        expected.frames = set(reference.frames)
        getattr(left, operation)(other)
        getattr(expected, operation)(other_reference)
        assert left.pfns().tolist() == sorted(expected.frames)
    assert other.pfns().tolist() == sorted(other_reference.frames)


@pytest.mark.parametrize("pages", SIZES)
def test_set_all_sets_no_bit_beyond_the_last(pages: int) -> None:
    bitmap = DirtyBitmap(pages)
    bitmap.set_all()
    assert bitmap.count() == pages
    assert list(bitmap.runs()) == ([(0, pages)] if pages else [])
    assert sum(byte.bit_count() for byte in bitmap.words()) == pages
    bitmap.clear_all()
    assert bitmap.count() == 0


@pytest.mark.parametrize("pages", [1, 63, 64, 65, 4096])
def test_single_bits_at_the_edges(pages: int) -> None:
    bitmap = DirtyBitmap(pages)
    bitmap.set(pages - 1)
    assert bitmap.test(pages - 1)
    assert bitmap.next_run(0) == (pages - 1, 1)
    bitmap.clear(pages - 1)
    assert not bitmap.test(pages - 1)


@pytest.mark.parametrize("pages", [0, 1, 64, 65])
def test_frames_outside_are_refused_and_change_nothing(pages: int) -> None:
    bitmap = DirtyBitmap(pages)
    for refused in (
        lambda: bitmap.set(pages),
        lambda: bitmap.clear(pages),
        lambda: bitmap.test(pages),
        lambda: bitmap.set_range(0, pages + 1),
        lambda: bitmap.set_range(2**64 - 1, 2),
        lambda: bitmap.set_pfns(pfn_array([0, pages])),
    ):
        with pytest.raises(NativeError) as error:
            refused()
        assert error.value.code == -errno.ERANGE
    assert bitmap.count() == 0


def test_other_sizes_do_not_merge() -> None:
    with pytest.raises(NativeError):
        DirtyBitmap(64).merge(DirtyBitmap(65))
    with pytest.raises(NativeError):
        DirtyBitmap(65).subtract(DirtyBitmap(64))


def test_a_bitmap_beyond_the_largest_guest_is_refused() -> None:
    with pytest.raises(NativeError):
        DirtyBitmap(PFN_MAX + 1)


def test_list_and_words_and_equality_agree() -> None:
    bitmap, twin = DirtyBitmap(130), DirtyBitmap(130)
    bitmap.set_pfns(pfn_array([129, 0, 64]))
    assert bitmap.words().tobytes() == bytes([1, *[0] * 7, 1, *[0] * 7, 2, *[0] * 7])
    assert bitmap != twin
    twin.words()[:] = bitmap.words()
    assert bitmap == twin and twin.pfns().tolist() == [0, 64, 129]
