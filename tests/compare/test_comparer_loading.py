"""From a name to a comparer, and what stands between the engine and it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from comparer_hands import TCP, UDP, YOUNG, Answers, Plain

from replicator.compare import BUILT_IN, Differs, Guard, Same, Wait, load_comparer
from replicator.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "smtp-comparer"
RULES = {"rules": [{"name": "id", "range": [0, 4]}]}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_comparers_load(name: str) -> None:
    loaded = load_comparer(name, RULES if name == "ignore-ranges" else None)
    assert loaded.make().compare(TCP, b"aa", b"aa", YOUNG)
    assert bool(loaded.ignores) == (name in ("http", "ignore-ranges"))


def test_only_who_says_so_itself_is_not_asked_about_equal_bytes() -> None:
    quiet = {
        name
        for name in BUILT_IN
        if load_comparer(name, RULES if name == "ignore-ranges" else None).passes_equal
    }
    assert quiet == {"tcp-stream", "exact"}
    derived = load_comparer("comparer_hands:Counting")
    assert not derived.passes_equal and not derived.guarded(lambda: 0).passes_equal
    assert load_comparer().guarded(lambda: 0).passes_equal


def test_a_class_loads_by_its_module_with_options() -> None:
    loaded = load_comparer("comparer_hands:Plain", {"size": 7})
    assert loaded.make().compare(TCP, b"", b"", YOUNG) == Same(7)
    assert loaded.make() is not loaded.make()
    assert loaded.ignores == ("nothing",)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("nobody", {}, "'nobody' is not known"),
        ("", {}, "'' is not known"),
        (":Plain", {}, "MODULE:CLASS"),
        ("comparer_hands:", {}, "MODULE:CLASS"),
        (".relative:Plain", {}, "MODULE:CLASS"),
        ("no_such_module:Plain", {}, "cannot be imported: ModuleNotFoundError"),
        ("comparer_hands:Nobody", {}, "has no Nobody"),
        ("comparer_hands:NOT_A_CLASS", {}, "is no class"),
        ("comparer_hands:NoCompare", {}, "no method compare"),
        ("comparer_hands:NoSkip", {}, "no method skip"),
        ("comparer_hands:BadIgnores", {}, "no tuple of texts"),
        ("comparer_hands:Exits", {}, "cannot be made: SystemExit"),
        ("comparer_hands:Plain", {"sizes": 1}, "does not take these options"),
        ("tcp-stream", {"size": 1}, "does not take these options"),
        ("http", {"headers": ["a b"]}, "'http': headers"),
        ("ignore-ranges", {}, "ignores nothing"),
    ],
)
def test_what_cannot_be_loaded_is_named(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_comparer(name, options)
    assert said in str(caught.value)
    assert caught.value.hint


def test_a_module_that_raises_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_comparer.py").write_text("import sys\nsys.exit('no')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="broken_comparer cannot be imported: SystemExit: no"):
        load_comparer("broken_comparer:Any")


def test_entry_points_of_one_name_are_ambiguous(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        info = tmp_path / f"dist{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: dist{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(
            f"[replicator.comparers]\nmine = comparer_hands:Plain{number}\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match="offered twice: comparer_hands:Plain1, comparer_hands:Plain2"):
        load_comparer("mine")
    with pytest.raises(ConfigError) as caught:
        load_comparer("other")
    assert "exact, http, ignore-ranges, mine, tcp-stream" in caught.value.hint


def test_the_example_package_installs_and_loads(tmp_path: Path) -> None:
    source = shutil.copytree(EXAMPLE, tmp_path / "source")
    site = tmp_path / "site"
    # What a wheel would be unpacked to, without the network that isolated builds need.
    into = ["install_lib", "--install-dir", site, "install_egg_info", "--install-dir", site]
    setup = [sys.executable, "-c", "import setuptools; setuptools.setup()", "--quiet", *into]
    subprocess.run(setup, cwd=source, check=True, capture_output=True)
    program = (
        "import json; from replicator.compare import load_comparer; one = load_comparer('smtp-greeting', {'ports': [2525]});"
        "print(json.dumps([one.name, *one.ignores, type(one.make()).__module__]))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(site)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(found.stdout) == ["smtp-greeting", "time in the greeting of SMTP", "smtp_comparer"]


def test_the_example_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))
    loaded = load_comparer("smtp_comparer:SmtpGreetingComparer", {"ports": [80]})
    mine = b"220 mx ESMTP; Thu, 26 Nov 2026 18:15:02 +0000\r\n"
    others = mine.replace(b"15:02", b"14:59")
    comparer = loaded.make()
    assert comparer.compare(TCP, mine[:20], others[:20], YOUNG) == Wait()
    assert comparer.compare(TCP, mine, others, YOUNG) == Same(len(mine), 3)
    assert isinstance(comparer.compare(TCP, b"; 1", b"- 1", YOUNG), Differs)
    assert isinstance(loaded.make().compare(TCP, mine, mine.replace(b"mx", b"my"), YOUNG), Differs)
    with pytest.raises(ConfigError, match="names no ports"):
        load_comparer("smtp_comparer:SmtpGreetingComparer", {"ports": []})


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def guard(answer: object, clock: Clock) -> Guard:
    return Guard("mine", lambda: Answers(answer), clock, budget_ns=1000)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "same",
        Same(0),
        Same(-1),
        Same(3),
        Same("1"),  # type: ignore[arg-type]
        Same(1, 2),
        Same(1, -1),
    ],
)
def test_nonsense_differs(answer: object) -> None:
    one = guard(answer, Clock())
    judged = one.judge(one.make(), TCP, b"ab", b"ab", YOUNG)
    assert judged.is_fault
    assert isinstance(judged.verdict, Differs)
    assert one.status().invalid == 1
    assert "answered" in one.status().last_fault


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(1), RecursionError(), MemoryError()])
def test_raising_differs(error: BaseException) -> None:
    one = guard(error, Clock())
    judged = one.judge(one.make(), TCP, b"ab", b"ab", YOUNG)
    assert judged.is_fault
    assert type(error).__name__ in one.status().last_fault
    assert str(TCP) in one.status().last_fault
    assert not one.skip(Answers(error), TCP, b"x")
    assert one.status().raised == 2


def test_an_error_that_cannot_be_printed_is_named() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError

    one = guard(Mute(), Clock())
    assert one.judge(one.make(), TCP, b"ab", b"ab", YOUNG).is_fault
    assert "raised Mute" in one.status().last_fault


def test_one_that_is_slow_differs() -> None:
    clock = Clock()

    def work() -> Same:
        clock.now_ns += 1001
        return Same(2)

    one = guard(work, clock)
    assert one.judge(one.make(), TCP, b"ab", b"ab", YOUNG).is_fault
    assert (one.status().slow, one.status().calls) == (1, 1)


def test_in_time_it_is_believed() -> None:
    one = guard(Same(2, 1), Clock())
    judged = one.judge(one.make(), TCP, b"ab", b"ac", YOUNG)
    assert (judged.verdict, judged.is_fault) == (Same(2, 1), False)
    assert one.status().ignored_bytes == 1
    assert one.status().last_fault == ""


def test_a_part_of_a_datagram_is_nonsense() -> None:
    one = guard(Same(2), Clock())
    assert one.judge(one.make(), UDP, b"abc", b"abc", YOUNG).is_fault
    assert one.judge(one.make(), UDP, b"ab", b"abc", YOUNG).is_fault
    assert not one.judge(one.make(), UDP, b"ab", b"ab", YOUNG).is_fault


def test_one_that_cannot_be_made_any_more_differs() -> None:
    def make() -> Plain:
        raise OSError("gone")

    one = Guard("mine", make, Clock())
    assert one.judge(one.make(), TCP, b"a", b"a", YOUNG).is_fault
    assert "could not be made: OSError: gone" in one.status().last_fault
