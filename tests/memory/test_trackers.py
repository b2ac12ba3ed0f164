"""Trackers on a real process that writes its RAM."""

from __future__ import annotations

import functools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
from memory_tools import TIMEOUT_S, Writer

from replicator.errors import GuestError, NativeError
from replicator.memory import (
    Audit,
    DirtyBitmap,
    DirtyTracker,
    Fingerprints,
    GuestLayout,
    GuestRam,
    ShadowTracker,
    UffdTracker,
    inject_uffd,
    pfn_array,
    receive_preloaded_uffd,
)
from replicator.memory.uffd import SOCKET_VARIABLE
from replicator.units import PAGE_SIZE

StartWriter = Callable[..., Writer]
Track = Callable[[Writer], UffdTracker]


@pytest.fixture
def track(ram: GuestRam) -> Iterator[Track]:
    """Inject, arm and pass the first scan."""
    trackers: list[UffdTracker] = []

    def make(writer: Writer) -> UffdTracker:
        trackers.append(UffdTracker(writer.pid, inject_uffd(writer.pid), ram))
        trackers[-1].arm()
        assert trackers[-1].scan(ram.layout.new_bitmap()) == ram.layout.pages
        return trackers[-1]

    yield make
    for tracker in trackers:
        tracker.close()


def pfns_of(layout: GuestLayout, file_pages: list[int]) -> list[int]:
    by_page = {layout.file_page(pfn): pfn for pfn in layout.pfns()}
    return sorted(by_page[page] for page in set(file_pages))


class Scanner(Protocol):
    def scan(self, bitmap: DirtyBitmap) -> int: ...


def check_random_writes(tracker: Scanner, writer: Writer, layout: GuestLayout, epochs: int = 20) -> None:
    """Each scan reports exactly the pages written since the last."""
    chance = random.Random(epochs)
    for _ in range(epochs):
        pages = chance.sample(range(layout.pages), chance.randint(0, 40))
        writer.write_pages(pages)
        bitmap = layout.new_bitmap()
        assert tracker.scan(bitmap) == len(pages)
        assert bitmap.pfns().tolist() == pfns_of(layout, pages)


def test_preloaded_guest_hands_over_its_uffd(
    ram: GuestRam, start_writer: StartWriter, listener: socket.socket, preloaded: dict[str, str]
) -> None:
    writer = start_writer("read", preloaded)
    uffd = receive_preloaded_uffd(listener, writer.pid, timeout_s=TIMEOUT_S)
    assert not os.get_inheritable(uffd)
    writer.write_pages([0])
    tracker = UffdTracker(writer.pid, uffd, ram)
    tracker.arm()
    bitmap = ram.layout.new_bitmap()
    assert tracker.scan(bitmap) == ram.layout.pages
    assert bitmap.pfns() == ram.layout.pfns()
    check_random_writes(tracker, writer, ram.layout)
    assert writer.tell("environment") == "None None"
    tracker.close()
    writer.write_pages([1, 2, 3])


@pytest.mark.parametrize("mode", ["read", "busy", "threads", "split", "signals"])
def test_injected_tracker_misses_nothing(
    ram: GuestRam, start_writer: StartWriter, track: Track, mode: str
) -> None:
    writer = start_writer(mode)
    writer.write_pages([0])
    fds_before = writer.tell("report").split()[3]
    tracker = track(writer)
    check_random_writes(tracker, writer, ram.layout)
    tracker.check_mappings()
    _, broken, _, fds = writer.tell("report").split()
    assert broken == "0"
    assert fds == fds_before


@pytest.mark.parametrize("mode", ["busy", "threads", "signals"])
def test_many_injections_leave_the_process_as_it_was(start_writer: StartWriter, mode: str) -> None:
    writer = start_writer(mode)
    before = writer.tell("report").split()
    for _ in range(200):
        os.close(inject_uffd(writer.pid))
    after = writer.tell("report").split()
    assert after[1] == "0"
    assert after[3] == before[3]
    if mode == "signals":
        assert int(after[2]) > int(before[2])
    else:
        assert int(after[0]) > int(before[0])


def test_sleeps_and_polls_are_restarted_not_cut_short(start_writer: StartWriter) -> None:
    """A nap of 0.3 s under constant injection is as long as one without, and its poll still times out."""
    writer = start_writer("read")
    assert writer.tell("nap") == "napping"
    for _ in range(150):
        os.close(inject_uffd(writer.pid))
    assert writer.process.stdout is not None
    slept, polled, ready = writer.process.stdout.readline().split()
    assert 0.3 <= float(slept) < 5 and 0.29 <= float(polled) < 5 and ready == "0"


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_a_stopped_process_stays_stopped(ram: GuestRam, start_writer: StartWriter, track: Track) -> None:
    writer = start_writer("read")
    writer.write_pages([0])
    os.kill(writer.pid, signal.SIGSTOP)
    os.waitid(os.P_PID, writer.pid, os.WSTOPPED | os.WNOWAIT)
    tracker = track(writer)
    # It is let go in a moment in which the kernel may still call it running, and stops again by itself.
    give_up_s = time.monotonic() + 10
    while state_of(writer.pid) != "T":
        assert time.monotonic() < give_up_s
    os.kill(writer.pid, signal.SIGCONT)
    check_random_writes(tracker, writer, ram.layout, 3)


