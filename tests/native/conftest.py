"""The scripts of native/ are no package."""

from __future__ import annotations

import sys
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "native"
sys.path[:0] = [str(NATIVE), str(NATIVE / "fuzz")]
