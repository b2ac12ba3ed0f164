"""An initramfs from plain files: cpio "newc" archive (kernel's early-userspace buffer format), gzip around it.

The output depends on nothing but the entries: no time stamps, no owner, entries in sorted order. Also finds the
shared libraries that ELF programs need, by reading their dynamic sections, so that no program of the host runs.
"""

from __future__ import annotations

import gzip
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from replicator.errors import GuestError

GZIP_LEVEL = 6
CPIO_MAGIC = "070701"
TRAILER = "TRAILER!!!"

PT_DYNAMIC, PT_INTERP = 2, 3
PT_LOAD = 1
DT_NULL, DT_NEEDED, DT_STRTAB = 0, 1, 5


@dataclass(frozen=True)
class Entry:
    """One file of the archive. `data` is the body, or the target of a symbolic link."""

    mode: int
    data: bytes = b""
    #: Device number, for device nodes.
    major: int = 0
    minor: int = 0


def regular(data: bytes, *, executable: bool = False) -> Entry:
    """A plain file."""
    return Entry(stat.S_IFREG | (0o755 if executable else 0o644), data)


def symlink(target: str) -> Entry:
    """A symbolic link to `target`."""
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int) -> Entry:
    """A character device node, for root only."""
    return Entry(stat.S_IFCHR | 0o600, b"", major, minor)


def directory() -> Entry:
    """A directory."""
    return Entry(stat.S_IFDIR | 0o755)


def with_parents(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """`entries` plus every directory above them."""
    everything = dict(entries)
    for name in entries:
        for parent in PurePosixPath(name).parents:
            if str(parent) != ".":
                everything.setdefault(str(parent), directory())
    return everything


def pad4(data: bytes) -> bytes:
    """`data` filled up with zero bytes to a multiple of four."""
    return data + bytes(-len(data) % 4)


def cpio_member(name: str, entry: Entry, inode: int) -> bytes:
    """One member: 13 fields of 8 hex digits after the magic, name, body, each padded to four bytes."""
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    encoded = name.encode() + b"\0"
    owner = mtime = device_major = device_minor = check = 0
    fields = (
        inode, entry.mode, owner, owner, links, mtime, len(entry.data), device_major, device_minor,
        entry.major, entry.minor, len(encoded), check,
    )  # fmt: skip
    header = CPIO_MAGIC + "".join(f"{field:08x}" for field in fields)
    return pad4(header.encode() + encoded) + pad4(entry.data)


def cpio_archive(entries: Mapping[str, Entry]) -> bytes:
    """The whole archive; parents come before their children because names are sorted by their parts."""
    everything = with_parents(entries)
    ordered = sorted(everything, key=lambda name: PurePosixPath(name).parts)
    members = [cpio_member(name, everything[name], number) for number, name in enumerate(ordered, start=1)]
    return b"".join(members) + cpio_member(TRAILER, Entry(0), 0)


def build_initramfs(entries: Mapping[str, Entry]) -> bytes:
    """Gzipped archive; equal entries give equal bytes."""
    return gzip.compress(cpio_archive(entries), GZIP_LEVEL, mtime=0)


class ElfFile:
    """Little-endian 64-bit ELF, read only as far as its interpreter and needed libraries."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        if data[:6] != b"\x7fELF\x02\x01":
            raise GuestError(f"{name} is not a 64-bit little-endian ELF file")
        offset, size, count = (
            self._number(32, 8),
            self._number(54, 2),
            self._number(56, 2),
        )
        self._segments = [self._segment(offset + index * size) for index in range(count)]

    def _number(self, offset: int, width: int) -> int:
        return int.from_bytes(self._data[offset : offset + width], "little")

    def _segment(self, at: int) -> tuple[int, int, int, int]:
        """Type, file offset, address and file size of the program header at `at`."""
        return (
            self._number(at, 4),
            self._number(at + 8, 8),
            self._number(at + 16, 8),
            self._number(at + 32, 8),
        )

    def _text(self, offset: int) -> str:
        return self._data[offset : self._data.index(b"\0", offset)].decode()

    def _file_offset(self, address: int) -> int:
        for kind, offset, start, size in self._segments:
            if kind == PT_LOAD and start <= address < start + size:
                return offset + address - start
        raise GuestError(f"no ELF segment holds address {address:#x}")

    def _dynamic(self) -> list[tuple[int, int]]:
        entries: list[tuple[int, int]] = []
        for kind, offset, _, size in self._segments:
            if kind == PT_DYNAMIC:
                for at in range(offset, offset + size, 16):
                    entries.append((self._number(at, 8), self._number(at + 8, 8)))
        tags = [tag for tag, _ in entries]
        return entries[: tags.index(DT_NULL)] if DT_NULL in tags else entries

    def interpreter(self) -> str | None:
        """Path of the dynamic loader; None for a static program or a library."""
        for kind, offset, _, _ in self._segments:
            if kind == PT_INTERP:
                return self._text(offset)
        return None

    def needed(self) -> list[str]:
        """Names of the libraries it wants (DT_NEEDED)."""
        dynamic = self._dynamic()
        tables = [value for tag, value in dynamic if tag == DT_STRTAB]
        if not tables:
            return []
        strings = self._file_offset(tables[0])
        return [self._text(strings + value) for tag, value in dynamic if tag == DT_NEEDED]


def find_library(name: str, folders: Sequence[Path]) -> Path:
    """The file that a library's name stands for in one of `folders`."""
    for folder in folders:
        candidate = folder / name
        if candidate.exists():
            return candidate.resolve()
    raise GuestError(
        f"the packages hold no library {name}",
        hint="a package of the guest changed its dependencies",
    )


def shared_libraries(programs: Iterable[Path], folders: Sequence[Path]) -> dict[str, Path]:
    """Library name -> file, for everything the programs need, directly or not."""
    found: dict[str, Path] = {}
    waiting = list(programs)
    while waiting:
        file = waiting.pop()
        for name in ElfFile(file.read_bytes(), file.name).needed():
            if name not in found:
                found[name] = find_library(name, folders)
                waiting.append(found[name])
    return found
