"""What the stream commands have in common: how the input is read, and a progress bar while it is."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

from replicator.stream.restore_point import Advance
from replicator.stream.source import Source
from replicator.wire.any_decoder import ReadOptions
from replicator.wire.grammar import StreamKind
from replicator.wire.legacy import TmemPolicy

#: Files from this size on get a progress bar.
BIG_BYTES: Final = 256 << 20
#: The one deviation from the format that is known from real senders.
XEN_418: Final = "xen-4.18"

_KINDS: Final = {
    "plain": StreamKind.PLAIN,
    "remus": StreamKind.REMUS,
    "colo": StreamKind.COLO,
    "back-channel": StreamKind.BACK_CHANNEL,
}
Command = TypeVar("Command", bound=Callable[..., Any])


def reading_options(command: Command) -> Command:
    """Adds the options that tell how to read the input; they arrive as one ReadOptions, `reading`."""

    @functools.wraps(command)
    def wrapper(
        *args: Any, kind: str, sender_bits: str | None, tmem: str, quirk: str | None, **kwargs: Any
    ) -> Any:
        reading = ReadOptions(
            kind=_KINDS.get(kind),
            sender_bits=int(sender_bits) if sender_bits else None,
            tmem=TmemPolicy(tmem),
            wide_dirty_lists=quirk == XEN_418,
        )
        return command(*args, reading=reading, **kwargs)

    for add in reversed(_READING):
        wrapper = add(wrapper)
    return wrapper  # type: ignore[return-value]


_READING = (
    click.option(
        "--kind",
        type=click.Choice(["auto", *_KINDS]),
        default="auto",
        show_default=True,
        help="What the stream is for. A back channel must be named.",
    ),
    click.option(
        "--sender-bits",
        type=click.Choice(["32", "64"]),
        help="Legacy streams: word size of the toolstack that wrote it. Told from the bytes when not given.",
    ),
    click.option(
        "--tmem",
        type=click.Choice([policy.value for policy in TmemPolicy]),
        default=TmemPolicy.REFUSE.value,
        show_default=True,
        help="Legacy streams: what to do with pages of transcendent memory, which no newer stream can hold.",
    ),
    click.option(
        "--quirk",
        type=click.Choice([XEN_418]),
        help="Back channels of Xen 4.18 and later, whose dirty lists have a header of 16 bytes.",
    ),
)

checkpoint_option = click.option(
    "--checkpoint",
    type=click.IntRange(min=1),
    help="The guest at this checkpoint, counted from 1. Default: the last whole one, or the end.",
)
spool_option = click.option(
    "--spool",
    type=click.Path(exists=True, file_okay=False, writable=True),
    help="Folder for temporary files, as large as the guest. Default: $TMPDIR.",
)


@contextmanager
def progress_of(*sources: Source) -> Iterator[Advance | None]:
    """A progress bar on a terminal while big files are read; gives what is to be told the bytes of each piece."""
    total = sum(source.size or 0 for source in sources)
    if total < BIG_BYTES or not sys.stderr.isatty():
        yield None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda size: progress.advance(task, size)


def say(line: str) -> None:
    """Tell the operator; standard output may be the stream."""
    click.echo(line, err=True)
