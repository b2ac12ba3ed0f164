"""The folder of a drill on a copy, `<state_dir>/drill`: one drill at a time, and rid of what a killed one left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from replicator.errors import ConfigError
from replicator.guests.qemu_process import end_leftover
from replicator.service.drill_desk import DRILL_DIR

RUN_DIR = "run"
_LOCK = "lock"


@contextlib.contextmanager
def drill_folder(state_dir: Path) -> Iterator[Path]:
    """The folder, empty but for our lock; it is removed in the end. ConfigError when another drill is under way."""
    folder = state_dir / DRILL_DIR
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be made: {error.strerror}",
            hint="run this on the secondary's host, as its daemon's user and with its CONFIG",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise ConfigError(f"another drill uses {folder}", hint="wait until it has ended") from None
    try:
        _clear(folder)
        yield folder
    finally:
        _clear(folder)
        (folder / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            folder.rmdir()
        os.close(lock)


def _clear(folder: Path) -> None:
    """End the guest that a killed drill may have left, known by pid and start time, and remove all files."""
    end_leftover(folder / RUN_DIR)
    for path in folder.iterdir():
        if path.name == _LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
