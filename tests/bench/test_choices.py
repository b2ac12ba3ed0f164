"""What an operator may choose, what is refused, and in which order things are measured."""

from __future__ import annotations

import io
import tomllib

import pytest
from rich.console import Console

from replicator.arbiter.base import check_timing
from replicator.bench import scale as scale_bench
from replicator.bench.failover import BEATS, choose_beats
from replicator.bench.figures.result import Recorder, describe_cell
from replicator.bench.interval import choose_settings, compare_states, count_steps, states_in_turn
from replicator.bench.loads.workloads import WORKLOADS, choose_workloads
from replicator.bench.micro import find_script, measure_script
from replicator.bench.output.progress import Steps
from replicator.bench.rig import synthetic
from replicator.bench.run import Run, describe_error
from replicator.cli.main import main
from replicator.demo.stage import config_text
from replicator.errors import ConfigError, GuestError


def quiet_steps() -> Steps:
    return Steps("test", 1, Console(file=io.StringIO()))


def test_settings_are_milliseconds_or_adaptive():
    fixed, adaptive = choose_settings("25, adaptive,25", "latency=5ms")
    assert (fixed.name, fixed.sections) == ("25 ms", {"epoch": {"interval_ms": 25}})
    assert adaptive.sections == {"epoch": {"pacing": "adaptive", "goal": "latency=5ms"}}


@pytest.mark.parametrize("names", ["", "fast", "-5", "5.5"])
def test_no_length_of_an_epoch_is_refused(names):
    with pytest.raises(ConfigError):
        choose_settings(names)


def test_beats_are_named_or_written_out():
    named, written = choose_beats("tuned,12x5/90/15")
    assert named is BEATS["tuned"]
    assert written.sections["heartbeat"] == {"interval_ms": 12, "misses": 5}
    assert written.sections["arbiter"] == {"ttl_ms": 90, "margin_ms": 15}


@pytest.mark.parametrize("text", ["", "fast", "12x5/90", "axb/c/d"])
def test_no_beats_are_refused(text):
    with pytest.raises(ConfigError):
        choose_beats(text)


@pytest.mark.parametrize("beats", BEATS.values(), ids=lambda beats: beats.name)
def test_every_named_kind_of_beats_may_be_configured(beats):
    check_timing(beats.interval, beats.misses, beats.margin, beats.ttl)


def test_both_states_are_measured_side_by_side_and_switched_once_a_workload():
    turns = [
        (workload.name, state)
        for workload, states in states_in_turn(choose_workloads("idle,request,ping"))
        for state in states
    ]
    assert turns == [
        ("idle", "unprotected"), ("idle", "protected"), ("request", "protected"), ("request", "unprotected"),
        ("ping", "unprotected"), ("ping", "protected"),
    ]  # fmt: skip
    assert len(turns) * 2 * 5 == count_steps(5, 2, 3)


def test_protection_costs_rate_and_adds_latency():
    base = {"rate": 200.0, "latency avg": 1.0, "latency p99": 2.0}
    cost = {"rate": 150.0, "latency avg": 9.0, "latency p99": 22.0, "pause p50": 1.0}
    assert compare_states(base, cost) == {
        "rate of unprotected": 75, "added latency avg": 8, "added latency p99": 20,
    }  # fmt: skip
    assert compare_states({}, {}) == {}


