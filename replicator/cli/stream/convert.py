"""`replicator stream convert`: any stream to the newest version, into a file, a pipe or a receiving process."""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path

import click

from replicator.cli.stream.options import progress_of, reading_options, say, spool_option
from replicator.errors import ConfigError
from replicator.stream.convert import Converter, convert_into, open_decoder
from replicator.stream.feeding import FeedReport, feed_child
from replicator.stream.restore_point import Advance
from replicator.stream.sink import Sink
from replicator.stream.source import Source
from replicator.wire import xl
from replicator.wire.any_decoder import ReadOptions
from replicator.wire.records import XlHeader
from replicator.wire.rewrite import Framing, Rewriter


@click.command()
@click.argument("stream", metavar="IN")
@click.argument("out", metavar="[OUT]", required=False)
@click.option(
    "--exec", "receiver", metavar="CMD", help="Feed the standard input of this command instead of OUT."
)
@click.option(
    "--to", type=click.Choice([each.value for each in Framing]), help="Default: as the input; legacy: libxl."
)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Configuration for the xl header: JSON, or xl.cfg text. Default: that of the input.",
)
@click.option("--drop-device-model", is_flag=True, help="Allow --to libxc to lose the device model.")
@click.option(
    "--stall-timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Give up when CMD takes nothing for so long. Default: wait for ever.",
)
@spool_option
@reading_options
def convert(
    stream: str,
    out: str | None,
    receiver: str | None,
    to: str | None,
    config: Path | None,
    drop_device_model: bool,
    stall_timeout: float | None,
    spool: str | None,
    reading: ReadOptions,
) -> None:
    """Write IN, a legacy or version 2 or 3 stream, as version 3 to OUT (default: standard output).

    IN is converted as it comes, in constant memory. A compressed legacy stream from a pipe needs --spool. A
    stream that breaks off behind a checkpoint is written as far as it goes, and the exit code is 11.
    """
    if receiver is not None and out is not None:
        raise click.UsageError("give OUT or --exec, not both")
    rewriter = Rewriter(
        Framing(to) if to else None,
        xl_header=_read_config(config, to) if config else None,
        drop_device_model=drop_device_model,
    )
    with Source(stream) as source, progress_of(source) as advance:
        converter = Converter(open_decoder(source, reading, spool), rewriter)
        if receiver is not None:
            _feed(source, converter, _split(receiver), stall_timeout, advance)
        else:
            _write(source, converter, out or "-", advance)
    for name, count in converter.dropped().items():
        say(f"left out: {count} x {name}")
    if converter.cut is not None:
        raise converter.cut


def _read_config(path: Path, to: str | None) -> XlHeader:
    if to not in (None, Framing.XL.value):
        raise click.UsageError(f"--config needs an xl header, which --to {to} does not write")
    text = path.read_bytes()
    return xl.make_header(text, is_json=text.lstrip()[:1] == b"{")


def _write(source: Source, converter: Converter, out: str, advance: Advance | None) -> None:
    with Sink(out) as sink:
        convert_into(source, converter, sink, advance)
        sink.commit()
    say(f"{sink.name}: {sink.size} bytes")


def _split(command: str) -> list[str]:
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise ConfigError(f"--exec {command!r}: {error}") from error
    if not argv:
        raise ConfigError("--exec: an empty command")
    return argv


def _feed(
    source: Source,
    converter: Converter,
    argv: Sequence[str],
    stall_timeout: float | None,
    advance: Advance | None,
) -> None:
    fed = 0

    def progress(total: int) -> None:
        nonlocal fed
        if advance is not None:
            advance(total - fed)
        fed = total

    async def work() -> FeedReport:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await feed_child(source.fd, converter, argv, stall_s=stall_timeout, progress=progress)

    try:
        report = asyncio.run(work())
    except asyncio.CancelledError:
        raise click.Abort from None
    say(f"{argv[0]}: took {report.bytes_written} bytes and ended well")
