"""`replicator stream squash`: a checkpointed stream to one plain save file."""

from __future__ import annotations

import click

from replicator.cli.stream.guest import read_guest
from replicator.cli.stream.options import checkpoint_option, reading_options, say, spool_option
from replicator.stream.image import GuestImage, Pages
from replicator.stream.plain import plain_items
from replicator.stream.sink import Sink
from replicator.wire.any_decoder import ReadOptions
from replicator.wire.rewrite import Framing, Rewriter


@click.command()
@click.argument("stream", metavar="IN")
@click.argument("out", default="-")
@checkpoint_option
@click.option("--to", type=click.Choice([each.value for each in Framing]), help="Default: as the input.")
@click.option("--drop-device-model", is_flag=True, help="Allow --to libxc to lose the device model.")
@spool_option
@reading_options
def squash(
    stream: str,
    out: str,
    checkpoint: int | None,
    to: str | None,
    drop_device_model: bool,
    spool: str | None,
    reading: ReadOptions,
) -> None:
    """Write the guest of IN at one checkpoint to OUT as a plain save file, which `xl restore` takes.

    A stream that breaks off is good up to its last whole checkpoint. OUT appears only when it is whole.
    """
    rewriter = Rewriter(Framing(to) if to else None, drop_device_model=drop_device_model)
    image = GuestImage(Pages(), spool)
    builder = read_guest(stream, image, checkpoint, spool, reading)
    with Sink(out) as sink:
        for item in plain_items(builder.state, image):
            for data in rewriter.write(item):
                sink.write(data)
        sink.commit()
    at = f"checkpoint {builder.checkpoints}" if builder.checkpoints else "the end"
    say(f"{sink.name}: {sink.size} bytes, the guest at {at} of {stream}")
