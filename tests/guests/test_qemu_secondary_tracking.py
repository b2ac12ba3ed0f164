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
    """RAM, the process that writes it as the guest, and us who write it as the secondary."""

    def __init__(self, looks: int) -> None:
        fd = os.memfd_create("vm")
        os.ftruncate(fd, PAGES * PAGE_SIZE)
        self.ram = GuestRam(fd, GuestLayout.flat(PAGES))
        os.close(fd)
        self.tracker = SecondaryTracker(self.ram, looks=looks)
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
        for pfn in pfns:
            self._write(pfn)

    def move(self) -> Kernel:
        """The guest is in another process."""
        old, self.kernel = self.kernel, Kernel()
        self.tracker.follow(self.kernel)
        return old

    def scan(self, *, live: bool = False) -> set[int]:
        bitmap = DirtyBitmap(PAGES)
        assert self.tracker.scan(bitmap, live=live) == bitmap.count()
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
    vm.tracker.absorb()
    vm.guest_writes(7)
    assert vm.scan() == {7}


def test_what_a_load_writes_is_reported(vm: Vm) -> None:
    vm.we_write(1)
    vm.tracker.absorb()
    vm.guest_writes(2)  # the process writes, while it loads
    assert vm.scan() == {2}


def test_a_look_keeps_what_it_finds_for_the_next_scan(vm: Vm) -> None:
    vm.guest_writes(2)
    vm.kernel.written.add(4)  # with what was there
    assert vm.tracker.look() == 1
    assert vm.tracker.looks_left == 2
    assert vm.tracker.look() == 0
    vm.guest_writes(3)
    assert vm.scan() == {2, 3, 4}
    assert vm.tracker.name == "uffd"


def test_a_look_finds_a_tracker_that_misses_a_page(vm: Vm) -> None:
    vm.kernel.blind = {5}
    vm.guest_writes(5)
    vm.tracker.look()
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
    assert vm.tracker.name == "uffd+shadow"


def test_the_audit_ends_after_its_looks(vm: Vm) -> None:
    for left in (3, 2, 1):
        assert vm.tracker.looks_left == left and vm.tracker.has_shadow
        assert vm.tracker.name == "uffd+shadow"
        vm.guest_writes(left)
        assert vm.scan() == {left}
    assert vm.tracker.name == "uffd"
    assert not vm.tracker.has_shadow
    vm.move()
    assert vm.tracker.name == "uffd"


def test_a_live_scan_is_no_look_but_counts_as_reported(vm: Vm) -> None:
    vm.guest_writes(1)
    assert vm.scan(live=True) == {1}
    assert vm.tracker.looks_left == 3
    vm.guest_writes(2)
    assert vm.scan() == {2}
    assert vm.tracker.looks_left == 2


@pytest.mark.parametrize("while_loading", [False, True])
def test_a_tracker_that_misses_a_page_is_replaced_for_good(
    vm: Vm, while_loading: bool, caplog: pytest.LogCaptureFixture
) -> None:
    vm.kernel.blind = {9}
    if while_loading:
        vm.we_write(1)
        vm.tracker.absorb()
    vm.guest_writes(8, 9)
    with caplog.at_level(logging.WARNING):
        assert vm.scan() == ALL
    assert "missed 1 written pages" in caplog.text
    assert vm.tracker.name == "shadow"
    vm.guest_writes(9)
    assert vm.scan() == {9}
    next_kernel = Kernel()
    vm.tracker.follow(next_kernel)
    assert next_kernel.closed
    vm.guest_writes(10)
    assert vm.scan() == {10}


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
    vm.tracker.absorb()
    vm.guest_writes(4)
    assert vm.scan() == {4}
    vm.close()


STEPS = st.one_of(
    st.tuples(st.just("guest"), st.integers(0, PAGES - 1)),
    st.tuples(st.just("checkpoint"), st.booleans()),
    st.tuples(st.just("scan"), st.booleans()),
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
            else:
                reported = vm.scan(live=step == "scan" and bool(value))
                assert written <= reported
                assert not is_whole or reported == written
                written = set()
            if step == "checkpoint":
                vm.we_write(0, 1)
                vm.tracker.absorb()
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
    tracker.scan(bitmap, live=False)
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
