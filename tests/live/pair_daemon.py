"""A mortal daemon (tests/service/mortal_daemon.py) whose guest starts from its golden state, and whose relay tells.

python pair_daemon.py PHASE GOLDEN_FOLDER ARGUMENT...      # ARGUMENTs as for `replicator`
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "service"))

from mortal_daemon import MortalDaemon, run
from telling_relay import TellingRelay

from replicator.drill.actors.platform import GoldenKit
from replicator.service.platform import HostPlatform
from replicator.service.qemu_kit import QemuKit

GOLDEN = Path(sys.argv.pop(2))


class GoldenDaemon(MortalDaemon):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, platform=HostPlatform(make_relay=TellingRelay), **options)
        assert isinstance(self._kit, QemuKit)
        self._kit = GoldenKit(self._kit.config, GOLDEN)


if __name__ == "__main__":
    run(GoldenDaemon)
