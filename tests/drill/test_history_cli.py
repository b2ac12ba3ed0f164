"""`replicator drill check` as an operator runs it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))

from command_line import replicator
from history_maker import PairMaker, client_lines, dump

BROKEN, CONFIG, FILE = 1, 2, 14


def write(folder: Path, pair: PairMaker) -> list[Path]:
    for name, content in {**pair.files(), "client.log": dump(client_lines())}.items():
        (folder / name).write_bytes(content)
    return sorted(folder.iterdir())


def test_the_exit_code_is_the_verdict(tmp_path: Path) -> None:
    pair = PairMaker()
    pair.sync()
    pair.epoch()
    kept = replicator("drill", "check", *write(tmp_path, pair))
    assert kept.code == 0 and "nothing is broken" in kept.out and "2 lives of daemons, 1 clients" in kept.out
    pair.a.lines.remove(pair.a.find("acked", 1))
    broken = replicator("drill", "check", *write(tmp_path, pair))
    assert broken.code == BROKEN and "BROKEN: " in broken.out
    line = pair.a.lines.index(pair.a.find("released", 1)) + 1
    assert f"{tmp_path}/a.events:{line}: released epoch=2" in broken.out


def test_what_cannot_be_judged_has_codes_of_its_own(tmp_path: Path) -> None:
    missing = replicator("drill", "check", tmp_path / "none.events")
    assert missing.code == FILE and "none.events cannot be read" in missing.err
    (tmp_path / "notes").write_text("hello\n")
    other = replicator("drill", "check", tmp_path / "notes")
    assert other.code == CONFIG and "is no journal" in other.err and "--events" in other.err
    assert replicator("drill", "check").code == CONFIG
