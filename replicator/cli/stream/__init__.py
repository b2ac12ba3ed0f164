"""`replicator stream`: tools for migration streams, of any format that Xen has had."""

from __future__ import annotations

import click

from replicator.cli.stream.convert import convert
from replicator.cli.stream.diff import diff
from replicator.cli.stream.extract import extract
from replicator.cli.stream.inspect import inspect
from replicator.cli.stream.squash import squash
from replicator.cli.stream.verify import verify


@click.group()
def stream() -> None:
    """Look at, check, convert and take apart migration streams.

    Every command reads files of xl, libxl and libxc (versions 2 and 3) and legacy streams of 32- and 64-bit
    toolstacks, and tells them apart by itself. "-" is standard input or output.
    """


for command in (inspect, verify, convert, extract, diff, squash):
    stream.add_command(command)
