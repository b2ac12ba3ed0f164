"""The command line: equal on both sides but for what must differ, and safe with odd paths."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from replicator.errors import ConfigError
from replicator.guests.qemu_command import Launch, build_command, nic_endpoints
from replicator.guests.qemu_config import AgentConfig, DiskConfig, NicConfig, QemuGuestConfig

CONFIG = QemuGuestConfig(
    name="web",
    uuid="9f954b95-7e83-50b9-8675-0dbc60895937",
    memory_mib=256,
    kernel=Path("/images/vmlinuz,1"),
    initrd=Path("/images/initrd"),
    cmdline="console=ttyS0 a,b",
    nics=(NicConfig("52:54:00:00:00:01"),),
    disks=(DiskConfig(Path("/images/a,b.raw")),),
)
PRIMARY = Launch("tcg", Path("/dev/shm/a/ram"), Path("/run/a"), (7, 8), incoming=False)
STANDBY = Launch("tcg", Path("/dev/shm/b/ram"), Path("/run/b"), (9, 10), incoming=True)


def after(command: list[str], option: str) -> list[str]:
    return [command[i + 1] for i, word in enumerate(command) if word == option]


def test_both_sides_differ_only_in_ram_sockets_and_start() -> None:
    primary, standby = build_command(CONFIG, PRIMARY), build_command(CONFIG, STANDBY)
    assert standby[-2:] == ["-incoming", "defer"]
    differing = [(one, other) for one, other in zip(primary, standby[:-2], strict=True) if one != other]
    assert [one.split(",")[0] for one, _ in differing] == ["memory-backend-file", "socket", "socket", "dgram"]


def test_rules_of_the_device_state_are_kept() -> None:
    command = build_command(CONFIG, PRIMARY)
    assert "-nodefaults" in command and "-S" in command and after(command, "-vga") == ["none"]
    assert after(command, "-global") == ["migration.send-configuration=off"]
    assert after(command, "-machine") == ["pc,memory-backend=ram0,suppress-vmdesc=on"]
    assert after(command, "-object")[0].endswith("size=268435456,mem-path=/dev/shm/a/ram,share=on")
    assert after(command, "-action") == ["reboot=reset,shutdown=pause,panic=pause,watchdog=reset"]
    devices = after(command, "-device")
    assert "virtio-net-pci,disable-modern=on,netdev=nic0,mac=52:54:00:00:00:01,romfile=" in devices
    modern = build_command(dataclasses.replace(CONFIG, virtio="modern"), PRIMARY)
    assert "virtio-net-pci,netdev=nic0,mac=52:54:00:00:00:01,romfile=" in after(modern, "-device")
    assert "pvpanic" in devices


def test_nic_sockets() -> None:
    (nic,) = nic_endpoints(CONFIG, Path("/run/a"))
    assert (nic.guest_path, nic.relay_path) == (Path("/run/a/nic0.guest"), Path("/run/a/nic0.relay"))
    assert after(build_command(CONFIG, PRIMARY), "-netdev") == [
        "dgram,id=nic0,local.type=unix,local.path=/run/a/nic0.guest,remote.type=unix,remote.path=/run/a/nic0.relay"
    ]


def test_the_agents_channel_has_the_fewest_ports_and_comes_after_all_other_pci_devices() -> None:
    config = dataclasses.replace(CONFIG, agent=AgentConfig())
    command = build_command(config, dataclasses.replace(PRIMARY, agent_fd=9))
    assert "socket,id=agent0,fd=9" in after(command, "-chardev")
    devices = after(command, "-device")
    assert devices[-3:] == [
        "virtio-serial-pci,disable-modern=on,max_ports=2,ioeventfd=off",
        "virtserialport,chardev=agent0,name=org.qemu.guest_agent.0",
        "pvpanic",
    ]
    assert build_command(CONFIG, dataclasses.replace(PRIMARY, agent_fd=9)) == build_command(CONFIG, PRIMARY)


def test_commas_in_paths_are_doubled_in_option_lists_only() -> None:
    command = build_command(CONFIG, dataclasses.replace(PRIMARY, ram_path=Path("/shm/x,y")))
    assert "mem-path=/shm/x,,y,share=on" in after(command, "-object")[0]
    assert after(command, "-kernel") == ["/images/vmlinuz,1"]
    assert after(command, "-append") == ["console=ttyS0 a,b"]
    assert after(command, "-drive") == ["file=/images/a,,b.raw,format=raw,readonly=on,if=none,id=disk0"]


def test_tcg_has_a_thread_a_vcpu_and_kvm_insists_on_the_cpu_model() -> None:
    config = dataclasses.replace(CONFIG, vcpus=2)
    tcg = build_command(config, PRIMARY)
    kvm = build_command(config, dataclasses.replace(PRIMARY, accel="kvm"))
    assert (after(tcg, "-accel"), after(tcg, "-cpu"), after(tcg, "-smp")) == (
        ["tcg,thread=multi"],
        ["qemu64"],
        ["2"],
    )
    assert (after(kvm, "-accel"), after(kvm, "-cpu")) == (["kvm"], ["qemu64,enforce"])


def test_disk_boot_has_no_kernel() -> None:
    command = build_command(dataclasses.replace(CONFIG, kernel=None, initrd=None, cmdline=""), PRIMARY)
    assert "-kernel" not in command and "-append" not in command


def test_too_long_a_run_directory_is_refused() -> None:
    with pytest.raises(ConfigError, match="longer than 107 bytes"):
        nic_endpoints(CONFIG, Path("/" + "d" * 100))


def test_the_relays_ends_may_be_elsewhere() -> None:
    (nic,) = nic_endpoints(CONFIG, Path("/run/a/vm0"), Path("/run/a"))
    assert (nic.guest_path, nic.relay_path) == (Path("/run/a/vm0/nic0.guest"), Path("/run/a/nic0.relay"))
    launch = dataclasses.replace(PRIMARY, run_dir=Path("/run/a/vm0"), relay_dir=Path("/run/a"))
    assert after(build_command(CONFIG, launch), "-netdev") == [
        "dgram,id=nic0,local.type=unix,local.path=/run/a/vm0/nic0.guest,remote.type=unix,remote.path=/run/a/nic0.relay"
    ]
