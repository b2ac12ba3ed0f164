"""A guest that has booted already: its RAM and device state, kept, so that a live test starts in well under a second.

The first call boots the guest once, waits until its services have announced themselves on the NIC, pauses it and
keeps the RAM file (sparse) and the device state in `golden/<key>` of the cache. The key covers everything that decides
whether a QEMU may load that state: image, QEMU's version, accelerator, the guest's configuration. Later calls find the
directory; it comes into being by one rename. A start copies the RAM file and lets a standby take over from the state,
the same way a failover does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from replicator.demo.guest_image import GuestImage, locked
from replicator.demo.guest_scripts import READY_MARK
from replicator.errors import GuestError
from replicator.guests.base import NicEndpoint
from replicator.guests.qemu_command import QEMU, Launch, build_command
from replicator.guests.qemu_config import NicConfig, QemuGuestConfig
from replicator.guests.qemu_guest import QemuGuest, start_guest
from replicator.guests.qemu_kvm import choose_accel
from replicator.guests.qemu_standby import QemuStandby
from replicator.limits import FRAME_BYTES_MAX

Progress = Callable[[str], None]

GUEST_NAME = "demo"
GUEST_UUID = "3b4d8ad4-1c59-4d0e-9d7b-6d1a3c1f5e10"
GUEST_MAC = "52:54:00:10:77:0a"
MEMORY_MIB = 256
#: A boot takes 3 s; four times on a busy machine are still no hang.
BOOT_TIMEOUT_S = 60.0
COMMAND_TIMEOUT_S = 120
SCRATCH_ROOT = Path("/dev/shm")
RAM_FILE, STATE_FILE, MANIFEST = "ram", "device-state", "manifest.json"


@dataclass(frozen=True)
class Golden:
    """A booted guest at rest. The files are never written to: copy the RAM before a QEMU maps it."""

    ram_path: Path
    device_state_path: Path
    config: QemuGuestConfig


def guest_config(
    image: GuestImage,
    *,
    memory_mib: int = MEMORY_MIB,
    vcpus: int = 1,
    machine: str = "pc",
    accel: str = "auto",
) -> QemuGuestConfig:
    """The demonstration's guest as the QEMU adapter takes it."""
    return QemuGuestConfig(
        name=GUEST_NAME,
        uuid=GUEST_UUID,
        memory_mib=memory_mib,
        vcpus=vcpus,
        machine=machine,
        accel=accel,
        kernel=image.kernel,
        initrd=image.initrd,
        cmdline=image.cmdline,
        nics=(NicConfig(GUEST_MAC),),
    )


def guest_file_text(config: QemuGuestConfig) -> str:
    """The guest file (TOML) of a configuration without disks; `load_guest_file` reads it back as it was."""
    values = {
        "name": config.name, "uuid": config.uuid, "memory_mib": config.memory_mib, "vcpus": config.vcpus,
        "machine": config.machine, "cpu": config.cpu, "accel": config.accel, "virtio": config.virtio,
        "kernel": str(config.kernel),
        "initrd": str(config.initrd), "cmdline": config.cmdline,
    }  # fmt: skip
    # JSON's strings and integers are TOML's.
    lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    for nic in config.nics:
        lines += ["", "[[nic]]", f"mac = {json.dumps(nic.mac)}"]
    if config.agent is not None:
        lines += ["", "[agent]", f"channel = {json.dumps(config.agent.channel)}"]
    return "\n".join(lines) + "\n"


