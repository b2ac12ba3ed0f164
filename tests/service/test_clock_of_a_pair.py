"""The clocks of a protected guest as the operator sees them, before and after a take-over."""

from __future__ import annotations

from pathlib import Path

from pair import Pair, Side

from replicator.errors import ConfigError
from replicator.service.control import ask_daemon

AGENT = "agent = true\n"
CATCH_UP = '[clock]\npolicy = "catch-up"\nmax_behind_ms = 20\n'
#: The file arbiter of these pairs lets nobody in for about a second after the primary's death.
OUTAGE_MS_MIN = 200


def add(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def wait_steps(side: Side) -> None:
    """Until the guest's wall clock was set here."""
    while not side.status()["clock"]["steps"]:
        assert side.process.poll() is None, side.text


def test_a_protected_guest_falls_behind_and_a_take_over_adds_to_it(pair: Pair) -> None:
    primary, secondary = pair.protect()
    assert secondary.status()["clock"]["policy"] == ""
    first = primary.status()["clock"]
    assert first["policy"] == "continue" and first["behind_ms"] > 0 and first["drift_ppm"] > 0
    while (last := primary.status()["clock"])["behind_ms"] <= first["behind_ms"]:
        pass
    primary.kill()
    secondary.wait_for("b: primary: active-alone")
    assert secondary.status()["clock"]["behind_ms"] > last["behind_ms"] / 2 + OUTAGE_MS_MIN


def test_with_the_agent_the_clock_is_set_before_and_after_a_take_over(pair: Pair) -> None:
    add(pair.folder / "guest.toml", AGENT)
    for name in "ab":
        add(pair.folder / f"{name}.toml", CATCH_UP)
    primary, secondary = pair.protect()
    wait_steps(primary)
    primary.kill()
    secondary.wait_for("b: primary: active-alone")
    wait_steps(secondary)
    clock = secondary.status()["clock"]
    assert clock["last_step_ms"] > OUTAGE_MS_MIN / 2 and clock["trouble"] == ""


def test_the_policy_on_the_command_line_counts(pair: Pair) -> None:
    add(pair.folder / "guest.toml", AGENT)
    add(pair.folder / "a.toml", CATCH_UP)
    secondary = pair.start("b", "secondary", "--clock", "catch-up")
    secondary.wait_for("standby")
    primary = pair.start("a", "primary", "--clock", "continue")
    primary.wait_for("primary: protected")
    assert primary.status()["clock"]["policy"] == "continue"
    primary.kill()
    secondary.wait_for("b: primary: active-alone")
    assert secondary.status()["clock"]["policy"] == "catch-up"


def test_promote_may_order_a_policy(pair_without_arbiter: Pair) -> None:
    pair = pair_without_arbiter
    add(pair.folder / "guest.toml", AGENT)
    primary, secondary = pair.protect()
    primary.kill()
    secondary.wait_for("the primary is silent")
    ask_daemon(pair.folder / "b", "promote", clock="catch-up")
    secondary.wait_for("b: primary: active-alone")
    wait_steps(secondary)


def test_catch_up_without_an_agent_is_refused_at_the_start(pair: Pair) -> None:
    add(pair.folder / "a.toml", CATCH_UP)
    primary = pair.start("a", "primary")
    primary.wait_for("a.toml: [clock] policy: the clock policy catch-up needs the guest agent")
    assert primary.process.wait(30) == ConfigError.exit_code
