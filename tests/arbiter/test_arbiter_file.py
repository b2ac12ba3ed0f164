"""The file arbiter alone: corrupt files, earlier boots, full disks, and processes killed or frozen anywhere."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from arbiter_tools import FileBench, Worker

from replicator.arbiter.base import Lease, TakeOverRefused
from replicator.arbiter.file import KEPT_VERSIONS, FileArbiter
from replicator.errors import ArbiterError, LeaseLost

TTL_MS, MARGIN_MS = 60_000, 1000
StartWorker = Callable[..., Worker]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "arbiter"


def open_file_arbiter(folder: Path, *, ttl_ms: int = TTL_MS, margin_ms: int = MARGIN_MS) -> FileArbiter:
    return FileArbiter(folder, "g", ttl_ms=ttl_ms, margin_ms=margin_ms)


def versions(folder: Path) -> list[Path]:
    return sorted((folder / "g").glob("*.json"))


def leftovers(folder: Path) -> list[Path]:
    return list((folder / "g").glob(".*.tmp"))


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def protect(folder: Path) -> tuple[FileArbiter, Lease]:
    arbiter = open_file_arbiter(folder)
    lease = arbiter.acquire("a")
    arbiter.lift_bar(lease, "b", "s", epoch=1)
    return arbiter, lease


def test_nobody_else_may_look_and_old_versions_go(folder: Path) -> None:
    arbiter, lease = protect(folder)
    for _ in range(50):
        lease = arbiter.renew(lease)
    names = versions(folder)
    assert len(names) == KEPT_VERSIONS + 1
    assert json.loads(names[0].read_text())["base"] == 2
    assert leftovers(folder) == []
    assert {path.stat().st_mode & 0o777 for path in names} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / "g")} == {0o700}


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"null",
        b"[]",
        b'{"guest": "g"}',
        b"\xff\xfe",
        b"",
        bytes(100),
        b"x" * 20_000,
        b"[" * 16_000,
    ],
)
def test_a_corrupt_file_is_named_and_nothing_is_granted(folder: Path, content: bytes) -> None:
    arbiter, lease = protect(folder)
    versions(folder)[-1].write_bytes(content)
    calls: list[Callable[[], object]] = [
        arbiter.read,
        lambda: arbiter.renew(lease),
        lambda: arbiter.go_alone(lease),
        lambda: arbiter.take_over("b", 1, 1),
        lambda: arbiter.acquire("c"),
        lambda: arbiter.force_take_over("c"),
    ]
    for call in calls:
        with pytest.raises(ArbiterError, match=str(versions(folder)[-1])) as refusal:
            call()
        assert "remove that directory" in refusal.value.hint


@pytest.mark.parametrize(
    "change",
    [{"format": 2}, {"expires_ns": "1"}, {"expires_ns": None}, {"boot_id": 1}, {"base": []}, {"trail": "x"}],
)
def test_a_field_of_a_wrong_kind_is_corruption(folder: Path, change: dict[str, Any]) -> None:
    arbiter, _ = protect(folder)
    rewrite(versions(folder)[-1], **change)
    with pytest.raises(ArbiterError, match="cannot be read"):
        arbiter.read()


def test_a_record_of_an_earlier_boot_bars_its_replica(folder: Path) -> None:
    arbiter, lease = protect(folder)
    rewrite(versions(folder)[-1], boot_id="earlier")
    record = arbiter.read()
    assert record is not None
    assert (record.term, record.live, record.barred, record.replica) == (1, False, True, None)
    with pytest.raises(TakeOverRefused):
        arbiter.take_over("b", 1, 9)
    with pytest.raises(LeaseLost, match="ran out"):
        arbiter.renew(lease)
    assert arbiter.acquire("a").term == 2


def test_what_a_power_cut_left_empty_gives_way_to_the_version_before(folder: Path) -> None:
    arbiter, lease = protect(folder)
    for _ in range(3):
        lease = arbiter.renew(lease)
    for path in versions(folder):
        rewrite(path, boot_id="earlier")
    for path in versions(folder)[-2:]:
        path.write_bytes(bytes(10))
    newest = versions(folder)[-1]
    assert arbiter.acquire("a").term == 2
    assert versions(folder)[-1] > newest


def test_the_directory_may_be_removed_but_not_behind_a_holder(folder: Path) -> None:
    arbiter, lease = protect(folder)
    for path in (folder / "g").iterdir():
        path.unlink()
    with pytest.raises(LeaseLost, match="knows nothing"):
        arbiter.renew(lease)
    (folder / "g").rmdir()
    with pytest.raises(ArbiterError, match="No such file"):
        arbiter.read()
    assert open_file_arbiter(folder).acquire("b").term == 1


def test_a_disk_that_takes_no_more_is_a_clear_error(folder: Path) -> None:
    arbiter, lease = protect(folder)
    before = arbiter.read()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        with pytest.raises(ArbiterError, match=r"File too large|No space left"):
            arbiter.renew(lease)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert leftovers(folder) == []
    assert arbiter.read() == before
    assert arbiter.renew(lease).is_live()


def test_a_writer_killed_anywhere_leaves_the_old_record_or_the_new_one(
    folder: Path, start_worker: StartWorker
) -> None:
    arbiter, lease = protect(folder)
    for _ in range(KEPT_VERSIONS + 2):
        arbiter.renew(lease)
    barred: list[bool] = []
    for count in range(1, 100):
        arbiter.lift_bar(lease, "b", f"s{count}")
        worker = start_worker(f"file://{folder}", "g", TTL_MS, MARGIN_MS)
        worker.ask("die-at", count)
        answer = worker.ask("go-alone", "a", 1)
        record = arbiter.read()
        assert record is not None
        assert (record.term, record.holder, record.live) == (1, "a", True)
        barred.append(record.barred)
        if answer == "ok":
            break
        assert answer == ""
        worker.process.wait()
        assert worker.process.returncode == -signal.SIGKILL
        assert arbiter.renew(lease).is_live()
    assert barred == sorted(barred)
    assert len(barred) > 5 and not barred[0] and barred[-1] and barred[-2]
    for path in leftovers(folder):
        os.utime(path, (0, 0))
    open_file_arbiter(folder)
    assert leftovers(folder) == []
    arbiter.renew(lease)
    assert len(versions(folder)) <= KEPT_VERSIONS + 1


@pytest.mark.parametrize("event", ["os.listdir", "open", "os.link"])
def test_a_writer_frozen_anywhere_blocks_nobody_and_wakes_up_refused(
    tmp_path: Path, start_worker: StartWorker, event: str
) -> None:
    bench = FileBench(tmp_path / "arbiter")
    arbiter = bench.open()
    worker = start_worker(f"file://{bench.folder}", bench.guest, bench.ttl_ms, bench.margin_ms)
    worker.ask("stop-at", event)
    lease = arbiter.acquire("a")
    arbiter.lift_bar(lease, "b", "s")
    worker.tell("renew", "a", 1)
    worker.await_stop()
    bench.expire(lease)
    taken = arbiter.take_over("b", 1, 1)
    # More than stay, so that the name which the sleeper is about to link is free again.
    for _ in range(3 * KEPT_VERSIONS):
        taken = arbiter.acquire("b", term=2)
    before = arbiter.read()
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.hear() == "LeaseLost"
    record = arbiter.read()
    assert before is not None and record is not None
    assert (record.term, record.holder) == (2, "b")
    assert arbiter.acquire("b", term=2).term == taken.term


def test_a_frozen_winner_is_told_that_it_won(folder: Path, start_worker: StartWorker) -> None:
    """It is stopped between linking and looking whether it counts; others write meanwhile."""
    arbiter, lease = protect(folder)
    worker = start_worker(f"file://{folder}", "g", TTL_MS, MARGIN_MS)
    worker.ask("stop-at", "os.remove")
    worker.tell("go-alone", "a", 1)
    worker.await_stop()
    for _ in range(KEPT_VERSIONS * 2):
        arbiter.renew(lease)
    os.kill(worker.pid, signal.SIGCONT)
    assert worker.hear() == "ok"
    record = arbiter.read()
    assert record is not None and record.barred
