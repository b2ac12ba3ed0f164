"""Where threads in real time may run. Those of a process are looked at in one of its own, for there is no way back."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from unittest.mock import Mock

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from replicator.cli import daemons
from replicator.placement import FULL_SHARE, OWN_SHARE_MAX, ROOM_SHARE, Ticks, choose, parse_ticks
from replicator.service.config import DaemonConfig
from replicator.service.daemon import Daemon

STAT = b"""cpu  300 5 100 900 20 0 10 3 50 0
cpu0 200 5 60 400 12 0 4 1 50 0
cpu11 100 0 40 500 8 0 6 2 0 0
intr 99 1 2 3
ctxt 5
"""


def test_ticks_of_each_processor_are_read() -> None:
    assert parse_ticks(STAT) == {0: Ticks(412, 682), 11: Ticks(508, 656)}
    assert parse_ticks(b"") == {}


@given(st.integers(0, len(STAT)))
def test_a_text_that_breaks_off_tells_of_whole_lines(size: int) -> None:
    assert parse_ticks(STAT[:size]).items() <= parse_ticks(STAT).items()


BOTH = {0, 1}


def test_a_full_processor_is_left_while_another_has_room() -> None:
    assert choose({0: 0.02, 1: 0.6}, 0.2, BOTH) == {1}
    assert choose({0: 0.02, 1: 0.2}, 0.2, BOTH) == BOTH, "there is no room anywhere"
    assert choose({0: 0.2, 1: 0.6}, 0.2, BOTH) == BOTH, "none is full"
    assert choose({0: 0.02, 1: 0.6}, 0.8, BOTH) == BOTH, "it may be full of ourselves"
    assert choose({}, 0, set()) == set()


def test_one_that_was_left_is_used_again_when_it_has_room() -> None:
    assert choose({0: 0.2, 1: 0.5}, 0.2, {1}) == {1}, "not yet"
    assert choose({0: 0.4, 1: 0.5}, 0.2, {1}) == BOTH
    assert choose({0: 0.2, 1: 0.05}, 0.2, {1}) == BOTH, "the other one has none left"
    assert choose({0: 0.6, 1: 0.05}, 0.2, {1}) == {0}, "they have changed places"


@given(
    st.dictionaries(st.integers(0, 7), st.floats(0, 1), min_size=1),
    st.floats(0, 8),
    st.sets(st.integers(0, 7), min_size=1),
)
def test_what_is_chosen(idle: dict[int, float], own: float, used: set[int]) -> None:
    chosen = choose(idle, own, used)
    assert chosen
    assert chosen <= set(idle)
    left = set(idle) - chosen
    assert all(idle[cpu] < ROOM_SHARE for cpu in left)
    if left:
        assert own <= OWN_SHARE_MAX
        assert max(idle[cpu] for cpu in chosen) >= FULL_SHARE


SCRIPT = """
    import asyncio, os, subprocess, sys, threading, time
    from pathlib import Path
    from replicator import placement, urgency

    every = os.sched_getaffinity(0)
    full, *rest = sorted(every)
    rest = set(rest)
    stat = Path(sys.argv[1])
    ticks = dict.fromkeys(every, (0, 0))

    def pass_time(busy):
        for cpu in every:
            idle, used = ticks[cpu]
            ticks[cpu] = (idle, used + 25) if cpu in busy else (idle + 25, used)
        stat.write_text("".join(f"cpu{cpu} {used} 0 0 {idle} 0 0 0 0\\n" for cpu, (idle, used) in ticks.items()))

    def begin():
        urgency.begin()
        time.process_time = lambda: 0.0  # looks follow one another without a pause here
        pass_time(busy=())
        return placement.Placement(stat)

    def start_thread():
        end, place = threading.Event(), []
        def wait():
            place.append(threading.get_native_id())
            begun.set()
            end.wait()
        begun = threading.Event()
        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        begun.wait()
        return place[0]

    def told_by_child():
        return subprocess.run(
            [sys.executable, "-c", "import os; print(*sorted(os.sched_getaffinity(0)))"],
            capture_output=True, text=True, check=True
        ).stdout.split()
