"""Rooms of limited size for the daemons' state: a tmpfs each, so that a full disk can be made and nobody else suffers.

A drill that was killed leaves its mounts behind; `remove_leftovers` finds them as the lab finds its namespaces.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from replicator.demo.lab import SCRATCH_ROOT, is_leftover
from replicator.errors import GuestError

_FILLER = "filler"
_TIMEOUT_S = 20


def remove_leftovers() -> None:
    """Unmount the rooms of drills whose process is gone."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        target = Path(line.split()[1])
        if target.is_relative_to(SCRATCH_ROOT) and target != SCRATCH_ROOT:
            owner = target.relative_to(SCRATCH_ROOT).parts[0]
            if is_leftover(owner):
                unmount(target)


@contextlib.contextmanager
def room(path: Path, mib: int) -> Iterator[Path]:
    """A tmpfs of this size at `path` while the context lasts. GuestError when it cannot be mounted."""
    path.mkdir(mode=0o700)
    _run("mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "replicator-drill", str(path))
    try:
        yield path
    finally:
        unmount(path)


def unmount(path: Path) -> None:
    """Also while something in it is open: it goes when that does."""
    _run("umount", "--lazy", str(path))


def fill(path: Path) -> None:
    """Take all the space there is."""
    space = os.statvfs(path)
    descriptor = os.open(path / _FILLER, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if space.f_bavail:
            os.posix_fallocate(descriptor, 0, space.f_bavail * space.f_bsize)
    finally:
        os.close(descriptor)


def empty(path: Path) -> None:
    """Give the space of `fill` back."""
    (path / _FILLER).unlink(missing_ok=True)


def remove_content(path: Path) -> None:
    """All that is in the room."""
    for inner in path.iterdir():
        if inner.is_dir():
            shutil.rmtree(inner)
        else:
            inner.unlink()


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise GuestError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}", hint="a drill needs root")