def test_workloads_are_all_or_those_named():
    assert [one.name for one in choose_workloads("ping,idle,ping")] == ["ping", "idle"]
    with pytest.raises(ConfigError) as refused:
        choose_workloads("pong")
    assert all(name in refused.value.hint for name in WORKLOADS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["interval", "--intervals", "x"], "no length of an epoch"),
        (["interval", "--workloads", "x"], "set-pipelined"),
        (["sync", "--workload", "idle,ping"], "name one"),
        (["failover", "--beats", "x"], "15x4/100/20"),
        (["scale", "--parts", "x"], "ram, dirty, rate, guests"),
        (["scale", "--sizes", "a"], "--sizes"),
        (["scale", "--parts", "ram", "--sizes", "999999999"], "are free"),
        (["scale", "--parts", "guests", "--guests", "1,999999"], "999999 guests"),
        (["pause", "--interval-ms", "0"], "--interval-ms"),
    ],
)
def test_a_mistake_is_named_before_anything_is_built(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    assert ended.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_memory_is_counted_for_every_guest_and_both_sides(monkeypatch):
    monkeypatch.setattr(synthetic, "free_memory_bytes", lambda: 3000 << 20)
    spec = scale_bench.idle_guest(800)
    assert spec.needed_mib == 1600 + synthetic.PAIR_MIB
    synthetic.require_memory([spec], "one")
    with pytest.raises(ConfigError, match=r"two needs 4864 MiB .* 3000 MiB are free"):
        synthetic.require_memory([spec, spec], "two")
    assert scale_bench.changing_guest(800).needed_mib == spec.needed_mib + 800


def test_steps_of_a_scale_are_those_of_its_parts():
    everything = scale_bench.Scale(scale_bench.PARTS, (1, 2), (1,), (1, 2, 3))
    assert everything.steps == 2 + 1 + 1 + 3
    assert scale_bench.Scale(("rate",), (1, 2), (1,), (1, 2, 3)).steps == 1


def test_progress_is_a_line_a_step_where_there_is_no_terminal():
    text = io.StringIO()
    with Steps("bench x", 2, Console(file=text, width=40)) as steps:
        steps.begin("the first")
        steps.begin("the second")
    lines = text.getvalue().splitlines()
    assert [line.split(": ")[-1] for line in lines] == ["the first", "the second"]
    assert lines[1].startswith("bench x: 2 of 2 after")


def test_a_scripts_figures_are_taken_over(tmp_path):
    (tmp_path / "tools.py").write_text(
        "listeners = []\ndef show(title, times, size_bytes=0):\n"
        "    for listen in listeners: listen(title, times, size_bytes)\n"
    )
    script = tmp_path / "copies.py"
    script.write_text(
        "import sys\nfrom tools import show\nassert sys.argv[1:] == ['--rounds', '3']\n"
        "show('16 MB: 6.5% of the bytes (x)', {'plain': [4.0, 8.0], 'other': [2.0, 2.0]}, 16_000_000)\n"
    )
    run = Run(1, 1.0, 1, quiet_steps(), Recorder())
    measure_script(run, script, 3)
    figures = {(describe_cell(f.cell), f.metric.name): f.values for f in run.recorder.figures()}
    assert figures[("16 MB", "size of plain")] == (6.5,)
    assert figures[("16 MB, plain", "time")] == (4.0, 8.0)
    assert figures[("16 MB, other", "throughput")] == (8000.0, 8000.0)


@pytest.mark.parametrize(
    ("hint", "text"),
    [
        ("", "it ended"),
        ("run it", "it ended (run it)"),
        ("a: one\nTwo: three\nclient: ", "it ended (Two: three)"),
    ],
)
def test_the_reason_of_a_failed_cell_is_a_line(hint, text):
    assert describe_error(GuestError("it ended", hint=hint)) == text


def test_settings_come_on_top_of_what_is_usual():
    usual = {"node": {"name": "a"}, "epoch": {"interval_ms": 50, "in_flight": 2}, "guest": {"taps": ["tap0"]}}
    text = config_text(usual, {"epoch": {"interval_ms": 25}, "keys": {"allow_plaintext": True}})
    assert tomllib.loads(text) == {
        "node": {"name": "a"}, "epoch": {"interval_ms": 25, "in_flight": 2}, "guest": {"taps": ["tap0"]},
        "keys": {"allow_plaintext": True},
    }  # fmt: skip


def test_a_script_that_is_not_there_is_named():
    assert find_script("link").name == "link.py"
    with pytest.raises(ConfigError, match="checkout"):
        raise_hint("no-such-script")


def raise_hint(name: str) -> None:
    try:
        find_script(name)
    except ConfigError as error:
        raise ConfigError(error.hint) from error
