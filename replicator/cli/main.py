"""`replicator`: the command line. Each error prints what, where and what to do, and gives the exit code of its class."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Final

import click
from pythonjsonlogger.json import JsonFormatter
from rich.console import Console

from replicator.cli.lazy import LazyGroup
from replicator.errors import ReplicatorError

LOG_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
LOG_FIELDS = "{asctime}{levelname}{name}{message}"


#: In the order of the help.
COMMANDS: Final = {
    "primary": "replicator.cli.daemons:primary",
    "secondary": "replicator.cli.daemons:secondary",
    "status": "replicator.cli.status:status",
    "promote": "replicator.cli.operate:promote",
    "switchover": "replicator.cli.switchover:switchover",
    "stop": "replicator.cli.operate:stop",
    "tune": "replicator.cli.tune:tune",
    "keygen": "replicator.cli.keygen:keygen",
    "demo": "replicator.cli.demo:demo",
    "drill": "replicator.cli.drill:drill",
    "bench": "replicator.cli.bench:bench",
    "stream": "replicator.cli.stream:stream",
}


@click.group(cls=LazyGroup, places=COMMANDS)
@click.option("--verbose", "-v", count=True, help="Once for progress, twice for everything.")
@click.option("--json-log", is_flag=True, help="Log JSON objects, one a line.")
@click.version_option(package_name="replicator")
def cli(verbose: int, json_log: bool) -> None:
    """Keeps a running virtual machine alive when its host dies."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(LOG_FIELDS, style="{") if json_log else logging.Formatter(LOG_LINE))
    logging.basicConfig(level=level, handlers=[handler])


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors of ours become one or two lines and an exit code. `arguments` None: those of the process."""
    try:
        cli.main(arguments, standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except ReplicatorError as error:
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        console.print(f"replicator: {error}")
        if error.hint:
            console.print(f"  hint: {error.hint}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
