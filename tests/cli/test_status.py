"""`replicator status` as a table, as JSON, and for as long as somebody watches."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import time
from pathlib import Path

from command_line import PROGRAM, TIMEOUT_S, replicator, wait_for_status
from pair import Pair

INTERRUPTED, LINK = 130, 4


def test_table_and_json_say_the_same(pair: Pair) -> None:
    pair.protect()
    config = pair.folder / "a.toml"
    table = replicator("status", config)
    assert table.code == 0
    assert "synthetic on a (primary)" in table.out
    for row in ("state", "protected lag", "term", "epoch / committed", "held output", "pause p50 / p99"):
        assert row in table.out
    assert "warning" not in table.out and "reason" not in table.out
    (line,) = replicator("status", "--json", config).out.splitlines()
    found = json.loads(line)
    assert (found["node"], found["role"], found["term"]) == ("a", "primary", 1)
    assert found["state"].startswith("protected") and found["committed"] > 0
    assert found["stats"]["pause_ms"]["p50"] > 0


def test_a_secondary_tells_what_it_holds(pair: Pair) -> None:
    pair.protect()
    config = pair.folder / "b.toml"
    found = wait_for_status(config, lambda status: status["committed"] > 0)
    assert found["role"] == "secondary" and found["state"].startswith("standby at epoch")
    assert "standby at epoch" in replicator("status", config).out


def test_json_is_watched_a_line_at_a_time_until_the_daemon_ends(pair: Pair) -> None:
    primary, _ = pair.protect()
    watching = subprocess.Popen(
        [*PROGRAM, "status", "--watch", "--json", str(pair.folder / "a.toml")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert watching.stdout is not None and watching.stderr is not None
    epochs = [json.loads(watching.stdout.readline())["committed"] for _ in range(3)]
    assert epochs == sorted(epochs) and epochs[0] < epochs[-1]
    primary.kill()
    assert watching.wait(TIMEOUT_S) == LINK
    assert "no daemon answers" in watching.stderr.read()
    watching.stdout.close()
    watching.stderr.close()


def test_the_table_is_watched_on_a_terminal_until_interrupted(pair: Pair) -> None:
    pair.protect()
    code, screen = watch_on_a_terminal(pair.folder / "a.toml", "protected lag", times=3)
    assert code == INTERRUPTED
    assert "synthetic on a (primary)" in screen
    assert "Traceback" not in screen


def watch_on_a_terminal(config: Path, wanted: str, times: int) -> tuple[int, str]:
    """`status --watch` until it has drawn `wanted` so often, then Ctrl-C; exit code and all that it drew."""
    master, slave = pty.openpty()
    watching = subprocess.Popen([*PROGRAM, "status", "--watch", str(config)], stdout=slave, stderr=slave)
    os.close(slave)
    screen, deadline = "", time.monotonic() + TIMEOUT_S
    while screen.count(wanted) < times:
        ready, _, _ = select.select([master], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, screen
        screen += os.read(master, 65_536).decode(errors="replace")
    watching.send_signal(signal.SIGINT)
    code = watching.wait(TIMEOUT_S)
    os.close(master)
    return code, screen


def test_logs_may_be_json(pair: Pair) -> None:
    config = pair.folder / "b.toml"
    daemon = subprocess.Popen(
        [*PROGRAM, "-v", "--json-log", "secondary", str(config)], stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until_it_answers(config)
        daemon.send_signal(signal.SIGTERM)
        _, logged = daemon.communicate(timeout=TIMEOUT_S)
    finally:
        daemon.kill()
    lines = [json.loads(line) for line in logged.splitlines()]
    assert lines
    for line in lines:
        assert line["levelname"] in ("INFO", "WARNING") and line["name"].startswith("replicator.")
        assert line["message"] and line["asctime"]


def wait_until_it_answers(config: Path) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while replicator("status", config).code == LINK:
        assert time.monotonic() < deadline
