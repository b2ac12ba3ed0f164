"""Golden files: what a result must look like, byte for byte. `REPLICATOR_GOLDEN=write` makes them anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "golden"


@pytest.fixture
def golden() -> Callable[[str, str], None]:
    def compare(name: str, text: str) -> None:
        if os.environ.get("REPLICATOR_GOLDEN") == "write":
            (FOLDER / name).write_text(text)
        assert text == (FOLDER / name).read_text()

    return compare
