"""A primary whose output is not held: the control run that proves the demonstration's checker. Never for real use.

python -m replicator.demo.no_hold CONFIG EVENTS
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from replicator.engine.output import OutputMode
from replicator.output.native_relay import NativeRelay
from replicator.service.config import load_config
from replicator.service.daemon import Daemon, Options
from replicator.service.platform import HostPlatform


class LeakyRelay(NativeRelay):
    """Lets every frame leave at once, acked or not."""

    def set_mode(self, mode: OutputMode) -> int:
        return super().set_mode(OutputMode.PASS)


def main() -> None:
    config, events = Path(sys.argv[1]), Path(sys.argv[2])

    async def work() -> str:
        platform = HostPlatform(make_relay=LeakyRelay)
        return await Daemon(load_config(config), Options(events=events), platform).run_primary()

    asyncio.run(work())


if __name__ == "__main__":
    main()
