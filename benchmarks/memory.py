"""The native core beside the least that its work can cost: copies of the same bytes.

    python benchmarks/memory.py [--rounds 200]

Gather and scatter move scattered frames between a guest's RAM and a PAGE_DATA body; a loop of memcpy over the same list
of pages is the least that can cost, a plain copy of as many bytes in one piece what memory allows. The trackers' scans
find the same written pages.
"""

from __future__ import annotations

import argparse
import mmap
import os
import random
from array import array
from collections.abc import Callable
from functools import partial

from plain_copy import load_plain_copy
from tools import show, time_once, time_rounds

from replicator.memory import GuestLayout, GuestRam, ShadowTracker, UffdTracker, open_own_uffd
from replicator.units import PAGE_SIZE

RAM_PAGES = 65_536
#: What a 50 ms epoch of a busy guest dirties, and a large one.
EPOCH_PAGES = (160, 4096)


class World:
    """256 MiB of RAM that this process writes as a guest would."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ram")
        os.ftruncate(self.fd, RAM_PAGES * PAGE_SIZE)
        self.layout = GuestLayout.flat(RAM_PAGES)
        self.ram = GuestRam(self.fd, self.layout)
        self.guest = mmap.mmap(self.fd, RAM_PAGES * PAGE_SIZE)
        for page in range(RAM_PAGES):
            self.guest[page * PAGE_SIZE] = 1
        self._chance = random.Random(1)

    def choose(self, pages: int) -> array[int]:
        return array("Q", sorted(self._chance.sample(range(RAM_PAGES), pages)))

    def write(self, pfns: array[int]) -> None:
        for pfn in pfns:
            self.guest[pfn * PAGE_SIZE + 8] = self._chance.randrange(256)


def measure_copies(world: World, rounds: int) -> None:
    copy_pages = load_plain_copy()
    for pages in EPOCH_PAGES:
        pfns, size = world.choose(pages), pages * PAGE_SIZE
        body, other, block = bytearray(size), bytearray(size), memoryview(world.guest)[:size]

        def copy(into: bytearray = other, source: memoryview = block) -> None:
            into[:] = source

        steps: dict[str, Callable[[], object]] = {
            "memcpy of each page": partial(copy_pages, world.guest, pfns, body),
            "gather into a PAGE_DATA body": partial(world.ram.gather, pfns, body),
            "scatter from it": partial(world.ram.scatter, pfns, body),
            "which of them are zero": partial(world.ram.zero_mask, pfns),
            "plain copy, one piece": copy,
        }
        show(f"{pages} scattered pages", time_rounds(steps, rounds), size)
        block.release()


def measure_trackers(world: World, rounds: int) -> None:
    """Both see the same writes. Each scan clears what it reports."""
    trackers = {
        "userfaultfd + PAGEMAP_SCAN": UffdTracker(os.getpid(), open_own_uffd(), world.ram),
        "comparing with a shadow copy": ShadowTracker(world.ram),
    }
    for tracker in trackers.values():
        tracker.arm()
        tracker.scan(world.layout.new_bitmap())
    for pages in EPOCH_PAGES:
        times: dict[str, list[float]] = {}
        for _ in range(max(3, rounds // 20)):
            world.write(world.choose(pages))
            steps = {
                name: partial(tracker.scan, world.layout.new_bitmap()) for name, tracker in trackers.items()
            }
            for name, step in steps.items():
                times.setdefault(name, []).append(time_once(step))
        show(f"scan of 256 MiB with {pages} written pages", times)
    for tracker in trackers.values():
        tracker.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    world = World()
    measure_copies(world, rounds)
    measure_trackers(world, rounds)


if __name__ == "__main__":
    main()