def qemu_version() -> str:
    """QEMU's own word for its version; raise GuestError when there is no QEMU."""
    try:
        done = subprocess.run(
            [QEMU, "--version"],
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise GuestError(f"cannot run {QEMU}: {error}", hint="apt-get install qemu-system-x86") from error
    return done.stdout.splitlines()[0]


def golden_key(image: GuestImage, config: QemuGuestConfig, accel: str) -> str:
    """Names everything that must be equal where a saved state is loaded; paths of this machine left out."""
    anywhere = replace(config, kernel=Path("/kernel"), initrd=Path("/initrd"))
    command = build_command(anywhere, Launch(accel, Path("/ram"), Path("/run"), (0, 1), True, 2))
    parts = [image.fingerprint, qemu_version(), command]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def load_golden(folder: Path, config: QemuGuestConfig) -> Golden | None:
    """The finished golden guest in `folder`; None when there is none or its files are not what they were."""
    golden = Golden(folder / RAM_FILE, folder / STATE_FILE, config)
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        digest = hashlib.sha256(golden.device_state_path.read_bytes()).hexdigest()
        size = golden.ram_path.stat().st_size
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    whole = manifest == {"device_state": digest, "ram_bytes": size} and size == config.ram_bytes
    return golden if whole else None


def copy_sparse(source: Path, target: Path, mode: str) -> None:
    """Copy a RAM file; `mode` "always" turns zeros into holes, "auto" keeps the holes there are."""
    argv = ["cp", "--reflink=auto", f"--sparse={mode}", str(source), str(target)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False)
    if done.returncode != 0:
        target.unlink(missing_ok=True)
        raise GuestError(
            f"cannot copy a RAM file: {done.stderr.strip()}",
            hint="is the file system full?",
        )
    target.chmod(0o600)


@contextlib.contextmanager
def listening(nic: NicEndpoint) -> Iterator[socket.socket]:
    """Our end of the guest's NIC: one datagram a frame."""
    nic.relay_path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.setblocking(False)
        wire.bind(str(nic.relay_path))
        try:
            yield wire
        finally:
            nic.relay_path.unlink(missing_ok=True)


async def hear_ready(wire: socket.socket) -> None:
    """Read frames until one carries the guest's announcement."""
    loop = asyncio.get_running_loop()
    while READY_MARK.encode() not in await loop.sock_recv(wire, FRAME_BYTES_MAX):
        pass


async def first_event(guest: QemuGuest) -> str:
    """The guest's first event, as a word for an error; a guest that boots has none."""
    async for event in guest.events():
        return repr(event)
    return "its end"


async def wait_until_ready(guest: QemuGuest, wire: socket.socket) -> None:
    """Return when the services answer; raise GuestError with the console's end when they never do."""
    ready = asyncio.create_task(hear_ready(wire))
    trouble = asyncio.create_task(first_event(guest))
    try:
        await asyncio.wait(
            {ready, trouble},
            timeout=BOOT_TIMEOUT_S,
            return_when=asyncio.FIRST_COMPLETED,
        )
        if ready.done():
            return
        what = trouble.result() if trouble.done() else f"nothing within {BOOT_TIMEOUT_S:.0f} s"
        console = "" if trouble.done() else (await guest.read_console())[-1000:]
        raise GuestError(f"the guest did not get its services up: {what} {console}".rstrip())
    finally:
        for task in (ready, trouble):
            task.cancel()
        await asyncio.gather(ready, trouble, return_exceptions=True)


async def boot_and_save(config: QemuGuestConfig, build: Path) -> None:
    """Boot once on tmpfs and put RAM and device state into `build`."""
    with tempfile.TemporaryDirectory(prefix="rp-golden-", dir=SCRATCH_ROOT) as name:
        scratch = Path(name)
        guest = await start_guest(config, scratch / "ram", scratch / "run", paused=True, reserve=False)
        try:
            with listening(guest.nics[0]) as wire:
                await guest.resume()
                await wait_until_ready(guest, wire)
                await guest.pause()
            state = await guest.save_device_state()
            copy_sparse(scratch / "ram", build / RAM_FILE, "always")
        finally:
            await guest.kill()
    (build / STATE_FILE).write_bytes(state)
    digest = hashlib.sha256(state).hexdigest()
    (build / MANIFEST).write_text(json.dumps({"device_state": digest, "ram_bytes": config.ram_bytes}) + "\n")


async def build_golden(config: QemuGuestConfig, target: Path) -> None:
    """Make the golden guest aside and rename it to `target`. The caller holds the lock."""
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob("build-*"):
        shutil.rmtree(leftover)
    build = Path(tempfile.mkdtemp(prefix="build-", dir=target.parent))
    try:
        await boot_and_save(config, build)
        if target.exists():
            shutil.rmtree(target)
        build.rename(target)
    finally:
        shutil.rmtree(build, ignore_errors=True)


async def find_or_build(
    image: GuestImage, cache_dir: Path, config: QemuGuestConfig, progress: Progress
) -> Golden:
    """See `ensure_golden`."""
    accel = await choose_accel(config)
    target = cache_dir / "golden" / golden_key(image, config, accel)
    golden = load_golden(target, config)
    if golden is not None:
        return golden
    with locked(cache_dir / "golden.lock", progress):
        golden = load_golden(target, config)
        if golden is None:
            progress("booting the guest once, for later starts")
            await build_golden(config, target)
            golden = load_golden(target, config)
    if golden is None:
        raise GuestError(f"the booted guest in {target} changed while it was being kept")
    return golden


def ensure_golden(
    image: GuestImage,
    cache_dir: Path,
    config: QemuGuestConfig,
    progress: Progress = lambda _line: None,
) -> Golden:
    """The booted guest of this configuration (`guest_config(image)`), made in `cache_dir` when it is not there yet.

    Runs an event loop of its own, so call it from outside of one. Raises GuestError when the guest does not boot.
    """
    return asyncio.run(find_or_build(image, cache_dir, config, progress))


async def start_from_golden(
    golden: Golden, ram_path: Path, run_dir: Path, *, paused: bool = False
) -> QemuGuest:
    """A guest that goes on from the golden state on its own copy of the RAM, at `ram_path` (on tmpfs).

    Bind the relay's end of its NIC before it runs, or its first frames are lost: pass `paused` and resume it then.
    """
    ram_path.unlink(missing_ok=True)
    copy_sparse(golden.ram_path, ram_path, "auto")
    reserve(ram_path)
    standby = QemuStandby(golden.config, run_dir)
    await standby.start(ram_path)
    guest = await standby.activate(golden.device_state_path.read_bytes())
    if not paused:
        await guest.resume()
    return guest


def reserve(ram_path: Path) -> None:
    """Take the memory of the file's holes now: a full tmpfs is an error here and not the guest's death later."""
    fd = os.open(ram_path, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.posix_fallocate(fd, 0, os.fstat(fd).st_size)
    except OSError as error:
        ram_path.unlink(missing_ok=True)
        raise GuestError(f"no room for RAM file {ram_path}: {error.strerror}") from error
    finally:
        os.close(fd)