"""


def run(body: str, tmp_path: Path) -> None:
    script = textwrap.dedent(SCRIPT) + textwrap.dedent(body)
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "stat")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


needs_right = pytest.mark.skipif(
    os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2,
    reason="needs root, to schedule in real time, and two processors",
)


@needs_right
def test_threads_in_real_time_leave_a_full_processor_and_come_back(tmp_path: Path) -> None:
    run(
        """
        place = begin()
        ordinary = start_thread()
        pass_time(busy={full})
        place.look()
        assert os.sched_getaffinity(0) == rest, "the one in real time has left it"
        assert os.sched_getaffinity(ordinary) == every, "the kernel places the others"
        pass_time(busy=every)
        place.look()
        assert os.sched_getaffinity(0) == every
        """,
        tmp_path,
    )


@needs_right
def test_nothing_else_stays_confined(tmp_path: Path) -> None:
    run(
        """
        place = begin()
        pass_time(busy={full})
        place.look()
        heir = start_thread()
        assert os.sched_getaffinity(heir) == rest, "threads inherit it"
        with placement.unconfined():
            assert [int(cpu) for cpu in told_by_child()] == sorted(every)
        assert os.sched_getaffinity(0) == rest
        pass_time(busy={full})
        place.look()
        assert os.sched_getaffinity(heir) == every, "until the next look"
        place.release()
        assert os.sched_getaffinity(0) == every
        """,
        tmp_path,
    )


@needs_right
def test_a_guest_is_not_confined(tmp_path: Path) -> None:
    run(
        """
        from replicator.guests.qemu_process import LOG_FILE, spawn
        place = begin()
        pass_time(busy={full})
        place.look()
        child = spawn([sys.executable, "-c", "import os; print(*sorted(os.sched_getaffinity(0)))"], {}, (), stat.parent)
        asyncio.run(child.wait())
        assert [int(cpu) for cpu in (stat.parent / LOG_FILE).read_text().split()] == sorted(every)
        """,
        tmp_path,
    )


@needs_right
def test_it_stays_within_what_the_process_may_use(tmp_path: Path) -> None:
    run(
        """
        place = begin()
        os.sched_setaffinity(0, {full})
        place.release()
        place = placement.Placement(stat)
        pass_time(busy={full})
        place.look()
        assert os.sched_getaffinity(0) == {full}, "the only one that it may use"
        """,
        tmp_path,
    )


@needs_right
def test_it_is_kept_until_it_is_cancelled(tmp_path: Path) -> None:
    run(
        """
        async def main():
            urgency.begin()
            looks, placement.Placement.look = asyncio.Event(), lambda self: (placement._confine(rest), looks.set())
            keeping = asyncio.create_task(placement.keep())
            await looks.wait()
            assert os.sched_getaffinity(0) == rest
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            assert os.sched_getaffinity(0) == every
        asyncio.run(main())
        """,
        tmp_path,
    )


def test_without_threads_in_real_time_nothing_is_placed(tmp_path: Path) -> None:
    run("asyncio.run(asyncio.wait_for(placement.keep(), 10))", tmp_path)


@pytest.mark.parametrize("mode", ["remus", "colo"])
def test_a_daemon_keeps_off_full_processors_but_not_in_colo(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    async def keep() -> None:
        looks.append(mode)

    async def live(_: Daemon) -> str:
        await asyncio.sleep(0)
        return "over"

    settings = Mock(spec=DaemonConfig, is_colo=mode == "colo")
    monkeypatch.setattr(daemons, "load_config", lambda _: settings)
    monkeypatch.setattr(daemons, "change_mode", lambda settings, _: settings)
    monkeypatch.setattr(daemons.placement, "keep", keep)
    monkeypatch.setattr(daemons.urgency, "begin", lambda: False)
    # These would last beyond the test.
    monkeypatch.setattr(os, "nice", lambda _: 0)
    monkeypatch.setattr(sys, "setswitchinterval", lambda _: None)
    monkeypatch.setattr(daemons, "_run", lambda daemon, _: live(daemon))
    monkeypatch.setattr(daemons, "Daemon", Mock())
    done = CliRunner().invoke(daemons.secondary, ["pair.toml"])
    assert done.output == "ended: over\n", done.exception
    assert looks == ([] if mode == "colo" else [mode])
