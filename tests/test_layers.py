"""A file imports its own layer or a lower one; see docs/architecture.md."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "replicator"
LAYERS = {
    "errors": 0, "units": 0, "limits": 0, "clock": 0, "deadline": 0, "frozen": 0, "urgency": 0,
    "fine_timers": 0, "placement": 0,
    "_native": 0,
    "wire": 1, "memory": 1, "compare": 1,
    "engine": 2,
    "guests": 3, "link": 3, "output": 3, "arbiter": 3, "store": 3,
    "service": 4, "observe": 4, "stream": 4,
    "cli": 5, "demo": 5, "drill": 5, "sim": 5, "bench": 5,
}  # fmt: skip
#: Room of the drill -> the other rooms that it may import; see replicator/drill/__init__.py.
DRILL_ROOMS: dict[str, set[str]] = {
    "matrix": set(), "history": set(),
    "actors": {"matrix"},
    "stand": {"matrix", "actors"},
    "harm": {"matrix", "actors", "stand"},
    "report": {"matrix", "history"},
    "run": {"matrix", "history", "actors", "stand", "harm", "report"},
    "on_copy": {"report"}, "for_real": {"report"},
}  # fmt: skip
#: Likewise of the benchmarks; the files beside the rooms are the benchmarks themselves.
BENCH_ROOMS: dict[str, set[str]] = {
    "figures": set(), "output": {"figures"}, "rig": {"figures"}, "loads": {"figures", "rig"},
}  # fmt: skip
ADAPTERS = {name for name, layer in LAYERS.items() if layer == 3}
IMPURE = {"asyncio", "os", "random", "select", "socket", "subprocess", "threading", "time", "zmq"}
FILES = sorted(path for path in ROOT.rglob("*.py") if path.parent != ROOT)


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms(path: Path) -> set[str]:
    """Packages of ours that the file imports."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("replicator.")} & set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path):
    own = path.relative_to(ROOT).parts[0]
    above = {room for room in rooms(path) if LAYERS[room] > LAYERS[own]}
    assert not above, f"{path} of layer {LAYERS[own]} imports {above}"
    if own in ADAPTERS:
        assert not rooms(path) & ADAPTERS - {own}, "adapters never import one another"


@pytest.mark.parametrize(
    "path", sorted(path for room in ("engine", "wire", "compare") for path in (ROOT / room).rglob("*.py"))
)
def test_pure_code_has_no_world(path):
    assert not {name.split(".")[0] for name in imported(path)} & IMPURE


def test_every_package_has_a_layer():
    assert {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()} <= set(LAYERS)


@pytest.mark.parametrize("room", DRILL_ROOMS)
def test_rooms_of_the_drill_import_one_way(room):
    files = sorted((ROOT / "drill" / room).rglob("*.py"))
    known = {name.split(".")[2] for path in files for name in imported(path) if ".drill." in name}
    assert files
    assert known - {room} <= DRILL_ROOMS[room]


def test_every_room_of_the_drill_has_its_place():
    assert {path.parent.name for path in (ROOT / "drill").rglob("*.py")} == {*DRILL_ROOMS, "drill"}


@pytest.mark.parametrize("room", BENCH_ROOMS)
def test_rooms_of_the_benchmarks_import_one_way(room):
    files = sorted((ROOT / "bench" / room).rglob("*.py"))
    known = {name.split(".")[2] for path in files for name in imported(path) if ".bench." in name}
    assert files
    assert known - {room} <= BENCH_ROOMS[room]


def test_every_room_of_the_benchmarks_has_its_place():
    assert {path.parent.name for path in (ROOT / "bench").rglob("*.py")} == {*BENCH_ROOMS, "bench"}
