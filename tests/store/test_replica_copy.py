"""A copy that is made while epochs are applied is, after its last round, exactly one committed epoch."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from store_tools import Pages, Shape, commit, make_epoch, page, send_parts

from replicator.errors import EpochError, InvariantError, StoreError
from replicator.store.copy import RamCopy, available_bytes, check_room
from replicator.store.replica import ReplicaStore

#: An epoch of more than 24 pages is applied early, with an undo log.
SMALL_STAGING = 3 * (8 + 8 + 8 * 8 + 8 * 4096)
EPOCHS = 40


class Source:
    """A store with epoch 1 committed, and what its RAM must be."""

    def __init__(self, directory: Path, shape: Shape) -> None:
        self.shape = shape
        self.store: ReplicaStore = shape.open(directory, SMALL_STAGING)
        self.store.recover()
        self.ram: Pages = shape.full(1)
        self.epoch = 1
        commit(self.store, make_epoch(1, 1, self.ram, b"state 1"))
        self.path = directory / "copy"

    def commit_next(self, pfns: list[int]) -> None:
        self.epoch += 1
        pages = {pfn: page(self.epoch, pfn) for pfn in pfns}
        commit(self.store, make_epoch(1, self.epoch, pages, b"state %d" % self.epoch))
        self.ram.update(pages)

    def image(self) -> bytes:
        return self.shape.ram_image(self.ram)


@pytest.fixture
def source(directory: Path, shape: Shape) -> Source:
    return Source(directory, shape)


def test_rounds_end_in_one_epoch(source: Source) -> None:
    """The rounds run in a thread, as they do in a daemon, while epochs of both kinds are applied."""
    copy = RamCopy(source.store.ram, source.path)
    chance = random.Random(7)
    try:
        for _ in range(EPOCHS):
            pages = copy.take()
            thread = threading.Thread(target=copy.copy, args=(pages,))
            thread.start()
            source.commit_next(chance.sample(source.shape.pfns, chance.choice((1, 5, 30))))
            thread.join()
        left = copy.take()
        assert left.count() < source.shape.layout.pages
        copy.copy(left)
        assert source.path.read_bytes() == source.image() == source.store.ram_path.read_bytes()
    finally:
        copy.close()
        copy.close_file()


def test_a_round_under_way_outlives_a_take_over(source: Source) -> None:
    """Which closes the replica's descriptors: what they are used for next is no page of the guest."""
    copy = RamCopy(source.store.ram, source.path)
    pages = copy.take()
    source.store.mark_active()
    source.store.leave_ram_to_guest()
    assert copy.copy(pages) == len(source.image())
    assert source.path.read_bytes() == source.image()
    copy.close()
    copy.close_file()


def test_only_what_was_written_is_copied_again(source: Source) -> None:
    copy = RamCopy(source.store.ram, source.path)
    assert copy.copy(copy.take()) == len(source.image())
    assert copy.take().count() == 0
    high = source.shape.high_start
    source.commit_next([3, high, high + 1])
    pages = copy.take()
    assert list(pages.pfns()) == [3, high, high + 1]
    assert copy.copy(pages) == 3 * 4096
    assert source.path.read_bytes() == source.image()
    copy.close()
    copy.close_file()


def test_pages_that_are_taken_back_are_copied_again(source: Source) -> None:
    """An epoch that was applied early and failed: the copy may hold its pages, the replica does not."""
    copy = RamCopy(source.store.ram, source.path)
    copy.copy(copy.take())
    wrong = make_epoch(1, 2, source.shape.full(9), b"never")
    send_parts(source.store, wrong)
    copy.copy(copy.take())
    with pytest.raises(EpochError):
        source.store.finish(len(wrong.parts), len(wrong.stream), b"\0" * 16)
    copy.copy(copy.take())
    assert source.path.read_bytes() == source.image()
    copy.close()
    copy.close_file()


def test_a_copy_that_is_closed_stops_and_marks_no_more(source: Source) -> None:
    copy = RamCopy(source.store.ram, source.path)
    pages = copy.take()
    copy.close()
    assert copy.copy(pages) == 0
    source.commit_next([1])
    assert copy.take().count() == 0
    copy.close_file()
    source.path.unlink()
    again = RamCopy(source.store.ram, source.path)
    assert again.take().count() == source.shape.layout.pages
    again.close()
    again.close_file()


def test_two_copies_at_once_are_our_own_mistake(source: Source, tmp_path: Path) -> None:
    copy = RamCopy(source.store.ram, source.path)
    with pytest.raises(InvariantError, match="once at a time"):
        RamCopy(source.store.ram, tmp_path / "second")
    copy.close()
    copy.close_file()


def test_a_file_that_is_there_is_never_overwritten(source: Source) -> None:
    source.path.write_text("precious")
    with pytest.raises(StoreError, match="copy"):
        RamCopy(source.store.ram, source.path)
    assert source.path.read_text() == "precious"


def test_room_is_asked_for_with_figures(tmp_path: Path) -> None:
    check_room(tmp_path, 4096, 4096)
    with pytest.raises(
        StoreError, match=rf"no room .* in {tmp_path}: {1 << 60} bytes are needed, \d+ are available"
    ):
        check_room(tmp_path, 1 << 60, 0)
    with pytest.raises(StoreError, match=r"this host's memory: \d+ bytes are needed, \d+ are available"):
        check_room(tmp_path, 4096, available_bytes() + (1 << 30))


def test_available_memory_is_the_kernels_word(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  99 kB\nMemFree:  1 kB\nMemAvailable:  12 kB\n")
    assert available_bytes(meminfo) == 12 << 10
    meminfo.write_text("MemTotal:  99 kB\n")
    assert available_bytes(meminfo) == 0
