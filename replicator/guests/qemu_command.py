"""The command line of a QEMU that we start.

Two QEMUs of one guest, the primary's and the standby's, get the same command line but for the paths of the RAM file and
the sockets and for how they begin. That is what makes them load each other's device state, and what makes every RAM
block but the guest's RAM an equal ROM on both sides. Hence `-nodefaults`, no VGA (its frame buffer is RAM that nobody
copies), NICs without ROM, and no migration sections that the device state of `xen-save-devices-state` lacks
(`send-configuration`, `suppress-vmdesc`).

A guest that powers off or panics leaves its process paused (`-action`): so the event is read before the process is
gone, and nobody takes a power-off for a death. `pvpanic` is always there, for without it a panic is a mere silence.

The channel of the guest agent has the fewest ports that QEMU allows, for each costs room in every device state, and no
ioeventfd, which would have to be taken down and set up again at each pause.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from replicator.errors import ConfigError
from replicator.guests.base import NicEndpoint
from replicator.guests.qemu_config import QemuGuestConfig

QEMU = "qemu-system-x86_64"
RAM_ID = "ram0"
CONSOLE_ID = "console0"
CONSOLE_BYTES = 64 << 10
AGENT_ID = "agent0"
#: Port 0 is kept by QEMU for a console.
AGENT_PORTS = 2
#: sun_path without its terminating zero.
SOCKET_PATH_BYTES_MAX = 107


@dataclass(frozen=True, slots=True)
class Launch:
    """What differs between two QEMUs of one guest."""

    accel: str
    ram_path: Path
    run_dir: Path
    #: Our ends are connected already; QEMU inherits these.
    qmp_fds: tuple[int, ...]
    #: A standby: waits for a device state instead of booting.
    incoming: bool
    #: The same for the guest agent's channel, when the guest has one.
    agent_fd: int | None = None
    #: Where the relay's ends of the NICs are; None: in the run directory, too.
    relay_dir: Path | None = None


def nic_endpoints(
    config: QemuGuestConfig, run_dir: Path, relay_dir: Path | None = None
) -> tuple[NicEndpoint, ...]:
    """The NICs' sockets in `run_dir`, those of the relay in `relay_dir` if one is given. ConfigError when their paths
    are too long for sockets."""
    endpoints = []
    for index, nic in enumerate(config.nics):
        name = f"nic{index}"
        relay_path = (relay_dir or run_dir) / f"{name}.relay"
        endpoint = NicEndpoint(name, nic.mac, run_dir / f"{name}.guest", relay_path)
        for path in (endpoint.guest_path, endpoint.relay_path):
            if len(bytes(path)) > SOCKET_PATH_BYTES_MAX:
                raise ConfigError(
                    f"socket path {path} is longer than {SOCKET_PATH_BYTES_MAX} bytes",
                    hint="choose a shorter run directory",
                )
        endpoints.append(endpoint)
    return tuple(endpoints)


def build_command(config: QemuGuestConfig, launch: Launch) -> list[str]:
    """Program and arguments. QEMU always starts paused: `cont` or a device state sets it going."""
    return [
        QEMU,
        *_machine(config, launch),
        *_boot(config),
        *_console(),
        *_monitors(launch.qmp_fds),
        *_nics(config, launch),
        *_disks(config),
        *_agent(config, launch.agent_fd),
        *("-device", "pvpanic"),
        *("-action", "reboot=reset,shutdown=pause,panic=pause,watchdog=reset"),
        "-S",
        *(("-incoming", "defer") if launch.incoming else ()),
    ]


def _machine(config: QemuGuestConfig, launch: Launch) -> list[str]:
    accel = "tcg,thread=multi" if launch.accel == "tcg" else launch.accel
    cpu = config.cpu if launch.accel == "tcg" else f"{config.cpu},enforce"
    backend = (
        f"memory-backend-file,id={RAM_ID},size={config.ram_bytes},mem-path={_quote(launch.ram_path)},share=on"
    )
    return [
        # With names for its threads, by which they are told apart.
        *("-name", f"guest={config.name},debug-threads=on", "-uuid", config.uuid),
        *("-no-user-config", "-nodefaults", "-display", "none", "-vga", "none"),
        *("-machine", f"{config.machine},memory-backend={RAM_ID},suppress-vmdesc=on"),
        *("-global", "migration.send-configuration=off"),
        *("-accel", accel, "-cpu", cpu, "-smp", str(config.vcpus), "-m", f"{config.memory_mib}M"),
        *("-object", backend),
    ]


def _boot(config: QemuGuestConfig) -> list[str]:
    if config.kernel is None:
        return []
    initrd = ["-initrd", str(config.initrd)] if config.initrd is not None else []
    return ["-kernel", str(config.kernel), *initrd, "-append", config.cmdline]


def _console() -> list[str]:
    """The serial console is a ring in QEMU's memory: a guest that talks much fills no disk."""
    return [
        *("-chardev", f"ringbuf,id={CONSOLE_ID},size={CONSOLE_BYTES}"),
        *("-serial", f"chardev:{CONSOLE_ID}"),
    ]


def _monitors(fds: tuple[int, ...]) -> list[str]:
    arguments = []
    for index, fd in enumerate(fds):
        arguments += ["-chardev", f"socket,id=qmp{index},fd={fd}"]
        arguments += ["-mon", f"chardev=qmp{index},mode=control"]
    return arguments


def _nics(config: QemuGuestConfig, launch: Launch) -> list[str]:
    arguments, kind = [], _virtio_kind(config)
    for nic in nic_endpoints(config, launch.run_dir, launch.relay_dir):
        sockets = (
            f"local.type=unix,local.path={_quote(nic.guest_path)},"
            f"remote.type=unix,remote.path={_quote(nic.relay_path)}"
        )
        arguments += ["-netdev", f"dgram,id={nic.name},{sockets}"]
        arguments += ["-device", f"virtio-net-pci{kind},netdev={nic.name},mac={nic.mac},romfile="]
    return arguments


def _disks(config: QemuGuestConfig) -> list[str]:
    arguments = []
    for index, disk in enumerate(config.disks):
        arguments += [
            "-drive",
            f"file={_quote(disk.path)},format=raw,readonly=on,if=none,id=disk{index}",
            "-device",
            f"virtio-blk-pci{_virtio_kind(config)},drive=disk{index}",
        ]
    return arguments


def _agent(config: QemuGuestConfig, fd: int | None) -> list[str]:
    if config.agent is None or fd is None:
        return []
    port = f"virtserialport,chardev={AGENT_ID},name={config.agent.channel}"
    return [
        *("-device", f"virtio-serial-pci{_virtio_kind(config)},max_ports={AGENT_PORTS},ioeventfd=off"),
        *("-chardev", f"socket,id={AGENT_ID},fd={fd}", "-device", port),
    ]


def _virtio_kind(config: QemuGuestConfig) -> str:
    return ",disable-modern=on" if config.virtio == "legacy" else ""


def _quote(path: Path) -> str:
    """QEMU's option lists double a comma that belongs to a value."""
    return str(path).replace(",", ",,")
