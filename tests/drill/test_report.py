"""What a drill leaves behind: the table, drill.json, and a page that needs nothing but itself."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from rich.console import Console

from replicator.cli.drill.matrix import HTML_NAME, JSON_NAME, WIDTH_MIN, write_report
from replicator.drill.history.verdict import JournalVerdict, check_journals
from replicator.drill.matrix.cells import Cell, choose_cells
from replicator.drill.matrix.faults import Fault
from replicator.drill.matrix.judge import Verdict
from replicator.drill.matrix.phases import Phase
from replicator.drill.report.hardware import describe_machine, describe_version
from replicator.drill.report.html import SHADES_MS, anchor, describe_square, render
from replicator.drill.report.result import CellResult, DrillResult
from replicator.drill.report.table import describe_journals, show
from replicator.service.config import Mode

GOOD = Verdict(True, (), 12.0, 250.0, 900.0, 310.0, 0, 0, "b")
BAD = Verdict(
    False, ("2 acknowledged increments lost", "<b>a reason</b>"), 12.0, 250.0, None, 310.0, 2, 0, "b"
)
HOST = Cell(Fault.KILL_HOST, Phase.AWAITING)
CUT = Cell(Fault.CUT, Phase.APPLYING)
NOT_RUN = Cell(Fault.SLOW, Phase.RUNNING, "it lasts & lasts")


def make(*cells: CellResult) -> DrillResult:
    machine: dict[str, str | int] = {"cpu": "a & b", "cores": 2}
    version = {"version": "1.2", "commit": "0123456789abcdef"}
    return DrillResult(
        "synthetic", "remus", 7, True, machine, version, "2026-01-01T00:00:00+00:00", 61.2, cells
    )


MIXED = make(
    CellResult(HOST, GOOD, "b: PeerSilent", 1.5),
    CellResult(CUT, BAD, "a: LinkLost", 2.5, ("+1.0 ms a notice", "a: <log>")),
    CellResult(NOT_RUN),
)


class Page(HTMLParser):
    """Collects tags and attributes; complains about tags that are not closed in order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_asks_for_nothing():
    text = render(MIXED)
    page = Page(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert "url(" not in text and "@import" not in text and "http" not in text
    links = {value for name, value in page.attributes if name == "href"}
    ids = {f"#{value}" for name, value in page.attributes if name == "id"}
    assert links == ids == {f"#{anchor(MIXED.cells[0])}", f"#{anchor(MIXED.cells[1])}"}


def test_the_page_shows_every_cell_and_escapes_what_it_quotes():
    text = render(MIXED)
    assert "1 cells failed" in text and "1 of 2 cells passed, 1 are not applicable" in text
    assert ">310</a>" in text and ">FAIL</a>" in text and ">n/a</td>" in text
    assert "not applicable: it lasts &amp; lasts" in text
    assert "&lt;b&gt;a reason&lt;/b&gt;" in text and "a: &lt;log&gt;" in text and "a &amp; b" in text
    assert "every cell passed" in render(make(MIXED.cells[0]))


@pytest.mark.parametrize("number", range(len(SHADES_MS) + 1))
def test_the_shades_follow_the_gap(number):
    gaps = (*(bound - 1.0 for bound in SHADES_MS), SHADES_MS[-1] + 1.0)
    verdict = Verdict(True, gap_ms=gaps[number])
    assert describe_square(CellResult(HOST, verdict)) == (f"s{number}", f"{gaps[number]:.0f}")


def test_the_json_has_every_figure_and_reads_back(tmp_path):
    write_report(MIXED, tmp_path)
    assert (tmp_path / HTML_NAME).read_text() == render(MIXED)
    read = json.loads((tmp_path / JSON_NAME).read_text())
    assert read["totals"] == {"run": 2, "passed": 1, "failed": 1, "not_run": 1, "lost": 2, "repeated": 0}
    assert (read["passed"], read["seed"], read["guest"], read["commit"]) == (
        False,
        7,
        "synthetic",
        "0123456789abcdef",
    )
    good, bad, skipped = read["cells"]
    assert (good["result"], good["take_over_ms"], good["expected"]) == ("passed", 250.0, "take-over")
    assert (bad["result"], bad["lost"], bad["heal_ms"]) == ("failed", 2, None)
    assert bad["reasons"] == list(BAD.reasons) and bad["story"] == list(MIXED.cells[1].story)
    assert skipped == {"fault": "slow", "phase": "running", "result": "not run", "reason": "it lasts & lasts"}


def test_a_journal_that_disagrees_fails_the_run():
    verdict = JournalVerdict(900, 100, ("acks: epoch <4> was acked before its commit",))
    result = replace(make(MIXED.cells[0]), journals=(JournalVerdict(10, 5), verdict))
    assert not result.passed
    assert "1 violations in journals" in render(result) and "epoch &lt;4&gt;" in render(result)
    assert result.to_map()["journals"][1]["violations"] == list(verdict.violations)
    assert describe_journals(result) == "journals of 2 pairs: 910 lines, 105 checks, 1 violations"


def test_a_journal_that_cannot_be_read_is_a_violation(tmp_path):
    (tmp_path / "a.events").write_text("this is no journal\n")
    assert check_journals([tmp_path / "a.events"]).violations
    assert check_journals([tmp_path]).violations


def test_only_a_run_in_which_something_ran_and_all_passed_has_passed():
    assert make(MIXED.cells[0], MIXED.cells[2]).passed
    assert not MIXED.passed
    assert not make(MIXED.cells[2]).passed


@pytest.mark.parametrize("mode", Mode)
def test_the_terminal_shows_the_whole_matrix_in_its_least_width(mode):
    cells = [CellResult(cell, None if cell.reason else GOOD) for cell in choose_cells(mode=mode)]
    console = Console(width=WIDTH_MIN, record=True)
    show(console, make(*cells, CellResult(CUT, BAD)))
    text = console.export_text()
    assert all(result.cell.fault.value in text for result in cells)
    assert "…" not in text
    assert "FAILED cut @ applying: 2 acknowledged increments lost" in text


def test_the_machine_is_described():
    assert describe_machine()["cores"] >= 1
    assert describe_version()["version"]
