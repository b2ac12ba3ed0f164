"""Which running QEMUs can be protected, and why others cannot.

What leaves a host at a checkpoint is the RAM and the device state, and nothing else; what tells written pages is the
page table of QEMU's process. So: all RAM is one shared backend; every other RAM block is a ROM, equal on both hosts;
nobody writes RAM through another mapping or punches holes into it; nothing is written to a disk; and every frame
passes our socket. Each rule that is broken is named, all of them at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from replicator.errors import GuestError
from replicator.guests.qemu_inspect import (
    DiskFacts,
    MemoryFacts,
    NicFacts,
    normalize_devices,
    read_disks,
    read_memory,
    read_nics,
)
from replicator.guests.qemu_qmp import QmpSession

MACHINE_PREFIXES = ("pc-i440fx-", "pc-q35-")
STATES = ("running", "paused")
#: RAM blocks that are ROMs made from files of QEMU itself or from the command line.
ROM_BLOCKS = re.compile(r"pc\.bios|pc\.rom|isa-bios|/rom@.+")
#: (how the device's type begins, why it does not go)
FORBIDDEN_DEVICES = (
    ("virtio-balloon", "it takes pages away without a write that a tracker sees"),
    ("virtio-mem", "it takes pages away without a write that a tracker sees"),
    ("virtio-pmem", "its memory is not copied"),
    ("vhost-", "another process writes to the guest's RAM"),
    ("vfio-", "real hardware writes to the guest's RAM and cannot be saved"),
    ("ivshmem", "another process writes to its memory"),
    ("pc-dimm", "memory beside the RAM backend is not copied"),
    ("nvdimm", "its memory is not copied"),
    ("cfi.pflash01", "its content is not copied; boot with the BIOS instead"),
    ("virtio-9p", "it cannot be saved"),
)
_BLOCK = re.compile(r"^\s*(?P<name>\S+)\s+\d+ \S+\s+0x[0-9a-f]{16}\s")


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rules look at."""

    status: str
    machine: str
    memory: list[MemoryFacts]
    ram_blocks: list[str]
    device_types: list[str]
    nics: list[NicFacts]
    disks: list[DiskFacts]


async def check_rules(session: QmpSession) -> None:
    """GuestError that names each rule which the guest behind `session` breaks."""
    broken = find_broken_rules(await _gather_facts(session))
    if broken:
        raise GuestError(
            f"this QEMU cannot be protected: {'; '.join(broken)}",
            hint="start it from a guest file, or with the options that docs/guests.md names",
        )


async def _gather_facts(session: QmpSession) -> Facts:
    devices = normalize_devices(await session.ask_human("info qtree"))
    return Facts(
        status=str((await session.execute("query-status"))["status"]),
        machine=str(await session.get_property("/machine", "type")).removesuffix("-machine"),
        memory=await read_memory(session),
        ram_blocks=parse_ram_blocks(await session.ask_human("info ramblock")),
        device_types=[line.removeprefix("dev ") for line in devices if line.startswith("dev ")],
        nics=await read_nics(session),
        disks=await read_disks(session),
    )


def parse_ram_blocks(text: str) -> list[str]:
    """The names in the answer to `info ramblock`."""
    return [found["name"] for line in text.splitlines() if (found := _BLOCK.match(line))]


def find_broken_rules(facts: Facts) -> list[str]:
    """A sentence for each rule that is broken; empty: the guest can be protected."""
    broken = []
    if facts.status not in STATES:
        broken.append(f"the guest is {facts.status}, neither running nor paused")
    if not facts.machine.startswith(MACHINE_PREFIXES):
        broken.append(f"machine type {facts.machine} is neither pc nor q35")
    return (
        broken
        + _check_memory(facts)
        + _check_devices(facts)
        + _check_nics(facts.nics)
        + _check_disks(facts.disks)
    )


def _check_memory(facts: Facts) -> list[str]:
    if len(facts.memory) != 1:
        return [
            f"the RAM must be one memory backend (-machine memory-backend=), there are {len(facts.memory)}"
        ]
    (memory,) = facts.memory
    if not memory.shared:
        return [f"memory backend {memory.name} is private (share=on is missing)"]
    known = {memory.name, f"/objects/{memory.name}"}
    others = [name for name in facts.ram_blocks if name not in known and not ROM_BLOCKS.fullmatch(name)]
    return [f"{name} is memory that is not copied ({_explain_block(name)})" for name in others]


def _explain_block(name: str) -> str:
    if "vga" in name or "vram" in name:
        return "start without a graphics card: -vga none"
    if name.endswith(".rom"):
        return "give the device an empty romfile="
    return "only RAM and ROMs go"


def _check_devices(facts: Facts) -> list[str]:
    return [
        f"device {kind}: {reason}"
        for kind in dict.fromkeys(facts.device_types)
        for prefix, reason in FORBIDDEN_DEVICES
        if kind.startswith(prefix)
    ]


def _check_nics(nics: list[NicFacts]) -> list[str]:
    return [
        f"NIC {nic.mac} is on {nic.backend or 'no'} netdev, not on dgram with two unix sockets"
        for nic in nics
        if nic.local is None or nic.remote is None
    ]


def _check_disks(disks: list[DiskFacts]) -> list[str]:
    broken = []
    for disk in disks:
        if not disk.read_only:
            broken.append(f"disk {disk.name} ({disk.path}) is writable, and disks are not replicated yet")
        elif disk.driver not in ("raw", "file"):
            broken.append(
                f"disk {disk.name} is {disk.driver}, only raw images can be proven equal on both hosts"
            )
    return broken
