"""The archive that the kernel unpacks, and the reading of ELF files."""

from __future__ import annotations

import gzip
import stat
import subprocess
from pathlib import Path

import pytest

from replicator.demo import initramfs
from replicator.demo.initramfs import (
    Entry,
    character_device,
    directory,
    regular,
    symlink,
)
from replicator.errors import GuestError

ENTRIES = {
    "init": regular(b"#!/bin/sh\n", executable=True),
    "bin/sh": symlink("busybox"),
    "dev/console": character_device(5, 1),
    "proc": directory(),
    "odd": regular(b"12345"),
}


def read_members(archive: bytes) -> dict[str, Entry]:
    """An independent reader of the newc format, by its definition in the kernel's buffer-format document."""
    members: dict[str, Entry] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701" and at % 4 == 0
        field = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        name_end = at + 110 + field[11]
        name = archive[at + 110 : name_end - 1].decode()
        if name == "TRAILER!!!":
            return members
        body = name_end + (-name_end % 4)
        members[name] = Entry(field[1], archive[body : body + field[6]], field[9], field[10])
        at = body + field[6] + (-field[6] % 4)


def test_archive_holds_every_entry_and_its_parents() -> None:
    members = read_members(initramfs.cpio_archive(ENTRIES))
    assert {name: members[name] for name in ENTRIES} == ENTRIES
    assert stat.S_ISDIR(members["bin"].mode) and stat.S_ISDIR(members["dev"].mode)


def test_parents_stand_before_children_for_any_order() -> None:
    backwards = dict(reversed(list(ENTRIES.items())))
    names = list(read_members(initramfs.cpio_archive(backwards)))
    for name in names:
        assert "/" not in name or names.index(name.rpartition("/")[0]) < names.index(name)


def test_equal_entries_give_equal_bytes() -> None:
    backwards = dict(reversed(list(ENTRIES.items())))
    first, second = (
        initramfs.build_initramfs(ENTRIES),
        initramfs.build_initramfs(backwards),
    )
    assert first == second
    assert read_members(gzip.decompress(first))["odd"].data == b"12345"


def test_needed_libraries_are_those_that_the_loader_takes() -> None:
    program = Path("/bin/bash").resolve()
    elf = initramfs.ElfFile(program.read_bytes(), "bash")
    assert "libc.so.6" in elf.needed()
    loader = elf.interpreter()
    assert loader is not None and Path(loader).exists()
    listing = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
    of_loader = {Path(line.split()[0]).name for line in listing.splitlines()} - {"linux-vdso.so.1"}
    folders = [Path("/lib/x86_64-linux-gnu"), Path("/usr/lib/x86_64-linux-gnu")]
    found = initramfs.shared_libraries([program], folders)
    assert set(found) | {Path(loader).name} == of_loader


def test_a_script_is_refused_by_name() -> None:
    with pytest.raises(GuestError, match="script is not a 64-bit"):
        initramfs.ElfFile(b"#!/bin/sh\n", "script")


def test_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match=r"no library libc\.so\.6|no library lib"):
        initramfs.shared_libraries([Path("/bin/bash").resolve()], [tmp_path])
