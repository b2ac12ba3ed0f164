"""Addresses of arbiters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from arbiter_tools import EtcdServer, new_guest

import replicator
from replicator.arbiter.base import Arbiter
from replicator.arbiter.etcd import EtcdArbiter
from replicator.arbiter.file import FileArbiter
from replicator.arbiter.open import open_arbiter
from replicator.errors import ArbiterError, ConfigError


def open_at(url: str, guest: str = "g", **changes: int) -> Arbiter:
    timing: dict[str, Any] = {"ttl_ms": 2000, "margin_ms": 100, "timeout_ms": 500, **changes}
    return open_arbiter(url, guest, **timing)


def test_a_directory(tmp_path: Path) -> None:
    arbiter = open_at(f"file://{tmp_path}/new%20one/arbiter")
    assert isinstance(arbiter, FileArbiter)
    assert arbiter.ttl_ms == 2000
    arbiter.acquire("a")
    assert (tmp_path / "new one" / "arbiter" / "g").is_dir()
    record = open_at(f"file://localhost{tmp_path}/new one/arbiter").read()
    assert record is not None and record.holder == "a"


def test_an_etcd(etcd_server: EtcdServer) -> None:
    guest = new_guest()
    arbiter = open_at(etcd_server.url, guest)
    assert isinstance(arbiter, EtcdArbiter)
    arbiter.acquire("a")
    record = open_at(f"{etcd_server.url},127.0.0.1:1", guest).read()
    assert record is not None and record.holder == "a"
    assert open_at(f"{etcd_server.url}/elsewhere", guest).read() is None
    assert open_at(f"{etcd_server.url}/replicator/", guest).read() is not None


def test_memory_is_shared_by_name() -> None:
    guest = new_guest()
    open_at("memory:", guest).acquire("a")
    assert open_at("memory:", guest).read() is not None
    assert open_at("memory:other", guest).read() is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "arbiter",
        "/run/arbiter",
        "http://127.0.0.1:2379",
        "file:",
        "file://",
        "file:///",
        "file://run/arbiter",
        "file:///run?x=1",
        "etcd:",
        "etcd://",
        "etcd://,",
        "etcd://127.0.0.1:99999",
        "etcd://127.0.0.1:port",
        "etcd://user:word@127.0.0.1:2379",
        "etcd://[::1",
        "etcd://127.0.0.1:2379?ca=/etc/hostname",
        "etcds://127.0.0.1:2379?ca=/no/such/file",
        "etcds://127.0.0.1:2379?cert=/etc/hostname",
        "etcds://127.0.0.1:2379?colour=blue",
        "etcds://127.0.0.1:2379?ca",
    ],
)
def test_what_is_no_address_is_a_clear_error(url: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        open_at(url)
    assert url in str(refusal.value) or "endpoint" in str(refusal.value)


def test_timing_that_an_etcd_cannot_keep_is_refused() -> None:
    with pytest.raises(ConfigError, match="whole seconds"):
        open_at("etcd://127.0.0.1:2379", ttl_ms=2500)
    with pytest.raises(ConfigError, match="timeout of 1900 ms"):
        open_at("etcd://127.0.0.1:2379", timeout_ms=1900)
    with pytest.raises(ConfigError, match="timeout of 0 ms"):
        open_at("etcd://127.0.0.1:2379", timeout_ms=0)


def test_a_file_in_the_way_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "arbiter").write_text("not a directory")
    with pytest.raises(ArbiterError, match="directory") as refusal:
        open_at(f"file://{tmp_path}/arbiter")
    assert "both sides may write" in refusal.value.hint


WITHOUT_ETCD3GW = """
import sys
sys.modules["etcd3gw"] = None
from replicator.arbiter.open import open_arbiter
from replicator.errors import ConfigError
open_arbiter("memory:", "g", ttl_ms=2000, margin_ms=100, timeout_ms=500)
try:
    open_arbiter("etcd://127.0.0.1:2379", "g", ttl_ms=2000, margin_ms=100, timeout_ms=500)
except ConfigError as error:
    print(error, "|", error.hint)
"""


def test_a_missing_etcd_module_names_the_extra() -> None:
    command = [sys.executable, "-c", WITHOUT_ETCD3GW]
    environment = {**os.environ, "PYTHONPATH": str(Path(replicator.__file__).parent.parent)}
    said = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
    assert "needs the Python module etcd3gw" in said
    assert "pip install 'replicator[etcd]'" in said
