"""The daemon's state folder: private, ours alone, and rid of what a crashed run left there.

    lock                     held while a daemon lives
    control.sock, run/       sockets, the guest's log, and the pid file of its QEMU
    primary-ram              RAM of a guest that was started here
    replica/                 what a secondary holds; store/ says what it is worth
    term                     the newest term, of a pair without arbiter

A QEMU that outlived its daemon is known by pid and start time, so nobody else's process is ever ended.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
from pathlib import Path

from replicator.errors import ConfigError
from replicator.guests.qemu_process import PID_FILE, end_leftover
from replicator.store.replica_files import remove_files

_LOG = logging.getLogger(__name__)

LOCK_FILE = "lock"
RUN_DIR = "run"
REPLICA_DIR = "replica"
PRIMARY_RAM = "primary-ram"


class StateFolder:
    """Whoever came out of `claim` has the folder for as long as the process lives, or until `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock_fd = -1

    @property
    def run_dir(self) -> Path:
        return self.path / RUN_DIR

    @property
    def replica_dir(self) -> Path:
        return self.path / REPLICA_DIR

    @property
    def primary_ram(self) -> Path:
        return self.path / PRIMARY_RAM

    def claim(self, *, spare_guest: bool = False) -> None:
        """Lock the folder and remove what a crash left. `spare_guest`: a QEMU that lives on may be attached again.

        ConfigError when another daemon has the folder or it cannot be used, GuestError when a QEMU does not end.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.path.chmod(0o700)
            self._lock_fd = os.open(
                self.path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
            )
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another daemon uses {self.path}", hint="stop it, or set another [node] state_dir"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"state folder {self.path} cannot be used: {error.strerror}",
                hint="set [node] state_dir to a folder on a tmpfs that this user may write",
            ) from error
        self._remove_leftovers(spare_guest=spare_guest)

    def _remove_leftovers(self, *, spare_guest: bool) -> None:
        if not spare_guest:
            for pid_file in sorted(self.run_dir.rglob(PID_FILE)):
                if (pid := end_leftover(pid_file.parent)) is not None:
                    _LOG.warning("ended QEMU process %d, which an earlier run had left behind", pid)
        kept = _read_bytes(self.run_dir / PID_FILE) if spare_guest else None
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir(mode=0o700)
        if kept is not None:
            descriptor = os.open(self.run_dir / PID_FILE, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(kept)
        self.primary_ram.unlink(missing_ok=True)

    def remove_replica(self) -> None:
        """Free the memory of a replica that nobody may promote any more."""
        with contextlib.suppress(FileNotFoundError):
            remove_files(self.replica_dir)

    def remove_primary_ram(self) -> None:
        """Free the memory of a guest that was started here and has moved."""
        self.primary_ram.unlink(missing_ok=True)

    def release(self) -> None:
        """Give the folder back, without the RAM of a guest that is gone. May be repeated."""
        if self._lock_fd < 0:
            return
        self.primary_ram.unlink(missing_ok=True)
        os.close(self._lock_fd)
        self._lock_fd = -1


def _read_bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
