"""Opening a TAP: what works, and what each failure says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from output_tools import Network, frame_in, frame_out, number_of, wait_until

from replicator.errors import ConfigError, GuestError
from replicator.output.tap import open_tap

pytestmark = pytest.mark.usefixtures("namespace")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def test_an_opened_tap_is_up_and_carries_frames() -> None:
    tap = open_tap("t0")
    try:
        assert "UP" in ip("link", "show", "t0")
        network = Network("t0")
        network.send(frame_in(1))
        got: list[bytes] = []
        wait_until(lambda: (data := tap.read_frame()) is not None and (got.append(data) or True))
        assert number_of(got[0]) == 1
        assert tap.read_frame() is None
        assert tap.write_frame(frame_out(2))
        assert network.recv_numbers(1) == [2]
        assert not tap.write_frame(b"too short")
        network.socket.close()
    finally:
        tap.close()
        tap.close()
    assert "t0" not in ip("link", "show")


def test_a_tap_made_before_is_taken_over_and_stays() -> None:
    ip("tuntap", "add", "t1", "mode", "tap")
    try:
        open_tap("t1").close()
        assert "t1" in ip("link", "show")
    finally:
        ip("link", "del", "t1")


def test_a_tap_in_use_is_refused() -> None:
    tap = open_tap("t2")
    try:
        with pytest.raises(ConfigError, match="t2 is in use"):
            open_tap("t2")
    finally:
        tap.close()


def test_another_kind_of_device_is_refused() -> None:
    ip("link", "add", "br0", "type", "bridge")
    try:
        with pytest.raises(ConfigError, match="br0 exists and is not a TAP"):
            open_tap("br0")
    finally:
        ip("link", "del", "br0")


@pytest.mark.parametrize("name", ["", "x" * 16, "a/b", "a b", "tap%d"])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not a name"):
        open_tap(name)


def test_a_small_mtu_is_refused_and_nothing_stays_open() -> None:
    ip("tuntap", "add", "t3", "mode", "tap")
    ip("link", "set", "t3", "mtu", "1400")
    before = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(ConfigError, match="MTU 1400") as caught:
            open_tap("t3")
        assert "mtu 1500" in caught.value.hint
        assert len(os.listdir("/proc/self/fd")) == before
        open_tap("t3", mtu_min=1400).close()
    finally:
        ip("link", "del", "t3")


def test_a_missing_device_is_named(tmp_path: Path) -> None:
    with pytest.raises(GuestError, match="does not exist") as caught:
        open_tap("t4", device=tmp_path / "tun")
    assert "modprobe" in caught.value.hint


def test_a_file_that_is_no_tun_device_is_named(tmp_path: Path) -> None:
    (tmp_path / "tun").write_bytes(b"")
    with pytest.raises(GuestError, match="not one"):
        open_tap("t4", device=tmp_path / "tun")


def test_a_missing_capability_is_named() -> None:
    """In a child without CAP_NET_ADMIN, in this same network namespace."""
    code = (
        "from replicator.errors import GuestError\n"
        "from replicator.output.tap import open_tap\n"
        "try:\n    open_tap('t5')\n"
        "except GuestError as error:\n    print(error, '|', error.hint)\n"
    )
    command = ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "python3", "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."}
    )
    assert done.stdout == "TAP device t5 may not be created or opened | CAP_NET_ADMIN is needed\n"
