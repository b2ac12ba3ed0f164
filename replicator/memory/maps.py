"""What a process has mapped, read from /proc/PID/maps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from replicator.errors import GuestError
from replicator.units import PAGE_SIZE


class Area(NamedTuple):
    """One mapping: addresses [start, end) show its file (device and inode) from byte `offset` on."""

    start: int
    end: int
    access: str
    offset: int
    device: tuple[int, int]
    inode: int
    name: str


def parse_line(line: str) -> Area:
    """One line of /proc/PID/maps, see proc_pid_maps(5)."""
    addresses, access, offset, device, inode, *name = line.split(maxsplit=5)
    start, end = (int(part, 16) for part in addresses.split("-"))
    major, minor = (int(part, 16) for part in device.split(":"))
    return Area(start, end, access, int(offset, 16), (major, minor), int(inode), "".join(name).strip())


def read_areas(pid: int) -> Iterator[Area]:
    """All mappings of a process. GuestError when it is gone or not ours to see."""
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as lines:
            yield from (parse_line(line) for line in lines)
    except OSError as error:
        raise GuestError(f"cannot read the mappings of process {pid}: {error.strerror}") from error


def find_file_areas(pid: int, fd: int, file_bytes: int) -> list[Area]:
    """The shared mappings through which a process can write the first `file_bytes` of the open file `fd`.

    There may be several, of parts or of the same part. GuestError when together they do not show the whole
    of it: the process does not have this file as its RAM, or not shared."""
    status = os.fstat(fd)
    key = (os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino
    areas = [a for a in read_areas(pid) if (a.device, a.inode) == key and "s" in a.access]
    areas = [
        a._replace(end=min(a.end, a.start + file_bytes - a.offset)) for a in areas if a.offset < file_bytes
    ]
    _check_whole(areas, pid, file_bytes)
    return areas


def _check_whole(areas: list[Area], pid: int, file_bytes: int) -> None:
    shown = 0
    for area in sorted(areas, key=lambda a: a.offset):
        if area.offset > shown:
            break
        shown = max(shown, area.offset + area.end - area.start)
    if shown < file_bytes:
        raise GuestError(
            f"process {pid} maps {shown // PAGE_SIZE} of the {file_bytes // PAGE_SIZE} pages of the RAM file",
            hint="the guest must use this very file as its RAM, mapped shared (share=on)",
        )
