import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))
sys.path.insert(0, str(Path(__file__).parents[1] / "wire"))

from pair import Pair
from recordings import SMALL


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    yield made
    made.end()


@pytest.fixture
def pair_without_arbiter(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path, arbiter=False)
    yield made
    made.end()


@pytest.fixture
def streams(tmp_path: Path) -> dict[str, Path]:
    """The small recordings of streams as files, by name."""
    for recording in SMALL:
        (tmp_path / recording.name).write_bytes(recording.load())
    return {each.name: tmp_path / each.name for each in SMALL}
