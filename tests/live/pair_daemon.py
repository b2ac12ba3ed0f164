"""A mortal daemon (tests/service/mortal_daemon.py) whose guest starts from its golden state.

python pair_daemon.py PHASE GOLDEN_FOLDER ARGUMENT...      # ARGUMENTs as for `replicator`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from mortal_daemon import MortalDaemon, run

from replicator.demo.golden import load_golden, start_from_golden
from replicator.errors import GuestError
from replicator.guests.base import Guest
from replicator.service.qemu_kit import QemuKit

GOLDEN = Path(sys.argv.pop(2))


class GoldenKit(QemuKit):
    async def start(self, ram_path: Path, run_dir: Path) -> Guest:
        golden = load_golden(GOLDEN, self._config)
        if golden is None:
            raise GuestError(f"no golden guest in {GOLDEN}")
        return await start_from_golden(golden, ram_path, run_dir)


class GoldenDaemon(MortalDaemon):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        assert isinstance(self._kit, QemuKit)
        self._kit = GoldenKit(self._kit._config)


if __name__ == "__main__":
    run(GoldenDaemon)
