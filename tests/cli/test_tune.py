"""`replicator tune` changes a running primary, shows what is in force, and refuses what cannot be."""

from __future__ import annotations

from command_line import replicator, status_of, wait_for_status
from pair import Pair

CONFIG_ERROR, FENCE = 2, 8


def test_a_primary_is_tuned_while_it_protects(pair: Pair) -> None:
    pair.protect()
    config = pair.folder / "a.toml"
    shown = replicator("tune", config)
    assert shown.code == 0
    assert (
        "interval_ms = 50\n" in shown.out
        and "pacing = fixed\n" in shown.out
        and "on_busy = complete\n" in shown.out
    )
    changed = replicator(
        "tune", config, "--pacing", "adaptive", "--goal", "latency=20ms", "--interval-max", "30"
    )
    assert changed.code == 0, changed.err
    assert "pacing = adaptive\n" in changed.out and "interval_max_ms = 30\n" in changed.out
    status = status_of(config)
    assert status["pace"]["pacing"] == "adaptive 5..30 ms, latency=20ms"
    later = wait_for_status(config, lambda found: found["committed"] > status["committed"] + 5)
    assert later["state"].startswith("protected")
    table = replicator("status", config).out
    assert "adaptive 5..30 ms, latency=20ms" in table and "pre-copy" in table


def test_a_wrong_order_changes_nothing(pair: Pair) -> None:
    pair.protect()
    config = pair.folder / "a.toml"
    before = replicator("tune", config).out
    refused = replicator("tune", config, "--interval", "20", "--interval-min", "900")
    assert refused.code == CONFIG_ERROR
    assert (
        "interval_min_ms = 900 and interval_max_ms = 100 are no range" in refused.err
        and "hint:" in refused.err
    )
    assert replicator("tune", config).out == before


def test_a_secondary_says_where_to_tune(pair: Pair) -> None:
    pair.start("b", "secondary").wait_for("standby")
    refused = replicator("tune", pair.folder / "b.toml", "--interval", "20")
    assert refused.code == FENCE
    assert "does not run the guest" in refused.err and "calls primary" in refused.err


def test_a_primary_starts_with_a_policy_of_its_own(pair: Pair) -> None:
    options = ("--max-downtime", "80", "--on-busy", "abort")
    pair.start("a", "primary", *options).wait_for("unprotected")
    shown = replicator("tune", pair.folder / "a.toml").out
    assert "max_downtime_ms = 80\n" in shown and "on_busy = abort\n" in shown


def test_a_policy_that_cannot_be_is_refused_before_anything_starts(pair: Pair) -> None:
    refused = replicator("primary", pair.folder / "a.toml", "--max-iterations", "1")
    assert refused.code == CONFIG_ERROR
    assert "[sync] max_iterations = 1 is not in 4..10000" in refused.err
