"""CURVE keys: files, and the list of peers that may come in.

`write_keypair(directory, name)` makes `name.key` (public, to be copied to the peer) and `name.key_secret` (0600),
in the certificate format of zeromq's own tools. Nothing is ever overwritten: a key that peers know is not replaced
by accident.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from replicator.errors import ConfigError

_Z85 = r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}"


@dataclass(frozen=True, slots=True)
class Keys:
    """This daemon's key pair and the public keys that may connect, all as Z85 text."""

    public: str
    secret: str = field(repr=False)
    allowed: frozenset[str] = frozenset()


def write_keypair(directory: Path, name: str) -> tuple[Path, Path]:
    """Make a key pair; return the paths of the public and of the secret file. ConfigError if one exists."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"key name {name!r} must be letters, digits, dots and dashes")
    public, secret = zmq.curve_keypair()
    public_path, secret_path = directory / f"{name}.key", directory / f"{name}.key_secret"
    taken = [path for path in (public_path, secret_path) if path.exists()]
    if taken:
        raise ConfigError(f"{taken[0]} exists and is not replaced", hint="choose another name or remove it")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(secret_path, _certificate(public, secret), 0o600)
        _write_new(public_path, _certificate(public, None), 0o644)
    except OSError as error:
        raise ConfigError(f"cannot write keys to {directory}: {error.strerror}") from error
    return public_path, secret_path


def load_keys(secret_path: Path, allowed: Iterable[Path]) -> Keys:
    """Read our key pair and the public keys of the peers that may connect. ConfigError names the file at fault."""
    text = _read(secret_path)
    if stat.S_IMODE(secret_path.stat().st_mode) & 0o077:
        raise ConfigError(
            f"{secret_path} can be read by others than its owner",
            hint=f"chmod 600 {secret_path}; if in doubt whether somebody did, make new keys",
        )
    secret = _find(text, "secret-key", secret_path)
    public = _find(text, "public-key", secret_path)
    if zmq.curve_public(secret.encode()).decode() != public:
        raise ConfigError(f"public and secret key in {secret_path} do not belong together")
    return Keys(public, secret, frozenset(map(load_public_key, allowed)))


def load_public_key(path: Path) -> str:
    """The public key in a key file, as Z85 text."""
    return _find(_read(path), "public-key", path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a key file") from error
    except OSError as error:
        raise ConfigError(
            f"cannot read the key {path}: {error.strerror}", hint="`replicator keygen` makes keys"
        ) from error


def _find(text: str, name: str, path: Path) -> str:
    found = re.findall(rf'^\s*{name}\s*=\s*"({_Z85})"\s*$', text, re.MULTILINE)
    if len(found) != 1:
        raise ConfigError(f"{path} holds no {name}", hint="`replicator keygen` makes keys")
    return str(found[0])


def _certificate(public: bytes, secret: bytes | None) -> str:
    lines = ["# CURVE key of replicator. " + ("SECRET: keep." if secret else "Public: give it to the peer.")]
    lines += ["metadata", "curve", f'    public-key = "{public.decode()}"']
    if secret is not None:
        lines.append(f'    secret-key = "{secret.decode()}"')
    return "\n".join(lines) + "\n"


def _write_new(path: Path, text: str, mode: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
