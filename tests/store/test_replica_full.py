"""A full file system is an error that names the directory, and never costs the committed epoch."""

from __future__ import annotations

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_tools import Shape, commit, make_epoch

from replicator.errors import StoreError
from replicator.store import ReplicaStore

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small tmpfs needs root")
SMALL_STAGING = 2 * (8 + 8 + 8 * 8 + 8 * 4096)


@pytest.fixture
def small_tmpfs(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    mounted: list[Path] = []

    def mount(pages: int) -> Path:
        point = tmp_path / "full"
        point.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={pages * 4096}", "replicator-test", str(point)], check=True
        )
        mounted.append(point)
        return point

    yield mount
    gc.collect()  # a traceback may still hold a mapping
    for point in mounted:
        subprocess.run(["umount", "--lazy", str(point)], check=True)


def fill(directory: Path, leave_pages: int) -> Path:
    """Take all space of the file system but `leave_pages`."""
    room = os.statvfs(directory)
    ballast = directory / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, (room.f_bavail - leave_pages) * room.f_frsize)
    return ballast


def check_message(error: StoreError, directory: Path) -> None:
    assert str(directory) in str(error) and "no space" in str(error)
    assert str(directory) in error.hint and "staging_mib" in error.hint


@pytest.mark.parametrize("pages", [1, 30, 70])
def test_no_room_at_start(small_tmpfs: Callable[[int], Path], shape: Shape, pages: int) -> None:
    """RAM needs 64 pages, staging 16 more: nothing is left to fail later."""
    directory = small_tmpfs(pages)
    store = shape.open(directory, SMALL_STAGING)
    with pytest.raises(StoreError) as caught:
        store.recover()
    check_message(caught.value, directory)


def synced(directory: Path, shape: Shape) -> ReplicaStore:
    store = shape.open(directory, SMALL_STAGING)
    store.recover()
    commit(store, make_epoch(1, 1, shape.full(1), b"state 1"))
    return store


@pytest.mark.parametrize("leave_pages", [0, 3, 20])
def test_no_room_for_the_undo_log(small_tmpfs: Callable[[int], Path], shape: Shape, leave_pages: int) -> None:
    directory = small_tmpfs(400)
    store = synced(directory, shape)
    ballast = fill(directory, leave_pages)
    made = make_epoch(1, 2, shape.full(2), b"state 2")
    with pytest.raises(StoreError) as caught:
        commit(store, made)
    check_message(caught.value, directory)
    assert store.promotable.ready and store.device_state() == b"state 1"
    assert store.ram_path.read_bytes() == shape.ram_image(shape.full(1))
    ballast.unlink()
    assert commit(store, made).epoch == 2
    assert store.ram_path.read_bytes() == shape.ram_image(shape.full(2))
    store.close()


def test_no_room_for_the_device_state(small_tmpfs: Callable[[int], Path], shape: Shape) -> None:
    directory = small_tmpfs(400)
    store = synced(directory, shape)
    ballast = fill(directory, 2)
    made = make_epoch(1, 2, {3: bytes(4096)}, b"s" * 40_000)
    with pytest.raises(StoreError) as caught:
        commit(store, made)
    check_message(caught.value, directory)
    assert store.promotable.ready and store.device_state() == b"state 1"
    ballast.unlink()
    assert commit(store, made).epoch == 2
    store.close()
