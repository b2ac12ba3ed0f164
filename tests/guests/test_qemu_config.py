"""The guest file: what is accepted, and that each refusal names the key and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import ConfigError
from replicator.guests.qemu_config import AGENT_CHANNEL, AgentConfig, DiskConfig, NicConfig, load_guest_file

MINIMAL = 'name = "web"\nmemory_mib = 64\nkernel = "vmlinuz"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("vmlinuz", "initrd.img", "data.raw"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def load(folder: Path, text: str):
    path = folder / "guest.toml"
    path.write_text(text)
    return load_guest_file(path)


def test_minimal_file_gets_the_defaults(folder: Path) -> None:
    config = load(folder, MINIMAL)
    assert (config.name, config.ram_bytes, config.vcpus) == ("web", 64 << 20, 1)
    assert (config.machine, config.cpu, config.accel) == ("pc", "qemu64", "auto")
    assert config.kernel == folder / "vmlinuz"
    assert config.nics == () and config.disks == ()


def test_full_file(folder: Path) -> None:
    config = load(
        folder,
        'name = "web"\nuuid = "9F954B95-7E83-50B9-8675-0DBC60895937"\nmemory_mib = 512\nvcpus = 2\nmachine = "q35"\n'
        'cpu = "max"\naccel = "tcg"\nkernel = "vmlinuz"\ninitrd = "initrd.img"\ncmdline = "quiet"\n'
        '[[nic]]\nmac = "52:54:00:AA:bb:01"\n[[nic]]\n[[disk]]\npath = "data.raw"\nreadonly = true\n',
    )
    assert config.uuid == "9f954b95-7e83-50b9-8675-0dbc60895937"
    assert (config.vcpus, config.machine, config.cpu, config.accel) == (2, "q35", "max", "tcg")
    assert config.nics[0] == NicConfig("52:54:00:aa:bb:01")
    assert config.nics[1].mac.startswith("52:54:00:")
    assert config.disks == (DiskConfig(folder / "data.raw"),)


def test_the_agents_channel(folder: Path) -> None:
    assert load(folder, MINIMAL).agent is None
    assert load(folder, MINIMAL + "[agent]\n").agent == AgentConfig(AGENT_CHANNEL)
    assert load(folder, MINIMAL + '[agent]\nchannel = "com.example.0"\n').agent == AgentConfig(
        "com.example.0"
    )


def test_derived_names_are_equal_on_both_hosts_and_differ_between_guests(folder: Path) -> None:
    one, again = (load(folder, MINIMAL + "[[nic]]\n[[nic]]\n") for _ in range(2))
    other = load(folder, MINIMAL.replace("web", "db") + "[[nic]]\n[[nic]]\n")
    assert one == again
    assert one.uuid != other.uuid
    assert len({nic.mac for nic in one.nics + other.nics}) == 4


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (MINIMAL + "memroy = 1\n", "unknown key memroy"),
        (MINIMAL + '[[nic]]\nmodel = "e1000"\n', "nic 0: unknown key model"),
        (MINIMAL + "agent = true\n", "agent must be written as table [agent]"),
        (MINIMAL + "[agent]\nport = 1\n", "agent: unknown key port"),
        (MINIMAL + '[agent]\nchannel = "a,b"\n', "agent: channel = 'a,b': must be letters"),
        ("memory_mib = 64\n", "name is missing"),
        ('name = "web"\nkernel = "vmlinuz"\n', "memory_mib is missing"),
        ('name = "web"\nmemory_mib = 64\n', "neither kernel nor disk"),
        (MINIMAL.replace("64", "4"), "memory_mib = 4: must be from 32"),
        (MINIMAL.replace("64", '"64"'), "memory_mib must be a whole number"),
        (MINIMAL.replace("64", "true"), "memory_mib must be a whole number"),
        (MINIMAL.replace("web", "a,b"), "name = 'a,b': must be letters"),
        (MINIMAL + "vcpus = 0\n", "vcpus = 0: must be from 1"),
        (MINIMAL + 'machine = "microvm"\n', "must be one of pc, q35"),
        (MINIMAL + 'accel = "hvf"\n', "must be one of auto, kvm, tcg"),
        (MINIMAL + 'virtio = "old"\n', "must be one of legacy, modern"),
        (MINIMAL + 'cpu = "host,,x /"\n', "must be a CPU model"),
        (MINIMAL + 'uuid = "12"\n', "'12' is not a UUID"),
        (MINIMAL + 'initrd = "nothing"\n', "initrd: there is no file"),
        (MINIMAL + 'cmdline = "a\\nb"\n', "must be one line"),
        (MINIMAL + '[[nic]]\nmac = "01:00:5e:00:00:01"\n', "not a unicast MAC"),
        (MINIMAL + '[[nic]]\nmac = "52:54"\n', "not a unicast MAC"),
        (
            MINIMAL + '[[nic]]\nmac = "52:54:00:00:00:01"\n' * 2,
            "nic 1: mac = '52:54:00:00:00:01' is used twice",
        ),
        (MINIMAL + "nic = 3\n", "[[nic]] tables"),
        (
            MINIMAL + '[[disk]]\npath = "data.raw"\n',
            "is writable: what the guest writes to a disk is not replicated",
        ),
        (MINIMAL + '[[disk]]\npath = "data.raw"\nreadonly = false\n', "is writable"),
        (MINIMAL + "[[disk]]\nreadonly = true\n", "disk 0: path is missing"),
        (
            'name = "web"\nmemory_mib = 64\ncmdline = "x"\n[[disk]]\npath = "data.raw"\nreadonly = true\n',
            "need a kernel",
        ),
        ("name = ", "is not TOML"),
    ],
)
def test_refusals_name_key_and_reason(folder: Path, text: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    assert reason in str(caught.value)
    assert "guest.toml" in str(caught.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read guest file .*No such file"):
        load_guest_file(tmp_path / "none.toml")
