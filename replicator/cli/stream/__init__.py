"""`replicator stream`: tools for migration streams, of any format that Xen has had."""

from __future__ import annotations

from typing import Final

import click

from replicator.cli.lazy import LazyGroup

COMMANDS: Final = {
    "inspect": "replicator.cli.stream.inspect:inspect",
    "verify": "replicator.cli.stream.verify:verify",
    "convert": "replicator.cli.stream.convert:convert",
    "extract": "replicator.cli.stream.extract:extract",
    "diff": "replicator.cli.stream.diff:diff",
    "squash": "replicator.cli.stream.squash:squash",
}


@click.group(cls=LazyGroup, places=COMMANDS)
def stream() -> None:
    """Look at, check, convert and take apart migration streams.

    Every command reads files of xl, libxl and libxc (versions 2 and 3) and legacy streams of 32- and 64-bit
    toolstacks, and tells them apart by itself. "-" is standard input or output.
    """
