"""A store on tmpfs that has committed epoch 1."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_tools import Shape


@pytest.fixture
def shape() -> Shape:
    return Shape()


@pytest.fixture
def directory() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="replicator-store-", dir="/dev/shm"))
    yield base / "replica"
    shutil.rmtree(base)