def test_live_writes_are_in_this_scan_or_the_next(
    ram: GuestRam, start_writer: StartWriter, track: Track
) -> None:
    """The guest writes while we scan: all scans together report every page that was written."""
    writer = start_writer("read")
    tracker = track(writer)
    everything = list(range(ram.layout.pages))
    assert writer.process.stdin is not None and writer.process.stdout is not None
    writer.process.stdin.write("write " + " ".join(map(str, everything)) + "\n")
    writer.process.stdin.flush()
    seen = ram.layout.new_bitmap()
    while seen.count() < len(everything):
        tracker.scan(seen)
    assert writer.process.stdout.readline() == "done\n"
    # A scan between a page's fault and its write reports the page, and the next one does again.
    assert tracker.scan(ram.layout.new_bitmap()) <= 1
    assert tracker.scan(ram.layout.new_bitmap()) == 0


def test_scan_adds_to_what_the_bitmap_holds(ram: GuestRam, start_writer: StartWriter, track: Track) -> None:
    writer = start_writer()
    tracker = track(writer)
    bitmap = ram.layout.new_bitmap()
    bitmap.set(7)
    writer.write_pages([9])
    assert tracker.scan(bitmap) == 1
    assert bitmap.pfns().tolist() == [7, 9]


def test_arming_again_reports_every_page_again(
    ram: GuestRam, start_writer: StartWriter, track: Track
) -> None:
    writer = start_writer()
    tracker = track(writer)
    tracker.arm()
    assert tracker.scan(ram.layout.new_bitmap()) == ram.layout.pages
    check_random_writes(tracker, writer, ram.layout, 3)


def test_a_dead_process_is_an_error_not_a_clean_guest(
    start_writer: StartWriter, track: Track, ram: GuestRam
) -> None:
    writer = start_writer()
    tracker = track(writer)
    writer.end()
    with pytest.raises(GuestError, match="is gone"):
        tracker.scan(ram.layout.new_bitmap())
    with pytest.raises(GuestError):
        inject_uffd(writer.pid)


def test_a_process_without_this_ram_is_refused(
    start_writer: StartWriter, make_ram: Callable[..., GuestRam]
) -> None:
    writer = start_writer()
    writer.write_pages([0])
    tracker = UffdTracker(writer.pid, inject_uffd(writer.pid), make_ram(GuestLayout.flat(256)))
    with pytest.raises(GuestError, match="maps 0 of the 256 pages"):
        tracker.arm()
    tracker.close()


def test_nobody_hands_over(listener: socket.socket) -> None:
    with pytest.raises(GuestError, match="handed over no userfaultfd"):
        receive_preloaded_uffd(listener, os.getpid(), timeout_s=0.01)


def test_a_stranger_at_the_socket_is_refused(
    start_writer: StartWriter, listener: socket.socket, preloaded: dict[str, str]
) -> None:
    start_writer("read", preloaded)
    with pytest.raises(GuestError, match="instead of process"):
        receive_preloaded_uffd(listener, os.getpid(), timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("path", ["/nonexistent/socket", "x" * 300, ""])
def test_preload_without_a_listener_is_harmless(preloaded: dict[str, str], path: str) -> None:
    environment = {**preloaded, SOCKET_VARIABLE: path}
    without = {
        name: value for name, value in preloaded.items() if name not in ("LD_PRELOAD", SOCKET_VARIABLE)
    }
    code = "import os; print(os.environ.get('LD_PRELOAD'), os.listdir('/proc/self/fd'))"
    command = [sys.executable, "-c", code]
    plain = subprocess.run(
        command, env=without, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    run = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, timeout=TIMEOUT_S
    )
    assert (run.stdout, run.stderr) == (plain.stdout, plain.stderr)


def test_a_preloaded_guest_keeps_its_free_memory(preloaded: dict[str, str]) -> None:
    # A heap with a hole below its top, as after a load. What malloc_trim returns: whether it has given memory back.
    code = """
import ctypes
libc, size, count = ctypes.CDLL(None), 100_000, 20
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
blocks, last = [libc.malloc(size) for _ in range(count)], libc.malloc(size)
for block in blocks:
    libc.memset(block, 1, size)
for block in blocks:
    libc.free(block)
print(libc.malloc_trim(0))
"""
    gave_back = []
    for environment in ({"PATH": os.environ["PATH"]}, preloaded):
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True, timeout=TIMEOUT_S
        )
        gave_back.append(int(run.stdout))
    assert gave_back == [1, 0]


def test_shadow_reports_exactly_the_changes(ram: GuestRam, start_writer: StartWriter) -> None:
    writer = start_writer()
    shadow = ShadowTracker(ram)
    shadow.arm()
    assert shadow.scan(ram.layout.new_bitmap()) == ram.layout.pages
    check_random_writes(shadow, writer, ram.layout)
    shadow.close()


