"""The cache of bases against a model of the same clock."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_tools import page_of

from replicator.errors import InvariantError, NativeError
from replicator.memory import BaseCache, pfn_array, reference

FRAMES = 12
LISTS = st.lists(st.integers(0, FRAMES - 1), max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("update"), LISTS), st.tuples(st.just("drop"), LISTS), st.just(("drop_all", []))
    ),
    max_size=30,
)


def apply(
    step: tuple[str, list[int]], number: int, cache: BaseCache, model: reference.ReferenceBases
) -> None:
    what, pfns = step
    if what == "update":
        pages = [page_of(100 * number + index + 1) for index in range(len(pfns))]
        cache.update(pfn_array(pfns), b"".join(pages))
        for pfn, page in zip(pfns, pages):
            model.update(pfn, page)
    elif what == "drop":
        cache.drop(pfn_array(pfns))
        for pfn in pfns:
            model.drop(pfn)
    else:
        cache.drop_all()
        model.drop_all()


@settings(deadline=None, max_examples=300)
@given(capacity=st.integers(1, FRAMES + 2), steps=STEPS)
def test_it_holds_what_the_model_holds(capacity: int, steps: list[tuple[str, list[int]]]) -> None:
    cache, model = BaseCache(capacity, FRAMES), reference.ReferenceBases(capacity, FRAMES)
    for number, step in enumerate(steps):
        apply(step, number, cache, model)
        assert {pfn: cache.lookup(pfn) for pfn in range(FRAMES)} == {
            pfn: model.pages.get(pfn) for pfn in range(FRAMES)
        }
        counts = cache.counts()
        assert counts == (model.capacity, len(model.pages), model.hits, model.misses, model.evictions)
        assert counts.held_bytes == 4096 * len(model.pages)
    cache.close()


def test_pages_that_are_written_again_survive_a_walk_over_the_ram() -> None:
    cache = BaseCache(4, 100)
    for _ in range(2):
        cache.update(pfn_array([1, 2]), page_of(1) + page_of(2))
    for pfn in (50, 51, 52, 53):
        cache.update(pfn_array([pfn]), page_of(pfn))
    assert cache.lookup(1) == page_of(1) and cache.lookup(2) == page_of(2)
    assert cache.lookup(51) is None


def test_the_last_of_several_versions_in_one_list_is_held() -> None:
    cache = BaseCache(4, 10)
    cache.update(pfn_array([3, 3]), page_of(1) + page_of(2))
    assert cache.lookup(3) == page_of(2)
    assert cache.counts().held == 1


@pytest.mark.parametrize("bad", [10, 2**32, 2**64 - 1])
def test_a_frame_beyond_the_limit_refuses_the_whole_list(bad: int) -> None:
    cache = BaseCache(4, 10)
    with pytest.raises(NativeError, match="beyond 0xa") as error:
        cache.update(pfn_array([1, bad]), page_of(1) * 2)
    assert error.value.code == -errno.ERANGE
    assert cache.lookup(1) is None and cache.lookup(bad) is None
    cache.drop(pfn_array([1, bad]))
    assert cache.counts().held == 0


@pytest.mark.parametrize("numbers", [(0, 10), (10, 0), (1, 2**28 + 1), (2**63, 2**63)])
def test_sizes_that_make_no_sense_are_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(NativeError) as error:
        BaseCache(*numbers)
    assert error.value.code == -errno.EINVAL


def test_misuse_is_our_own_bug() -> None:
    cache = BaseCache(4, 10)
    with pytest.raises(InvariantError, match="differ in size"):
        cache.update(pfn_array([1, 2]), page_of(1))
    with pytest.raises(InvariantError, match="negative"):
        BaseCache(-1, 10)
    cache.close()
    cache.close()
    with pytest.raises(InvariantError, match="closed"):
        cache.lookup(1)
