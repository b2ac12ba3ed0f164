"""A report as a JSON file in the folder that was asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from replicator.errors import FileAccessError


def write_json(folder: Path, name: str, values: Mapping[str, Any]) -> Path:
    """Makes the folder if need be; returns the file's path. FileAccessError when it cannot be written."""
    path = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=2) + "\n")
    except OSError as error:
        raise FileAccessError(
            f"{path} cannot be written: {error.strerror}", hint="name a folder of yours with --report"
        ) from error
    return path
