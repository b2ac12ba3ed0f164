"""The BIOS: which file it is, and how a standby gets it.

A QEMU that waits for an incoming state throws away what it read for its ROMs, because an ordinary migration brings
them along. Ours brings devices only, so the guest that took over would fetch zeros at its next reset. Hence the
standby's ROM is filled from the file, before any vCPU runs.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
from pathlib import Path

from replicator.errors import GuestError
from replicator.guests.qemu_qmp import QmpSession

#: What pc and q35 machines boot when nothing else was asked for.
DEFAULT_FIRMWARE = "bios-256k.bin"
_END_ADDRESS = 1 << 32
_BYTES_MAX = 16 << 20
_LIST_TIMEOUT_S = 20.0
_MAPPED = re.compile(r"Host virtual address for 0x[0-9a-f]+ \((?P<block>\S+)\) is (?P<address>0x[0-9a-f]+)")


@functools.cache
def _data_dirs(program: str) -> tuple[Path, ...]:
    """Where this QEMU looks for its own files."""
    try:
        done = subprocess.run(
            [program, "-L", "help"], capture_output=True, text=True, timeout=_LIST_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise GuestError(f"cannot ask {program} for its data folders: {error}") from error
    return tuple(map(Path, done.stdout.splitlines()))


async def find_firmware(session: QmpSession, pid: int) -> Path:
    """The file that the QEMU behind `session` has its BIOS from."""
    name = str(await session.get_property("/machine", "firmware") or DEFAULT_FIRMWARE)
    folders = _data_dirs(os.path.realpath(f"/proc/{pid}/exe"))
    for path in (Path(name), *(folder / name for folder in folders)):
        if path.is_file():
            return path
    searched = ", ".join(map(str, folders))
    raise GuestError(f"firmware {name} is in none of {searched}", hint="apt-get install seabios")


async def fill_rom(session: QmpSession, pid: int) -> None:
    """Write the BIOS into the ROM of a QEMU that waits for an incoming state and has not run yet."""
    path = await find_firmware(session, pid)
    if not 0 < path.stat().st_size <= _BYTES_MAX:
        raise GuestError(f"firmware {path} has {path.stat().st_size} bytes")
    image = path.read_bytes()
    answer = await session.ask_human(f"gpa2hva {_END_ADDRESS - len(image):#x}")
    mapped = _MAPPED.match(answer)
    if mapped is None or mapped["block"] != "pc.bios":
        raise GuestError(f"{path} does not fit the machine's BIOS ROM: {answer.strip()}")
    try:
        with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
            written = os.pwrite(memory.fileno(), image, int(mapped["address"], 16))
    except OSError as error:
        raise GuestError(f"cannot write the BIOS into QEMU process {pid}: {error.strerror}") from error
    if written != len(image):
        raise GuestError(f"only {written} bytes of {path} went into QEMU process {pid}")
