"""`replicator switchover` as an operator runs it: what it says, and the exit codes of the README."""

from __future__ import annotations

from command_line import replicator
from pair import Pair

from replicator.cli.switchover import describe
from replicator.engine.move_report import MoveReport, Outcome
from replicator.errors import FenceError
from replicator.units import NS_PER_MS


def test_it_moves_and_waits_for_the_new_protection(pair: Pair) -> None:
    _, secondary = pair.protect()
    moved = replicator("switchover", "--max-downtime", "2000", "--wait", pair.folder / "a.toml")
    assert moved.code == 0, moved.err
    assert "moved after" in moved.out and "the guest stood still for" in moved.out
    assert "protected again after" in moved.out
    secondary.wait_for("b: primary: protected")


def test_the_secondary_says_where_to_run_it(pair: Pair) -> None:
    pair.protect()
    refused = replicator("switchover", pair.folder / "b.toml")
    assert refused.code == FenceError.exit_code
    assert "this side waits for it" in refused.err
    assert "on the other host, the primary's" in refused.err


def test_bounds_that_make_no_sense_are_named(pair: Pair) -> None:
    pair.protect()
    refused = replicator("switchover", "--max-downtime", "20000", "--max-time", "10", pair.folder / "a.toml")
    assert refused.code == 2
    assert "is longer than" in refused.err and "hint:" in refused.err


def test_the_report_is_in_milliseconds_and_says_whether_the_promise_was_kept() -> None:
    report = MoveReport(Outcome.MOVED, "", 3, 100, 4096, 300 * NS_PER_MS, 80 * NS_PER_MS, 20 * NS_PER_MS)
    fields = report.to_map()
    assert (fields["outcome"], fields["downtime_ms"], fields["keeps_promise"]) == ("moved", 20.0, True)
    assert describe(fields)[1] == "the guest stood still for 20.0 ms (forecast 80.0 ms, allowed 300.0 ms)"
    late = MoveReport(Outcome.MOVED, "", max_downtime_ns=10, promised_ns=20, downtime_ns=21)
    assert not late.keeps_promise
