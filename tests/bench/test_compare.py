"""Two results side by side: ratios, noise, and the exit code."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from results import make_result

from replicator.bench.figures.compare import Change, compare_results
from replicator.bench.figures.metrics import METRICS
from replicator.bench.figures.result import Figure, make_cell
from replicator.bench.output.files import json_text
from replicator.cli.main import main
from replicator.errors import ConfigError


def change(metric: str, before: tuple[float, ...], after: tuple[float, ...]) -> Change:
    cell = make_cell(setting="x")
    return Change(Figure(cell, METRICS[metric], before), Figure(cell, METRICS[metric], after))


@pytest.mark.parametrize(
    ("metric", "before", "after", "word"),
    [
        ("pause p50", (1, 2, 3), (4, 5, 6), "worse"),
        ("pause p50", (4, 5, 6), (1, 2, 3), "better"),
        ("rate", (1, 2, 3), (4, 5, 6), "better"),
        ("rate", (4, 5, 6), (1, 2, 3), "worse"),
        ("dirty pages p50", (1, 2, 3), (4, 5, 6), "differs"),
        ("pause p50", (1, 2, 4), (3, 5, 6), ""),
        # Two values a side prove nothing.
        ("pause p50", (1, 2), (4, 5), ""),
    ],
)
def test_a_change_beyond_noise_has_a_word(metric, before, after, word):
    assert change(metric, before, after).word == word


def test_a_doubled_latency_and_a_halved_rate_are_equally_bad():
    assert change("pause p50", (1, 1, 1), (2, 2, 2)).worse_percent == pytest.approx(100)
    assert change("rate", (2, 2, 2), (1, 1, 1)).worse_percent == pytest.approx(100)


def test_nothing_before_has_no_ratio():
    assert change("false failovers", (0, 0, 0), (1, 1, 1)).ratio is None


def test_counterparts_are_found_and_circumstances_told():
    before, after = make_result(), make_result(factor=2, kernel="6.18")
    after = replace(after, figures=after.figures[:3])
    comparison = compare_results(before, after)
    assert [one.word for one in comparison.changes] == ["worse", "worse", "differs"]
    assert len(comparison.only_before) == 3
    assert comparison.only_after == ()
    assert comparison.circumstances == ("kernel: 6.7 -> 6.18",)


def test_other_benchmarks_are_no_counterparts():
    with pytest.raises(ConfigError, match="cannot be compared"):
        compare_results(make_result(), replace(make_result(), bench="pause"))
    with pytest.raises(ConfigError, match="in common"):
        compare_results(make_result(), replace(make_result(), figures=()))


@pytest.fixture
def files(tmp_path):
    for name, factor in (("a", 1.0), ("same", 1.0), ("slow", 1.5)):
        (tmp_path / name).write_text(json_text(make_result(factor=factor)))
    return tmp_path


@pytest.mark.parametrize(
    ("after", "options", "exit_code"),
    [
        ("same", ["--fail-above", "0"], 0),
        ("slow", [], 0),
        ("slow", ["--fail-above", "60"], 0),
        ("slow", ["--fail-above", "40"], 1),
    ],
)
def test_the_exit_code_tells_what_became_worse(files, after, options, exit_code, capsys):
    try:
        main(["bench", "compare", str(files / "a"), str(files / after), *options])
        code = 0
    except SystemExit as ended:
        code = ended.code
    assert code == exit_code
    assert "10 ms, set, protected" in capsys.readouterr().out


def test_a_file_that_is_no_result_is_exit_code_2(files):
    (files / "other").write_text(json.dumps({"format": 1}))
    with pytest.raises(SystemExit) as ended:
        main(["bench", "compare", str(files / "a"), str(files / "other")])
    assert ended.value.code == 2
