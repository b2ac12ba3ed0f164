"""A drill's result as one HTML file: the heat map and the details of each cell. No scripts, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from replicator.drill.matrix.faults import NATURES, Fault
from replicator.drill.matrix.phases import Phase
from replicator.drill.report.result import CellResult, DrillResult
from replicator.drill.report.table import by_fault, describe_journals

#: Upper bounds of the client's gap, in milliseconds, of the heat map's shades.
SHADES_MS = (100, 250, 500, 1000, 2000)

_STYLE = (
    """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #c9d1d9; --dim: #6e7781;
  --bad: #cf222e; --bad-ink: #ffffff; --none: #f0f2f4;
  --s0: #d5f2dc; --s1: #bfe9b9; --s2: #e4efa6; --s3: #fbe79a; --s4: #fbcf8a; --s5: #f5b285; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117; --line: #3d444d; --dim: #9198a1;
  --bad: #b62324; --none: #161b22;
  --s0: #0f3d20; --s1: #1d4a1d; --s2: #444d12; --s3: #57450d; --s4: #63380f; --s5: #6b2a14; } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 90rem; padding: 0 1rem; }
h1, h2 { font-weight: 600; } .dim { color: var(--dim); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border: 1px solid var(--line); padding: .3rem .5rem; text-align: right; white-space: nowrap; }
th { font-weight: 600; } th[scope=row], td.text { text-align: left; white-space: normal; }
td a { color: inherit; text-decoration: none; display: block; } td a:hover, td a:focus { text-decoration: underline; }
td.none { background: var(--none); color: var(--dim); } td.bad { background: var(--bad); color: var(--bad-ink);
  font-weight: 700; }
"""
    + "".join(f"td.s{n} {{ background: var(--s{n}); }} " for n in range(len(SHADES_MS) + 1))
    + """
details { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0; padding: .3rem .8rem; }
summary { cursor: pointer; } pre { overflow-x: auto; font-size: 12px; }
.good-word { color: #1a7f37; } .bad-word { color: var(--bad); font-weight: 700; }
@media (prefers-color-scheme: dark) { .good-word { color: #3fb950; } .bad-word { color: #ff7b72; } }
"""
)


def render(result: DrillResult) -> str:
    """The whole page."""
    body = "\n".join([*_head(result), *_journals(result), *_map(result), *_legend(), *_details(result)])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>replicator drill</title><style>{_STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def _head(result: DrillResult) -> Iterator[str]:
    totals = result.totals
    word, style = (
        ("every cell passed", "good")
        if result.passed
        else (f"{totals.failed} cells failed, {len(result.violations)} violations in journals", "bad")
    )
    yield f'<h1>Drill: <span class="{style}-word">{word}</span></h1>'
    yield (
        f"<p>{totals.passed} of {totals.run} cells passed, {totals.not_run} are not applicable; "
        f"{totals.lost} acknowledged requests lost, {totals.repeated} repeated.</p>"
    )
    machine = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result.machine.items())
    commit = f", commit {result.version['commit'][:12]}" if result.version["commit"] else ""
    yield (
        f'<p class="dim">{escape(result.guest)} guest, {escape(result.mode)}, seed {result.seed}{", quick" if result.quick else ""}; '
        f"{escape(result.began)}, {result.duration_s:.0f} s; version {escape(result.version['version'])}"
        f"{escape(commit)}; {escape(machine)}</p>"
    )


def _journals(result: DrillResult) -> Iterator[str]:
    yield f"<p>{escape(describe_journals(result))}.</p>"
    if result.violations:
        yield f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in result.violations)}</ul>"


def _map(result: DrillResult) -> Iterator[str]:
    phases = [phase for phase in Phase if any(cell.cell.phase is phase for cell in result.cells)]
    yield "<h2>The client's longest gap, in milliseconds</h2>"
    yield '<div class="scroll"><table><thead><tr><th scope="col">fault</th>'
    yield "".join(
        f'<th scope="col">{escape(phase.value)}<br><span class="dim">{phase.role.value}</span></th>'
        for phase in phases
    )
    yield "</tr></thead><tbody>"
    for fault, row in by_fault(result.cells):
        cells = {cell.cell.phase: cell for cell in row}
        title = escape(NATURES[fault].what)
        columns = "".join(_square(cells[phase]) if phase in cells else "<td></td>" for phase in phases)
        yield f'<tr><th scope="row" title="{title}">{fault.value}</th>{columns}</tr>'
    yield "</tbody></table></div>"


def _square(result: CellResult) -> str:
    if result.verdict is None:
        return f'<td class="none" title="not applicable: {escape(result.cell.reason)}">n/a</td>'
    style, text = describe_square(result)
    return f'<td class="{style}"><a href="#{anchor(result)}">{text}</a></td>'


def describe_square(result: CellResult) -> tuple[str, str]:
    """(style, text) of a cell that was run."""
    verdict = result.verdict
    if verdict is None or not verdict.passed:
        return "bad", "FAIL"
    gap = verdict.gap_ms or 0.0
    shade = sum(gap > bound for bound in SHADES_MS)
    return f"s{shade}", f"{gap:.0f}"


def anchor(result: CellResult) -> str:
    return f"{result.cell.fault.value}--{result.cell.phase.value.replace(' ', '-')}"


def _legend() -> Iterator[str]:
    bounds = [f"up to {bound}" for bound in SHADES_MS] + [f"over {SHADES_MS[-1]}"]
    squares = "".join(f'<td class="s{number}">{text}</td>' for number, text in enumerate(bounds))
    yield f'<p></p><table><tr>{squares}<td class="bad">FAIL</td><td class="none">n/a</td></tr></table>'


def _details(result: DrillResult) -> Iterator[str]:
    yield "<h2>Faults and cells</h2>"
    for fault, row in by_fault(result.cells):
        yield from _fault_details(fault, row)


def _fault_details(fault: Fault, row: list[CellResult]) -> Iterator[str]:
    nature = NATURES[fault]
    yield f"<h3>{fault.value}</h3><p>{escape(nature.what)}. Expected: {nature.outcome.value}.</p>"
    if nature.otherwise and any(cell.verdict is None for cell in row):
        names = ", ".join(cell.cell.phase.value for cell in row if cell.verdict is None)
        yield f'<p class="dim">Not applicable in {escape(names)}: {escape(nature.otherwise)}.</p>'
    for cell in row:
        if cell.verdict is not None:
            yield from _cell_details(cell)


def _cell_details(result: CellResult) -> Iterator[str]:
    verdict = result.verdict
    if verdict is None:
        return
    style, word = ("good", "passed") if verdict.passed else ("bad", "FAILED")
    figures = (
        ("noticed after", verdict.detection_ms), ("taken over after", verdict.take_over_ms),
        ("client's longest gap", verdict.gap_ms), ("healed within", verdict.heal_ms),
    )  # fmt: skip
    shown = "; ".join(f"{name} {value:.0f} ms" for name, value in figures if value is not None)
    yield f'<details id="{anchor(result)}"{"" if verdict.passed else " open"}><summary>'
    yield f'{escape(result.cell.phase.value)}: <span class="{style}-word">{word}</span>, {shown}</summary>'
    yield f"<p>Lost {verdict.lost}, repeated {verdict.repeated}; the guest ends at {escape(verdict.runs_at or 'no side')}"
    yield f"; first to notice: {escape(result.noticed or 'nobody')}.</p>"
    if verdict.reasons:
        yield f"<ul>{''.join(f'<li>{escape(reason)}</li>' for reason in verdict.reasons)}</ul>"
    if result.story:
        yield f"<pre>{escape(chr(10).join(result.story))}</pre>"
    yield "</details>"
