"""What a QEMU really is, asked from the process itself: its identity, its RAM, its NICs and disks.

Started and attached guests and standbys are all described by the same questions, so that two descriptions are equal
exactly when the machines are. The virtual hardware is the text of `info qtree` without what names the host's side
(paths, ids, MACs) and without what the guest may change (PCI windows), and the CPU's feature words. Firmware, kernel
and initrd count as disks do: they are read again at the guest's next reset, so they must be the same on both hosts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.errors import GuestError
from replicator.guests.base import GuestIdentity
from replicator.guests.qemu_firmware import find_firmware
from replicator.guests.qemu_layout import parse_layout
from replicator.guests.qemu_qmp import QmpSession

_DEVICE = re.compile(r"^\s*dev: (?P<type>[^,]+)")
_PROPERTY = re.compile(r"^\s*(?P<name>[\w.-]+) = (?P<value>.*)$")
#: Properties that name the host's side of a device, or the identity's other fields.
_HOST_PROPERTIES = frozenset(("drive", "netdev", "chardev", "mac", "id", "acpi-index", "bootindex"))
#: What the BIOS sets when it boots; device state carries it.
_GUEST_PROPERTIES = frozenset(("smb_io_base",))
_NIC = re.compile(r"^(?P<name>\S+): index=\d+,type=nic,model=(?P<model>[^,]+),macaddr=(?P<mac>[0-9a-f:]{17})")
_PEER = re.compile(r"^ \\ (?P<name>\S+): index=\d+,type=(?P<type>[^,]+)(,(?P<rest>.*))?$")
#: A port on a virtio serial bus, up to the next device.
_PORT = re.compile(r"^\s*dev: virtserialport, .*\n(?P<properties>(?:(?!\s*dev: ).*\n?)*)", re.MULTILINE)
_SERVER = re.compile(r"(?:disconnected:)?unix:(?P<path>/.*?)(?:,.*)?$")
_SOCKETS = re.compile(r"udp=(?P<local>/.*):(?P<remote>/.*)$")


@dataclass(frozen=True, slots=True)
class NicFacts:
    """A NIC and what it is connected to; the paths are None unless it is a pair of unix datagram sockets."""

    model: str
    mac: str
    backend: str
    local: Path | None = None
    remote: Path | None = None


@dataclass(frozen=True, slots=True)
class DiskFacts:
    name: str
    path: str
    driver: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """A memory backend."""

    name: str
    size: int
    shared: bool


async def read_memory(session: QmpSession) -> list[MemoryFacts]:
    """All memory backends. A guest whose RAM is QEMU's own memory has none."""
    backends = await session.execute("query-memdev")
    return [MemoryFacts(str(b.get("id", "")), int(b["size"]), bool(b["share"])) for b in backends]


async def read_nics(session: QmpSession) -> list[NicFacts]:
    return parse_network(await session.ask_human("info network"))


def parse_network(text: str) -> list[NicFacts]:
    """The NICs in the answer to `info network`, in the order of the guest's devices."""
    nics: list[NicFacts] = []
    for line in text.splitlines():
        if nic := _NIC.match(line):
            nics.append(NicFacts(nic["model"], nic["mac"].lower(), ""))
        elif (peer := _PEER.match(line)) and nics:
            sockets = _SOCKETS.search(peer["rest"] or "") if peer["type"] == "dgram" else None
            paths = (Path(sockets["local"]), Path(sockets["remote"])) if sockets else (None, None)
            nics[-1] = NicFacts(nics[-1].model, nics[-1].mac, peer["type"], *paths)
    return nics


async def read_agent_socket(session: QmpSession, channel: str) -> Path | None:
    """The unix socket on which QEMU listens for whoever talks to the agent on this channel; None when there is none."""
    chardev = parse_port(await session.ask_human("info qtree"), channel)
    for found in await session.execute("query-chardev"):
        if found["label"] == chardev and (server := _SERVER.match(str(found["filename"]))):
            return Path(server["path"])
    return None


