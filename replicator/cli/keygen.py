"""`replicator keygen`: a CURVE key pair for one host."""

from __future__ import annotations

from pathlib import Path

import click

from replicator.link.keys import write_keypair


@click.command()
@click.argument("name")
@click.option("--directory", type=click.Path(path_type=Path), default=Path(), help="Where the two files go.")
def keygen(name: str, directory: Path) -> None:
    """Write NAME.key (give it to the peer) and NAME.key_secret (never leaves this host)."""
    public, secret = write_keypair(directory, name)
    click.echo(f"public key, for the peer's [keys] allow: {public}")
    click.echo(f"secret key, for this host's [keys] secret: {secret}")
