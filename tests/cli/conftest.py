import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from pair import Pair


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