def parse_port(qtree: str, channel: str) -> str | None:
    """The character device behind the serial port of this name in the answer to `info qtree`."""
    for port in _PORT.finditer(qtree):
        found = {
            match["name"]: match["value"]
            for match in map(_PROPERTY.match, port["properties"].splitlines())
            if match
        }
        if found.get("name") == f'"{channel}"':
            return found.get("chardev", "").strip('"') or None
    return None


async def read_disks(session: QmpSession) -> list[DiskFacts]:
    found = []
    for block in await session.execute("query-block"):
        medium = block.get("inserted")
        if medium is not None:
            name = str(block.get("device") or block.get("qdev") or medium.get("node-name"))
            found.append(DiskFacts(name, str(medium["file"]), str(medium["drv"]), bool(medium["ro"])))
    return found


async def read_identity(session: QmpSession, pid: int) -> GuestIdentity:
    """Describe the guest of QEMU process `pid`. Reads each read-only disk whole, in a thread."""
    backends = await read_memory(session)
    if len(backends) != 1:
        raise GuestError(f"the guest has {len(backends)} memory backends, one is possible")
    memory = backends[0]
    layout = parse_layout(await session.ask_human("info mtree"), memory.size)
    name = (await session.execute("query-name")).get("name", "")
    return GuestIdentity(
        name=str(name),
        uuid=str((await session.execute("query-uuid"))["UUID"]).lower(),
        ram_bytes=memory.size,
        layout=layout,
        machine=await _describe_machine(session),
        disks=await _fingerprint_files(session, pid),
        macs=tuple(nic.mac for nic in await read_nics(session)),
    )


async def read_vcpu_threads(session: QmpSession) -> tuple[int, ...]:
    """Thread ids, in the order of the vCPUs."""
    return tuple(int(cpu["thread-id"]) for cpu in await session.execute("query-cpus-fast"))


async def _describe_machine(session: QmpSession) -> str:
    """Readable as far as it goes, and the rest as a digest: what differs can be seen in an error message."""
    version = await session.execute("query-version")
    number = ".".join(str(version["qemu"][part]) for part in ("major", "minor", "micro"))
    kind = str(await session.get_property("/machine", "type")).removesuffix("-machine")
    accel = "kvm" if (await session.execute("query-kvm"))["enabled"] else "tcg"
    cpus = await session.execute("query-cpus-fast")
    cpu_path = cpus[0]["qom-path"]
    cpu = str(await session.get_property(cpu_path, "type")).removesuffix("-x86_64-cpu")
    details = {
        "package": version["package"],
        "devices": normalize_devices(await session.ask_human("info qtree")),
        "features": _normalize_features(await session.get_property(cpu_path, "feature-words")),
        "append": str(await session.get_property("/machine", "append")),
    }
    digest = hashlib.sha256(json.dumps(details, sort_keys=True).encode()).hexdigest()[:16]
    return f"qemu-{number} {kind} {accel} {cpu} vcpus={len(cpus)} devices={digest}"


def normalize_devices(qtree: str) -> list[str]:
    """What `info qtree` says about the hardware that the guest sees, without names of the host's side."""
    lines = []
    for line in qtree.splitlines():
        if device := _DEVICE.match(line):
            lines.append(f"dev {device['type']}")
        elif (found := _PROPERTY.match(line)) and found["name"] not in _HOST_PROPERTIES | _GUEST_PROPERTIES:
            lines.append(f"{found['name']}={found['value']}")
    return lines


def _normalize_features(words: Iterable[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(word, sort_keys=True) for word in words)


async def _fingerprint_files(session: QmpSession, pid: int) -> tuple[tuple[str, str], ...]:
    files = [(f"disk{index}", disk.path) for index, disk in enumerate(await read_disks(session))]
    files.append(("firmware", str(await find_firmware(session, pid))))
    for name in ("kernel", "initrd"):
        path = str(await session.get_property("/machine", name) or "")
        if path:
            files.append((name, path))
    return tuple([(name, await asyncio.to_thread(fingerprint_file, Path(path))) for name, path in files])


def fingerprint_file(path: Path) -> str:
    """SHA-256 of a file's content. GuestError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise GuestError(f"cannot read {path}: {error.strerror}") from error
