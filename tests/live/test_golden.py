"""The golden guest goes on from where it was kept, and the client's checker is right about a real redis."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.demo import golden as goldens
from replicator.demo.golden import (
    Golden,
    ensure_golden,
    guest_config,
    guest_file_text,
    start_from_golden,
)
from replicator.demo.guest_image import (
    GuestImage,
    default_cache_dir,
    ensure_guest_image,
)
from replicator.demo.lab import CLIENT, HOST_A, Lab
from replicator.guests.qemu_config import load_guest_file

pytestmark = pytest.mark.live

GUEST = "10.77.0.10"


def quiet(_line: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def image() -> GuestImage:
    return ensure_guest_image(default_cache_dir(), quiet)


@pytest.fixture(scope="module")
def golden(image: GuestImage) -> Golden:
    return ensure_golden(image, default_cache_dir(), guest_config(image))


class Talker:
    """A process of the lab that is spoken with line by line."""

    def __init__(self, lab: Lab, host: str, argv: list[str]) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        pipe = subprocess.PIPE
        self.process = lab.run(host, [sys.executable, *argv], stdin=pipe, stdout=pipe, env=environment)

    def say(self, line: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline().decode().strip()
        assert line, "the process said nothing more"
        return line

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def hear_event(self, name: str, least: int = 0) -> dict[str, Any]:
        """The client's next line of this event, with at least so many increments."""
        while True:
            line: dict[str, Any] = json.loads(self.hear())
            if line["event"] == name and line.get("increments", least) >= least:
                return line


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as machines:
        yield machines


def start_host(lab: Lab) -> Talker:
    script = Path(__file__).with_name("golden_host.py")
    host = Talker(lab, HOST_A, [str(script), str(lab.scratch), lab.tap_name(HOST_A)])
    assert host.hear() == "running"
    return host


def start_client(lab: Lab) -> Talker:
    patience = "import sys; from replicator.demo import client; client.PATIENCE_S = 2.0; "
    return Talker(lab, CLIENT, ["-c", patience + f"sys.exit(client.main(['{GUEST}']))"])


def test_start_takes_less_than_a_second(golden: Golden, lab: Lab) -> None:
    async def start() -> float:
        began = time.monotonic()
        guest = await start_from_golden(golden, lab.scratch / "ram", lab.scratch / "run")
        took = time.monotonic() - began
        assert await guest.query_status() == "running"
        await guest.kill()
        return took

    assert min(asyncio.run(start()) for _ in range(2)) < 1.0


def test_starting_never_changes_the_kept_guest(golden: Golden, lab: Lab) -> None:
    before = golden.ram_path.stat().st_mtime_ns

    async def start() -> None:
        guest = await start_from_golden(golden, lab.scratch / "ram", lab.scratch / "run")
        await guest.kill()

    asyncio.run(start())
    assert golden.ram_path.stat().st_mtime_ns == before
    assert (lab.scratch / "ram").stat().st_mode & 0o777 == 0o600


def test_kept_guest_is_found_again_and_a_damaged_one_is_not(
    golden: Golden, image: GuestImage, tmp_path: Path
) -> None:
    assert ensure_golden(image, default_cache_dir(), golden.config) == golden
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in (golden.device_state_path, golden.ram_path.with_name("manifest.json")):
        (folder / path.name).write_bytes(path.read_bytes())
    os.truncate(os.open(folder / "ram", os.O_CREAT | os.O_WRONLY), golden.config.ram_bytes)
    assert goldens.load_golden(folder, golden.config) is not None
    (folder / "device-state").write_bytes(golden.device_state_path.read_bytes()[:-1])
    assert goldens.load_golden(folder, golden.config) is None


def test_other_hardware_has_another_key(image: GuestImage) -> None:
    configs = [
        guest_config(image),
        guest_config(image, memory_mib=128),
        guest_config(image, vcpus=2),
    ]
    keys = {goldens.golden_key(image, config, "tcg") for config in configs}
    assert len(keys | {goldens.golden_key(image, configs[0], "kvm")}) == 4


def test_guest_file_says_the_same(image: GuestImage, tmp_path: Path) -> None:
    config = guest_config(image)
    (tmp_path / "guest.toml").write_text(guest_file_text(config))
    assert load_guest_file(tmp_path / "guest.toml") == config


def test_a_frozen_guest_breaks_no_promise(lab: Lab) -> None:
    host, client = start_host(lab), start_client(lab)
    client.hear_event("progress", least=100)
    assert host.ask("freeze") == "paused"
    while client.hear_event("progress")["since_ack_ms"] < 300:
        pass
    assert host.ask("thaw") == "running"
    gap = client.hear_event("gap")
    client.say("stop")
    report = client.hear_event("report")
    assert report["broken"] == [] and report["consecutive"] and report["connection_survived"]
    assert report["longest_gap_ms"] >= gap["ms"] - 0.001 >= 299
    assert report["increments_acked"] > 100 and report["sets_acked"] > 100
    assert client.process.wait(20) == 0


def test_a_guest_set_back_without_held_output_is_caught(lab: Lab) -> None:
    host, client = start_host(lab), start_client(lab)
    client.hear_event("progress", least=100)
    assert host.ask("checkpoint") == "running"
    at_checkpoint = client.hear_event("progress")["increments"]
    client.hear_event("progress", least=at_checkpoint + 100)
    assert host.ask("rollback") == "running"
    while client.hear_event("progress")["since_ack_ms"] < 500:
        pass
    client.say("stop")
    report = client.hear_event("report")
    assert report["increments_lost"] >= 100 and not report["connection_survived"]
    assert report["sets_missing"] > 0
    assert client.process.wait(20) == 1
