"""Results: recorded, written, read back, shown, drawn."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from results import MACHINE, make_result
from rich.console import Console

from replicator.bench.figures.metrics import METRICS
from replicator.bench.figures.result import Recorder, make_cell, result_from_map
from replicator.bench.output import plots, table
from replicator.bench.output.files import csv_text, json_text, read_result, write_text
from replicator.bench.output.html import render
from replicator.bench.output.report import write_report
from replicator.errors import ConfigError, FileAccessError, InvariantError


def show(result) -> str:
    text = io.StringIO()
    table.show(Console(file=text, width=160, highlight=False), result)
    return text.getvalue()


def test_json_is_as_it_was(golden):
    golden("result.json", json_text(make_result()))


def test_csv_is_as_it_was(golden):
    golden("result.csv", csv_text(make_result()))


def test_the_table_is_as_it_was(golden):
    golden("table.txt", show(make_result()))


def test_the_page_is_as_it_was(golden):
    golden("result.html", render(make_result(), [("rate", "<svg></svg>")]))


def test_json_is_read_back_whole(tmp_path):
    result = make_result()
    write_text(tmp_path / "new" / "result.json", json_text(result))
    assert read_result(tmp_path / "new" / "result.json").to_map() == result.to_map()


def test_each_row_of_the_csv_says_everything():
    rows = list(csv.DictReader(io.StringIO(csv_text(make_result()))))
    assert len(rows) == 6
    rate = next(row for row in rows if row["metric"] == "rate")
    assert (rate["median"], rate["lowest"], rate["highest"], rate["repeats"]) == (
        "900.0",
        "800.0",
        "950.0",
        "3",
    )
    assert rate["values"].split() == ["900.0", "950.0", "800.0"]
    for row in rows:
        assert {key: row[key] for key in MACHINE} == {key: str(value) for key, value in MACHINE.items()}
        assert row["seed"] == "7"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "no benchmark's result"),
        ('{"format": 99}', "format 1"),
        ('{"format": 1, "bench": "x"}', "damaged"),
    ],
)
def test_what_is_no_result_is_refused(tmp_path, text, words):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ConfigError, match=words):
        read_result(tmp_path / "file")


@pytest.mark.parametrize(
    "change",
    [{"metric": "no such"}, {"values": []}, {"values": "x"}, {"cell": 3}, {"values": [None]}],
)
def test_a_damaged_figure_is_refused(change):
    values = json.loads(json_text(make_result()))
    values["figures"][0] |= change
    with pytest.raises(ConfigError, match="damaged"):
        result_from_map(values, "file")


def test_files_that_cannot_be_used_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileAccessError, match="cannot be written"):
        write_text(tmp_path / "file" / "below", "")
    with pytest.raises(FileAccessError, match="cannot be read"):
        read_result(tmp_path / "none")


def test_figures_keep_the_order_of_cells_and_metrics():
    recorder = Recorder()
    later, sooner = make_cell(setting="b"), make_cell(setting="a")
    recorder.add(later, {"pause p50": 1.0, "rate": 2.0})
    recorder.add(sooner, {"rate": 3.0})
    recorder.add(later, {"rate": 4.0})
    assert [(f.cell, f.metric.name, f.values) for f in recorder.figures()] == [
        (later, "rate", (2.0, 4.0)), (later, "pause p50", (1.0,)), (sooner, "rate", (3.0,)),
    ]  # fmt: skip


def test_an_undeclared_metric_is_our_mistake():
    with pytest.raises(InvariantError):
        Recorder().add(make_cell(setting="a"), {"no such": 1.0})


def test_the_first_reason_of_a_failure_is_kept():
    recorder, cell = Recorder(), make_cell(setting="a")
    recorder.fail(cell, "first")
    recorder.fail(cell, "second")
    assert recorder.has_failed(cell)
    assert [one.reason for one in recorder.failures()] == ["first"]


def test_metrics_have_names_of_their_own():
    assert all(name == metric.name for name, metric in METRICS.items())


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12, "12"),
        (0.034567, "0.0346"),
        (0.5, "0.50"),
        (9.876, "9.88"),
        (98.76, "98.8"),
        (1234.5, "1,234"),
    ],
)
def test_numbers_are_shown_with_three_digits(value, text):
    assert table.format_number(value) == text


def test_plots_are_lines_along_the_axis_with_a_series_for_the_rest():
    figures = [figure for figure in make_result().figures if figure.metric.name == "rate"]
    (series,) = plots.series_of(figures, "setting")
    assert series.name == "set, protected"
    assert [place for place, _ in series.points] == ["10 ms", "50 ms"]


class Page(HTMLParser):
    """Collects what a browser would fetch from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.fetched += [
            value for name, value in attributes
            if name in ("src", "href", "xlink:href") and value and not value.startswith("#")
        ]  # fmt: skip


def test_a_report_has_each_plot_twice_and_a_page_that_needs_nothing_else(tmp_path):
    page = write_report(tmp_path, make_result())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "interval-dirty-pages-p50.png", "interval-dirty-pages-p50.svg", "interval-pause-p50.png",
        "interval-pause-p50.svg", "interval-rate.png", "interval-rate.svg", "interval.html",
    ]  # fmt: skip
    parsed = Page()
    parsed.feed(page.read_text())
    assert parsed.tags.count("svg") == 3
    assert not parsed.fetched
    assert "script" not in parsed.tags
    for path in tmp_path.glob("*.svg"):
        assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")
    for path in tmp_path.glob("*.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_a_report_without_an_axis_has_bars(tmp_path):
    (plot, *_) = plots.draw_plots(make_result())
    assert plot.name == "interval-rate"


def test_a_report_without_matplotlib_names_the_extra(monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="matplotlib") as refused:
        plots.require_matplotlib()
    assert "replicator[bench]" in refused.value.hint
