"""What happened, one JSON object a line: `{"event": NAME, "at_ns": CLOCK_MONOTONIC, ...}`. For drills and post-mortems."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


class Journal:
    """Appends to a file (0600), each line at once; without a path it keeps silent."""

    def __init__(self, path: Path | None) -> None:
        self._fd = -1
        if path is not None:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def say(self, event: str, **fields: Any) -> None:
        if self._fd >= 0:
            line = json.dumps({"event": event, "at_ns": time.monotonic_ns(), **fields})
            os.write(self._fd, line.encode() + b"\n")

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
