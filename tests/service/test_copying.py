"""A running secondary gives copies of its replica: each is one whole epoch, and the pair goes on."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from pair import PATIENCE_S, Pair

from replicator.guests.synthetic import SyntheticConfig, check_ram_file
from replicator.guests.synthetic_machine import Registers
from replicator.service.control import RefusedByDaemon, ask_daemon

#: Some 3000 pages an epoch; as many do not fit the small staging and are applied early.
BUSY = SyntheticConfig(ram_bytes=48 << 20, steps_per_ms=60.0)
COPIES = 6


def protect(pair: Pair, staging_mib: int) -> None:
    guest = f'kind = "synthetic"\nmemory_mib = {BUSY.ram_bytes >> 20}\nnic = false\nsteps_per_ms = {BUSY.steps_per_ms}\n'
    (pair.folder / "guest.toml").write_text(guest)
    for name in ("a", "b"):
        with (pair.folder / f"{name}.toml").open("a") as file:
            file.write(f"[epoch]\nstaging_mib = {staging_mib}\n")
    pair.protect()
    (pair.folder / "b" / "drill").mkdir(mode=0o700)


def copy(pair: Pair) -> dict[str, Any]:
    return ask_daemon(pair.folder / "b", "copy")


@pytest.mark.parametrize("staging_mib", [64, 8], ids=["staged", "undo"])
def test_each_copy_is_one_whole_epoch(pair: Pair, staging_mib: int) -> None:
    protect(pair, staging_mib)
    epochs = []
    for _ in range(COPIES):
        answer = copy(pair)
        ram, state = Path(answer["ram"]), Path(answer["state"])
        registers = check_ram_file(BUSY, ram)
        assert registers == Registers.unpack(state.read_bytes())
        assert registers.step > 0
        assert ram.stat().st_mode & 0o777 == state.stat().st_mode & 0o777 == 0o600
        assert answer["bytes_copied"] >= BUSY.ram_bytes and answer["rounds"] >= 2
        assert 0 < answer["held_up_ns"] < answer["ended_ns"] - answer["began_ns"]
        epochs.append(answer["epoch"])
        ram.unlink()
        state.unlink()
    assert epochs == sorted(set(epochs)), "epochs went on between the copies"
    pace = ask_daemon(pair.folder / "b", "pace")
    assert pace["role"] == "secondary" and pace["term"] == 1 and pace["committed"] >= epochs[-1]
    numbers = [epoch for _, epoch, _ in pace["commits"]]
    assert numbers == sorted(set(numbers)) and set(epochs) <= set(numbers)
    assert pace["beats"] and all(pause_ns > 0 for _, _, pause_ns in pace["beats"][-1:])
    assert ask_daemon(pair.folder / "b", "pace", since_ns=pace["now_ns"] + 10**12)["commits"] == []


def test_what_cannot_be_copied_is_refused(pair: Pair) -> None:
    secondary = pair.start("b", "secondary")
    secondary.wait_for("standby")
    with pytest.raises(RefusedByDaemon, match="drill does not exist"):
        copy(pair)
    (pair.folder / "b" / "drill").mkdir()
    with pytest.raises(RefusedByDaemon, match="no whole replica to copy: no epoch was committed yet"):
        copy(pair)
    pair.start("a", "primary").wait_for("primary: protected")
    with pytest.raises(RefusedByDaemon, match="the guest runs here"):
        ask_daemon(pair.folder / "a", "copy")
    (pair.folder / "b" / "drill" / "ram").write_text("another one's")
    with pytest.raises(RefusedByDaemon, match="ram"):
        copy(pair)
    assert (pair.folder / "b" / "drill" / "ram").read_text() == "another one's"


def test_who_hangs_up_gets_no_copy(pair: Pair) -> None:
    protect(pair, 64)
    folder = pair.folder / "b" / "drill"
    with socket.socket(socket.AF_UNIX) as asker:
        asker.connect(str(pair.folder / "b" / "control.sock"))
        asker.sendall(json.dumps({"command": "copy"}).encode() + b"\n")
        await_files(folder, 1)
    await_files(folder, 0)
    assert check_ram_file(BUSY, Path(copy(pair)["ram"])).step > 0


def await_files(folder: Path, least: int) -> None:
    """Until the daemon has begun, or has cleared up: another process's doing."""
    deadline = time.monotonic() + PATIENCE_S
    while bool(list(folder.iterdir())) is not bool(least):
        assert time.monotonic() < deadline


def test_process_ids_are_told(pair: Pair) -> None:
    primary, secondary = pair.protect()
    here = ask_daemon(pair.folder / "a", "pids")
    assert here["daemon"] == primary.process.pid
    assert Path(f"/proc/{here['guest']}/stat").read_text().split()[3] == str(primary.process.pid)
    assert ask_daemon(pair.folder / "b", "pids") == {"daemon": secondary.process.pid, "guest": 0}
