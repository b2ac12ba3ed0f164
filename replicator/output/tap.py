"""A TAP device: one Ethernet frame a read or write.

The device is created in the network namespace of the calling thread, or taken over if it exists and nobody has it
open (made by `ip tuntap add`, perhaps in a bridge already). It is set up when opened; it disappears with its
descriptor unless it was made persistent by others."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from pathlib import Path
from typing import Final

from replicator.errors import ConfigError, GuestError, ReplicatorError
from replicator.limits import FRAME_BYTES_MAX

TUN_DEVICE: Final = Path("/dev/net/tun")
NAME_BYTES_MAX: Final = 15
#: What an ordinary guest assumes of its network.
MTU_DEFAULT: Final = 1500
#: Ethernet header and one VLAN tag.
_HEADER_BYTES: Final = 18

# <linux/if_tun.h>, <linux/if.h>, <linux/sockios.h>
_TUNSETIFF: Final = 0x400454CA
_IFF_TAP: Final = 0x0002
_IFF_NO_PI: Final = 0x1000
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCGIFMTU: Final = 0x8921
_IFF_UP: Final = 0x1
_IFREQ_FLAGS = struct.Struct("16sH22x")
_IFREQ_INT = struct.Struct("16si20x")

#: Errors of one write that say something about that frame, or about this moment, but not about the device's end.
_FRAME_ERRORS: Final = frozenset(
    (errno.EINVAL, errno.EIO, errno.ENOBUFS, errno.ENOMEM, errno.EAGAIN, errno.EMSGSIZE)
)


class Tap:
    """An open TAP device. Frames are read and written without waiting."""

    def __init__(self, name: str, fd: int, mtu: int) -> None:
        self.name = name
        self.mtu = mtu
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    def read_frame(self) -> bytes | None:
        """The next frame from the network, None when there is none now. GuestError when the device is gone."""
        try:
            return os.read(self._fd, FRAME_BYTES_MAX)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno in _FRAME_ERRORS:
                return None
            raise gone_error(self.name, error.strerror) from error

    def write_frame(self, data: bytes) -> bool:
        """Send a frame to the network. False when it was not taken. GuestError when the device is gone."""
        try:
            os.write(self._fd, data)
        except OSError as error:
            if error.errno in _FRAME_ERRORS:
                return False
            raise gone_error(self.name, error.strerror) from error
        return True

    def close(self) -> None:
        """May be repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def gone_error(name: str, reason: str | None) -> GuestError:
    """TAP `name` cannot be read or written."""
    return GuestError(
        f"TAP device {name} cannot be used any more: {reason}",
        hint="was it deleted, or its network namespace?",
    )


def open_tap(name: str, *, mtu_min: int = MTU_DEFAULT, device: Path = TUN_DEVICE) -> Tap:
    """Open TAP `name`, set it up and check its MTU. ConfigError or GuestError says what is missing."""
    if not 0 < len(name.encode()) <= NAME_BYTES_MAX or "/" in name or "%" in name or name.split() != [name]:
        raise ConfigError(
            f"not a name for a TAP device: {name!r}", hint=f"1 to {NAME_BYTES_MAX} bytes, no / % or blank"
        )
    fd = _open_device(device)
    try:
        _attach(fd, name)
        _set_up(name)
        return Tap(name, fd, _check_mtu(name, mtu_min))
    except BaseException:
        os.close(fd)
        raise


def _open_device(device: Path) -> int:
    try:
        return os.open(device, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        hint = "modprobe tun; in a container: --device /dev/net/tun"
        raise GuestError(f"{device} does not exist", hint=hint) from error
    except PermissionError as error:
        hint = "run as root, or in a container with --device /dev/net/tun --cap-add NET_ADMIN"
        raise GuestError(f"{device} may not be opened", hint=hint) from error
    except OSError as error:
        raise GuestError(f"{device} cannot be opened: {error.strerror}", hint="modprobe tun") from error


def _attach(fd: int, name: str) -> None:
    request = _IFREQ_FLAGS.pack(name.encode(), _IFF_TAP | _IFF_NO_PI)
    try:
        fcntl.ioctl(fd, _TUNSETIFF, request)
    except OSError as error:
        raise _attach_error(error, name) from error


def _attach_error(error: OSError, name: str) -> ReplicatorError:
    if error.errno == errno.EPERM:
        return GuestError(f"TAP device {name} may not be created or opened", hint="CAP_NET_ADMIN is needed")
    if error.errno == errno.EBUSY:
        return ConfigError(f"TAP device {name} is in use by another process", hint="one TAP for each NIC")
    if error.errno == errno.EINVAL:
        return ConfigError(
            f"{name} exists and is not a TAP device for one queue without packet headers",
            hint=f"choose another name, or: ip link del {name}",
        )
    if error.errno == errno.ENOTTY:
        return GuestError(f"TAP device {name}: the tun device is not one", hint="check /dev/net/tun")
    return GuestError(f"TAP device {name} cannot be opened: {error.strerror}")


def _set_up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            answer = fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(name.encode(), 0))
            flags = _IFREQ_FLAGS.unpack(answer)[1]
            fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ_FLAGS.pack(name.encode(), flags | _IFF_UP))
        except OSError as error:
            hint = "CAP_NET_ADMIN is needed" if error.errno == errno.EPERM else ""
            raise GuestError(f"TAP device {name} cannot be set up: {error.strerror}", hint=hint) from error


def _check_mtu(name: str, mtu_min: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            answer = fcntl.ioctl(control, _SIOCGIFMTU, _IFREQ_INT.pack(name.encode(), 0))
        except OSError as error:
            raise GuestError(f"TAP device {name} does not tell its MTU: {error.strerror}") from error
    mtu: int = _IFREQ_INT.unpack(answer)[1]
    if mtu < mtu_min:
        hint = f"ip link set {name} mtu {mtu_min}"
        raise ConfigError(f"TAP device {name} has MTU {mtu}, the guest needs {mtu_min}", hint=hint)
    if mtu + _HEADER_BYTES >= FRAME_BYTES_MAX:
        hint = f"ip link set {name} mtu {mtu_min}"
        raise ConfigError(f"TAP device {name} has MTU {mtu}, its frames would be too large", hint=hint)
    return mtu
