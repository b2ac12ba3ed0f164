"""Our end of a guest's NIC: a unix datagram socket, one frame a datagram.

Bound to `relay_path` and connected to `guest_path`. Connected both because only then does the kernel let the guest
send more than a handful of frames before we read (net.unix.max_dgram_qlen does not count for a peer), and because a
connected socket can be polled for room at the guest's side, whose queue has that bound.

A guest's process may come later than we, go, and come again at the same path: `connect` notices."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import termios
from enum import Enum
from pathlib import Path
from typing import Final, Protocol

from replicator.errors import ConfigError, GuestError
from replicator.limits import FRAME_BYTES_MAX

_SOCKET_MODE: Final = 0o600
_SUN_PATH_BYTES_MAX: Final = 107
_GONE_ERRORS: Final = frozenset(
    (errno.ECONNREFUSED, errno.ENOTCONN, errno.ENOENT, errno.ECONNRESET, errno.EPERM)
)
_FULL_ERRORS: Final = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM))


class NicPaths(Protocol):
    """The two sockets of a NIC; a guest's `NicEndpoint` is one."""

    @property
    def name(self) -> str: ...
    @property
    def mac(self) -> str: ...
    @property
    def guest_path(self) -> Path: ...
    @property
    def relay_path(self) -> Path: ...


class Sent(Enum):
    """What became of one frame for the guest."""

    GIVEN = "given"
    #: The guest's queue is full; poll for room.
    FULL = "full"
    #: Nobody is at the other end.
    GONE = "gone"
    #: This frame can never be given.
    REFUSED = "refused"


class FrameCosts:
    """What a queued datagram of some length counts in the sender's socket: measured, because the kernel rounds."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._costs: dict[int, int] = {}

    def cost(self, size: int) -> int:
        found = self._costs.get(size)
        if found is None:
            self._near.send(bytes(size))
            found = _unread_bytes(self._near)
            self._far.recv(size)
            self._costs[size] = found
        return found

    def close(self) -> None:
        self._near.close()
        self._far.close()


class NicSocket:
    """The relay's socket of one NIC. Not thread-safe."""

    def __init__(self, paths: NicPaths) -> None:
        self._paths = paths
        self._socket: socket.socket | None = None
        #: Which socket file we are connected to (inode numbers come again, times do not); None while nobody is there.
        self._peer: tuple[int, int, int] | None = None

    @property
    def connected(self) -> bool:
        return self._peer is not None

    def fileno(self) -> int:
        return self._open_socket.fileno()

    def open(self) -> None:
        """Bind `relay_path`, taking the place of a socket left behind there, and connect if the guest is there."""
        self._socket = bind_relay_socket(self._paths)
        self.connect()

    def close(self) -> None:
        """May be repeated."""
        if self._socket is None:
            return
        self._socket.close()
        self._socket = None
        self._peer = None
        remove_relay_socket(self._paths)

    def peer_changed(self) -> bool:
        """Whether another socket than the one we are connected to is at the guest's path. None there is no change:
        a connection outlives its name."""
        return self._peer_at_path() not in (None, self._peer)

    def connect(self) -> bool:
        """Connect to whoever is at the guest's path now. What the former peer sent and we did not read is gone."""
        peer = self._peer_at_path()
        self._peer = None
        if peer is None:
            return False
        try:
            self._open_socket.connect(str(self._paths.guest_path))
        except OSError as error:
            if error.errno in _GONE_ERRORS:
                return False
            raise GuestError(
                f"NIC {self._paths.name}: cannot connect to {self._paths.guest_path}: {error.strerror}"
            ) from error
        self._peer = peer
        return True

    def recv(self) -> bytes | None:
        """The guest's next frame, None when there is none now."""
        while True:
            try:
                return self._open_socket.recv(FRAME_BYTES_MAX + 1)
            except BlockingIOError:
                return None
            except ConnectionError:
                # Said once when a peer goes with frames of ours unread; what it sent comes after.
                continue

    def send(self, data: bytes) -> Sent:
        if self._peer is None:
            return Sent.GONE
        try:
            self._open_socket.send(data)
        except OSError as error:
            return self._failed_send(error)
        return Sent.GIVEN

    def unread_bytes(self) -> int:
        """What the guest has been sent and has not read, in the kernel's measure (see FrameCosts)."""
        return 0 if self._peer is None else _unread_bytes(self._open_socket)

    def _failed_send(self, error: OSError) -> Sent:
        if error.errno in _FULL_ERRORS:
            return Sent.FULL
        if error.errno in _GONE_ERRORS:
            self._peer = None
            return Sent.GONE
        if error.errno == errno.EMSGSIZE:
            return Sent.REFUSED
        raise GuestError(f"NIC {self._paths.name}: cannot send to the guest: {error.strerror}") from error

    @property
    def _open_socket(self) -> socket.socket:
        if self._socket is None:
            raise GuestError(f"NIC {self._paths.name}: the relay is not running")
        return self._socket

    def _peer_at_path(self) -> tuple[int, int, int] | None:
        try:
            found = os.stat(self._paths.guest_path)
        except OSError:
            return None
        return (found.st_dev, found.st_ino, found.st_ctime_ns) if stat.S_ISSOCK(found.st_mode) else None


def bind_relay_socket(paths: NicPaths) -> socket.socket:
    """A socket at `relay_path`, in the place of one left behind there. ConfigError or GuestError says why not."""
    for path in (paths.relay_path, paths.guest_path):
        if len(os.fsencode(path)) > _SUN_PATH_BYTES_MAX:
            raise ConfigError(f"socket path too long: {path}", hint="choose a shorter state directory")
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        # The file takes its mode from the socket.
        os.fchmod(made.fileno(), _SOCKET_MODE)
        _remove_socket(paths.relay_path)
        made.bind(str(paths.relay_path))
    except OSError as error:
        made.close()
        raise GuestError(
            f"NIC {paths.name}: cannot bind {paths.relay_path}: {error.strerror}",
            hint="does the directory exist, and may we write there?",
        ) from error
    return made


def remove_relay_socket(paths: NicPaths) -> None:
    """After the socket was closed. May be repeated."""
    with contextlib.suppress(OSError):
        paths.relay_path.unlink()


def _unread_bytes(one: socket.socket) -> int:
    answer = fcntl.ioctl(one, termios.TIOCOUTQ, bytes(4))
    size: int = struct.unpack("=i", answer)[0]
    return size


def _remove_socket(path: Path) -> None:
    """Remove what a crash left; anything but a socket stays, and binding fails on it."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()
