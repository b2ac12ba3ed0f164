"""Whether kvm really works here. A /dev/kvm that opens proves nothing: inside some containers and clouds the vCPU does
not start, or lacks features that every guest needs. So a QEMU is started without disk or RAM to speak of, told to insist
on all features of the CPU model, and has to bring its firmware to its first line on the debug port.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

from replicator.errors import GuestError
from replicator.guests.qemu_command import QEMU
from replicator.guests.qemu_config import QemuGuestConfig

log = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 5.0
#: SeaBIOS's debug port, and how its first line begins.
DEBUG_PORT = 0x402
FIRST_WORD = b"SeaBIOS"

_answers: dict[tuple[str, str], str] = {}


async def choose_accel(config: QemuGuestConfig) -> str:
    """ "kvm" or "tcg" for this guest. GuestError when kvm is demanded and does not work."""
    if config.accel == "tcg":
        return "tcg"
    problem = await probe_kvm(config)
    if not problem:
        return "kvm"
    if config.accel == "kvm":
        raise GuestError(f"kvm does not work here: {problem}", hint='set accel = "auto" or "tcg"')
    log.info("using tcg, kvm does not work here: %s", problem)
    return "tcg"


async def probe_kvm(config: QemuGuestConfig) -> str:
    """Why kvm cannot run this guest's machine and CPU; empty when it can. Asked once a process."""
    key = config.machine, config.cpu
    if key not in _answers:
        _answers[key] = (
            await _probe(*key) if os.access("/dev/kvm", os.R_OK | os.W_OK) else "no access to /dev/kvm"
        )
    return _answers[key]


async def _probe(machine: str, cpu: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *_probe_command("kvm", machine, cpu),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        return await asyncio.wait_for(_judge(process), PROBE_TIMEOUT_S)
    except TimeoutError:
        return f"the firmware said nothing within {PROBE_TIMEOUT_S} s"
    finally:
        # One that ends by itself is not signalled: that would take its exit status from under asyncio, which warns.
        if process.stdout is None or not process.stdout.at_eof():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        await process.wait()


async def _judge(process: asyncio.subprocess.Process) -> str:
    if process.stdout is None or process.stderr is None:
        raise GuestError("the probe has no pipes")
    if (await process.stdout.readline()).startswith(FIRST_WORD):
        return ""
    words = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
    return words[-1] if words else "QEMU ended without a word"


def _probe_command(accel: str, machine: str, cpu: str) -> list[str]:
    return [
        *(QEMU, "-no-user-config", "-nodefaults", "-display", "none", "-machine", machine, "-m", "16"),
        *("-accel", accel, "-cpu", f"{cpu},enforce"),
        *(
            "-chardev",
            "stdio,id=debug,signal=off",
            "-device",
            f"isa-debugcon,iobase={DEBUG_PORT},chardev=debug",
        ),
    ]
