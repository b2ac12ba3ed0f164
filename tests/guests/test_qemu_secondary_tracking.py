"""Tracking through reloads: against a model of who wrote what, on RAM of this very process."""

from __future__ import annotations

import logging
import mmap
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.errors import GuestError
from replicator.guests.qemu_secondary_tracking import SecondaryTracker, arm_tracker
from replicator.memory import DirtyBitmap, GuestLayout, GuestRam, open_own_uffd, pfn_array
from replicator.units import PAGE_SIZE

PAGES = 16
ALL = set(range(PAGES))


class Kernel:
    """The tracker of one process, as the kernel's should be; `blind` pages are those that it misses."""

    name = "uffd"

    def __init__(self) -> None:
        self.written: set[int] = set()
        self.blind: set[int] = set()
        self.broken = False
        self.closed = False

    def arm(self) -> None: ...

    def scan(self, bitmap: DirtyBitmap) -> int:
        assert not self.closed
        if self.broken:
            raise GuestError("broken")
        found, self.written = self.written - self.blind, set()
        for pfn in found:
            bitmap.set_range(pfn, 1)
        return len(found)

    def close(self) -> None:
        self.closed = True


class Vm:
    """RAM, the process that writes it as the guest, and us who write it as the secondary. A look has four parts."""

    def __init__(self, looks: int) -> None:
        fd = os.memfd_create("vm")
        os.ftruncate(fd, PAGES * PAGE_SIZE)
        self.ram = GuestRam(fd, GuestLayout.flat(PAGES))
        os.close(fd)
        self.tracker = SecondaryTracker(self.ram, looks=looks, look_pages=PAGES // 4)
        self.kernel = Kernel()
        self.tracker.follow(self.kernel)
        self._turn = 0

    def _write(self, pfn: int) -> None:
        self._turn += 1
        self.ram.scatter(pfn_array([pfn]), self._turn.to_bytes(8, "little") * (PAGE_SIZE // 8))

    def guest_writes(self, *pfns: int) -> None:
        for pfn in pfns:
            self._write(pfn)
            self.kernel.written.add(pfn)

    def we_write(self, *pfns: int) -> None:
        written = DirtyBitmap(PAGES)
        for pfn in pfns:
            self._write(pfn)
            written.set_range(pfn, 1)
        self.tracker.absorb(written)

    def look(self, first: int = 1, last: int = 4) -> None:
        """Look at these parts; the fourth is the last."""
        for part in range(first, last + 1):
            assert self.tracker.look_on() == (part < 4)
        if last == 4:
            self.tracker.end_look()

    def move(self) -> Kernel:
        """The guest is in another process."""
        old, self.kernel = self.kernel, Kernel()
        self.tracker.follow(self.kernel)
        return old

    def scan(self) -> set[int]:
        bitmap = DirtyBitmap(PAGES)
        assert self.tracker.scan(bitmap) == bitmap.count()
        return set(bitmap.pfns())

    def close(self) -> None:
        self.tracker.close()
        self.ram.close()


@pytest.fixture
def vm() -> Iterator[Vm]:
    made = Vm(looks=3)
    yield made
    made.close()


def test_only_what_the_guest_wrote_is_reported_from_the_first_scan_on(vm: Vm) -> None:
    assert vm.scan() == set()
    vm.guest_writes(3)
    assert vm.scan() == {3}
    vm.we_write(5)
    vm.guest_writes(7)
    assert vm.scan() == {7}


def test_what_counts_as_written_by_now_is_told_by_the_next_scan(vm: Vm) -> None:
    vm.guest_writes(2)
    assert vm.tracker.count_written() == 1
    vm.guest_writes(3)
    assert vm.tracker.count_written() == 2
    assert vm.scan() == {2, 3}
    assert vm.tracker.count_written() == 0


def test_the_first_look_makes_the_copy_and_the_others_prove(vm: Vm) -> None:
    vm.guest_writes(1)
    assert (vm.tracker.name, vm.tracker.is_audited) == ("uffd", True)
    vm.look(last=1)
    assert vm.tracker.name == "uffd+shadow"
    vm.look(first=2)
    assert vm.tracker.looks_left == 3
    for left in (2, 1, 0):
        vm.guest_writes(left)
        vm.look()
        assert vm.tracker.looks_left == left
    assert (vm.tracker.name, vm.tracker.is_audited) == ("uffd", False)
    assert vm.scan() == {0, 1, 2}
    assert not vm.tracker.look_on()
    vm.move()
    assert vm.tracker.name == "uffd"


@pytest.mark.parametrize("looked", [1, 3])
def test_a_look_goes_on_over_a_checkpoint(vm: Vm, looked: int) -> None:
    vm.look()
    vm.guest_writes(2, 9, 13)
    vm.look(last=looked)
    assert vm.scan() == {2, 9, 13}
    vm.we_write(3, 10, 14)
    vm.guest_writes(4, 11)  # the load does
    vm.guest_writes(10)
    vm.look(first=looked + 1)
    assert (vm.tracker.looks_left, vm.tracker.name) == (2, "uffd+shadow")
    assert vm.scan() == {4, 10, 11}


def test_nothing_is_compared_while_it_is_not_allowed(vm: Vm) -> None:
    vm.look()
    vm.guest_writes(2)
    vm.tracker.allow_looks(False)
    for _ in range(9):
        assert vm.tracker.look_on()
    vm.tracker.allow_looks(True)
    vm.look()
    assert vm.tracker.looks_left == 2


def test_what_was_reported_during_the_look_before_may_be_seen_in_this_one(vm: Vm) -> None:
    vm.look()
    vm.look(last=1)
    vm.guest_writes(1)  # its part has been looked at
    assert vm.scan() == {1}
    vm.look(first=2)
    vm.look()
    assert vm.tracker.looks_left == 1


@pytest.mark.parametrize("told_before", [False, True])
def test_a_look_finds_a_tracker_that_misses_a_page(
    vm: Vm, told_before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    if told_before:
        vm.guest_writes(5)
        vm.scan()
    for _ in range(2):
        vm.look()
    vm.kernel.blind = {5}
    vm.guest_writes(4, 5)
    vm.scan()
    with caplog.at_level(logging.WARNING):
        vm.look()
    assert "missed 1 written pages" in caplog.text
    assert (vm.tracker.name, vm.kernel.closed) == ("shadow", True)
    assert vm.scan() == ALL
    vm.guest_writes(5)
    assert vm.scan() == {5}
    next_kernel = Kernel()
    vm.tracker.follow(next_kernel)
    assert next_kernel.closed
    vm.guest_writes(10)
    assert vm.scan() == {10}


def test_a_page_that_a_load_writes_untold_is_found(vm: Vm) -> None:
    vm.look()
    vm.kernel.blind = {12}
    vm.we_write(1)
    vm.guest_writes(12)
    vm.look()
    assert vm.tracker.name == "shadow"
    assert vm.scan() == ALL


def test_another_process_takes_what_was_not_told_with_it(vm: Vm) -> None:
    vm.guest_writes(4)
    old = vm.move()
    assert old.closed
    vm.guest_writes(6)
    assert vm.scan() == {4, 6}
    assert vm.scan() == set()


def test_all_pages_are_told_of_a_process_that_cannot_be_asked_any_more(vm: Vm) -> None:
    vm.kernel.broken = True
    vm.move()
    assert vm.scan() == ALL
    vm.guest_writes(1)
    assert vm.scan() == {1}
    assert vm.tracker.name == "uffd"


def test_a_tracker_that_fails_is_replaced(vm: Vm) -> None:
    vm.guest_writes(2)
    vm.kernel.broken = True
    assert vm.scan() == ALL
    assert (vm.tracker.name, vm.kernel.closed) == ("shadow", True)


def test_without_the_kernel_the_shadow_copy_tracks_and_our_writes_are_left_out() -> None:
    vm = Vm(looks=0)
    vm.tracker.follow(None)
    assert vm.tracker.name == "shadow"
    vm.scan()
    vm.we_write(3)
    vm.guest_writes(4)
    assert vm.scan() == {4}
    vm.close()


STEPS = st.one_of(
    st.tuples(st.just("guest"), st.integers(0, PAGES - 1)),
    st.tuples(st.just("checkpoint"), st.booleans()),
    st.tuples(st.just("scan"), st.just(0)),
    st.tuples(st.just("look"), st.just(0)),
    st.tuples(st.just("break"), st.just(0)),
)


@given(st.lists(STEPS, max_size=40), st.integers(0, 3))
def test_no_written_page_is_ever_left_out(steps: list[tuple[str, int]], looks: int) -> None:
    """And as long as nothing is broken, no other page is reported."""
    vm = Vm(looks)
    written: set[int] = set()
    is_whole = True
    try:
        for step, value in steps:
            if step == "guest":
                vm.guest_writes(value)
                written.add(value)
            elif step == "break":
                vm.kernel.broken, is_whole = True, False
            elif step == "look":
                if not vm.tracker.look_on():
                    vm.tracker.end_look()
            else:
                reported = vm.scan()
                assert written <= reported
                assert not is_whole or reported == written
                written = set()
            if step == "checkpoint":
                vm.we_write(0, 1)
                if value:
                    vm.move()
    finally:
        vm.close()


def test_the_kernels_own_tracker_reports_from_arming_on() -> None:
    fd = os.memfd_create("own-guest")
    os.ftruncate(fd, PAGES * PAGE_SIZE)
    memory = mmap.mmap(fd, PAGES * PAGE_SIZE)
    ram = GuestRam(fd, GuestLayout.flat(PAGES))
    kernel = arm_tracker(os.getpid(), open_own_uffd(), ram)
    assert kernel is not None
    tracker = SecondaryTracker(ram, looks=2)
    tracker.follow(kernel)
    memory[5 * PAGE_SIZE] ^= 1
    bitmap = DirtyBitmap(PAGES)
    tracker.scan(bitmap)
    assert 5 in bitmap.pfns()
    tracker.close()
    ram.close()
    memory.close()
    os.close(fd)


def test_a_process_that_cannot_be_tracked_has_no_tracker(caplog: pytest.LogCaptureFixture) -> None:
    fd = os.memfd_create("not-mapped")
    os.ftruncate(fd, PAGES * PAGE_SIZE)
    with GuestRam(fd, GuestLayout.flat(PAGES)) as ram, caplog.at_level(logging.WARNING):
        assert arm_tracker(1 << 22, open_own_uffd(), ram) is None
        assert arm_tracker(os.getpid(), None, ram) is None
    assert "is not tracked by the kernel" in caplog.text
    os.close(fd)
