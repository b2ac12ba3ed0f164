"""`replicator stream extract`: single parts of a guest out of a stream."""

from __future__ import annotations

import click

from replicator.cli.stream.guest import read_guest
from replicator.cli.stream.options import checkpoint_option, reading_options, say, spool_option
from replicator.errors import ConfigError
from replicator.stream.image import GuestImage, Pages
from replicator.stream.sink import STDOUT, Sink
from replicator.stream.snapshot import GuestState
from replicator.units import PAGE_SIZE
from replicator.wire import layout
from replicator.wire.any_decoder import ReadOptions
from replicator.wire.layout import LibxlType
from replicator.wire.records import EmulatorContext


@click.command()
@click.argument("stream", metavar="IN")
@click.option("--ram", metavar="OUT", help="Memory; page n at offset 4096 n, holes where there is none.")
@click.option("--device-state", metavar="OUT", help="State of the device model, as QEMU reads it.")
@click.option("--config", metavar="OUT", help="The guest's configuration: JSON or xl.cfg.")
@checkpoint_option
@spool_option
@reading_options
def extract(
    stream: str,
    ram: str | None,
    device_state: str | None,
    config: str | None,
    checkpoint: int | None,
    spool: str | None,
    reading: ReadOptions,
) -> None:
    """Write parts of the guest of IN, as it was at one checkpoint, to files of their own."""
    wanted = [name for name in (ram, device_state, config) if name is not None]
    if not wanted:
        raise click.UsageError("nothing to extract: give --ram, --device-state or --config")
    if wanted.count(STDOUT) > 1:
        raise click.UsageError("only one part can go to standard output")
    image = GuestImage(Pages(), spool) if ram is not None else None
    builder = read_guest(stream, image, checkpoint, spool, reading)
    if device_state is not None:
        _write(device_state, _device_state(builder.state, stream))
    if config is not None:
        _write(config, _config(builder.state, stream))
    if ram is not None and image is not None:
        _write_ram(ram, image)


def _device_state(state: GuestState, name: str) -> bytes:
    context = state.device_model.get(LibxlType.EMULATOR_CONTEXT)
    if not isinstance(context, EmulatorContext):
        raise ConfigError(
            f"{name} has no EMULATOR_CONTEXT", hint="only HVM guests with a device model have one"
        )
    return context.blob


def _config(state: GuestState, name: str) -> bytes:
    config = state.xl_header.config if state.xl_header else None
    if config is None:
        raise ConfigError(f"{name} has no configuration", hint="only the xl header of a stream holds one")
    return config


def _write(name: str, data: bytes) -> None:
    with Sink(name) as sink:
        sink.write(data)
        sink.commit()
    say(f"{sink.name}: {sink.size} bytes")


def _write_ram(name: str, image: GuestImage) -> None:
    pages = 0
    with Sink(name) as sink:
        for batch in image.batches():
            at = 0
            for entry in batch.entries:
                if entry >> layout.ENTRY_TYPE_SHIFT in layout.TYPES_WITHOUT_DATA:
                    continue
                offset = layout.pages_bytes(entry & layout.ENTRY_PFN_MASK)
                if offset > sink.size:
                    sink.skip(offset - sink.size)
                sink.write(batch.cells[at : at + PAGE_SIZE])
                at += PAGE_SIZE
                pages += 1
        sink.commit()
    say(f"{sink.name}: {sink.size} bytes, {pages} pages of them memory")