def test_shadow_looks_at_a_part_and_takes_what_it_is_told(ram: GuestRam) -> None:
    pages = ram.layout.file_bytes // PAGE_SIZE
    shadow = ShadowTracker(ram)
    shadow.arm()
    shadow.scan(ram.layout.new_bitmap())
    ram.scatter(pfn_array([0, 1]), bytes([7]) * (2 * PAGE_SIZE))
    told = ram.layout.new_bitmap()
    told.set_range(1, 1)
    shadow.absorb(told)
    found = ram.layout.new_bitmap()
    assert shadow.scan_part(1, pages - 1, found) == 0
    assert shadow.scan_part(0, pages, found) == 1
    assert list(found.pfns()) == [0]
    with pytest.raises(NativeError):
        shadow.scan_part(pages, 1, found)
    shadow.close()


class Live:
    """An audit whose scans are all live."""

    def __init__(self, audit: Audit) -> None:
        self.scan = functools.partial(audit.scan, live=True)


def test_audit_proves_the_uffd_tracker_and_gives_the_fingerprints_back(
    ram: GuestRam, start_writer: StartWriter, track: Track
) -> None:
    writer = start_writer("threads")
    audit = Audit(track(writer), Fingerprints(ram), looks=11)
    audit.arm()
    assert audit.name == "uffd+audit"
    assert audit.scan(ram.layout.new_bitmap()) == ram.layout.pages
    check_random_writes(audit, writer, ram.layout, 3)
    assert audit.looks_left == 11
    audit.scan(ram.layout.new_bitmap(), live=True)
    assert audit.looks_left == 10
    check_random_writes(Live(audit), writer, ram.layout, 10)
    assert audit.looks_left == 0 and audit.proved_pages > 100
    assert audit.name == "uffd"
    check_random_writes(audit, writer, ram.layout, 3)
    audit.close()


def test_audit_catches_writes_past_the_tracked_process(
    ram: GuestRam, start_writer: StartWriter, track: Track
) -> None:
    """A second process with the same file is what a tracker of the first cannot see."""
    audit = Audit(track(start_writer()), Fingerprints(ram), looks=5)
    audit.arm()
    audit.scan(ram.layout.new_bitmap(), live=True)
    start_writer().write_pages([17, 200])
    bitmap = ram.layout.new_bitmap()
    with pytest.raises(GuestError, match="missed 2 written pages: 0x11, 0x3f0"):
        audit.scan(bitmap, live=True)
    audit.close()


def test_audit_goes_on_looking_at_pages_that_are_watched_anew(
    ram: GuestRam, start_writer: StartWriter, track: Track
) -> None:
    writer = start_writer()
    audit = Audit(track(writer), Fingerprints(ram), looks=5)
    audit.arm()
    for pages in ([], [17], [17], [200]):
        writer.write_pages(pages)
        bitmap = ram.layout.new_bitmap()
        audit.scan(bitmap, live=True)
    assert bitmap.pfns().tolist() == [1008]
    start_writer().write_pages([17])
    with pytest.raises(GuestError, match="missed 1 written pages: 0x11"):
        audit.scan(ram.layout.new_bitmap(), live=True)
    audit.close()


def test_fingerprints_report_exactly_the_changes(ram: GuestRam, start_writer: StartWriter) -> None:
    writer = start_writer()
    prints = Fingerprints(ram)
    filled = prints.look().count()
    assert filled <= ram.layout.pages
    assert prints.look().count() == 0
    writer.write_pages([0, 17, 255])
    some = ram.layout.new_bitmap()
    some.set(17)
    assert prints.look_at(some).pfns().tolist() == [17]
    assert prints.look().pfns().tolist() == [0, 1063]
    prints.close()


class Forgetful:
    """A tracker that reports each written page one scan late."""

    name = "forgetful"

    def __init__(self, inner: DirtyTracker) -> None:
        self._inner = inner
        self._late: DirtyBitmap | None = None

    def arm(self) -> None:
        self._inner.arm()

    def scan(self, bitmap: DirtyBitmap) -> int:
        fresh = DirtyBitmap(bitmap.pages)
        self._inner.scan(fresh)
        late, self._late = self._late or fresh, fresh
        bitmap.merge(late)
        return late.count()

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("pauses", [0, 3])
def test_audit_catches_a_late_tracker(ram: GuestRam, start_writer: StartWriter, pauses: int) -> None:
    writer = start_writer()
    audit = Audit(Forgetful(ShadowTracker(ram)), Fingerprints(ram), looks=5)
    audit.arm()
    bitmap = ram.layout.new_bitmap()
    for _ in range(3):
        audit.scan(bitmap, live=True)
    for _ in range(pauses):
        audit.scan(bitmap)
    writer.write_pages([3])
    with pytest.raises(GuestError, match="the forgetful tracker missed 1 written pages: 0x3"):
        audit.scan(bitmap, live=True)
    audit.close()
