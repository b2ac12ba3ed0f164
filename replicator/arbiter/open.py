"""From an arbiter's address in the configuration to the arbiter.

file:///run/replicator/arbiter           a directory that both sides of one machine reach
etcd://10.0.0.1:2379,10.0.0.2:2379       an etcd cluster; an optional path is the prefix of its keys
etcds://host:2379?ca=F&cert=F&key=F      the same over TLS, with PEM files
memory:NAME                              inside this process, for tests
"""

from __future__ import annotations

import threading
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from replicator.arbiter.base import Arbiter
from replicator.arbiter.file import FileArbiter
from replicator.arbiter.memory import MemoryArbiter, MemoryStore
from replicator.errors import ConfigError

_FORMS = "use file:///DIRECTORY or etcd://HOST:PORT[,HOST:PORT]"
_DEFAULT_PREFIX = "/replicator"
_TLS_OPTIONS = ("ca", "cert", "key")

_memory_stores: dict[str, MemoryStore] = {}
_memory_lock = threading.Lock()


def open_arbiter(url: str, guest: str, *, ttl_ms: int, margin_ms: int, timeout_ms: int) -> Arbiter:
    """The arbiter of `guest` at `url`. ConfigError for what cannot work, ArbiterError for an unusable directory.

    Nothing is asked of an etcd before the first call."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"arbiter {url!r}: {error}", hint=_FORMS) from error
    if parts.scheme == "file":
        return FileArbiter(_directory(url, parts), guest, ttl_ms=ttl_ms, margin_ms=margin_ms)
    if parts.scheme in ("etcd", "etcds"):
        _check_timeout(timeout_ms, ttl_ms, margin_ms)
        return _open_etcd(url, parts, guest, ttl_ms, margin_ms, timeout_ms)
    if parts.scheme == "memory":
        with _memory_lock:
            store = _memory_stores.setdefault(parts.netloc + parts.path, MemoryStore())
        return MemoryArbiter(store, guest, ttl_ms=ttl_ms, margin_ms=margin_ms)
    raise ConfigError(f"{url!r} is no address of an arbiter", hint=_FORMS)


def _directory(url: str, parts: SplitResult) -> Path:
    if parts.netloc not in ("", "localhost") or parts.path in ("", "/") or parts.query or parts.fragment:
        raise ConfigError(
            f"arbiter {url!r} does not name a directory of this machine",
            hint="three slashes and an absolute path, as in file:///run/replicator/arbiter",
        )
    return Path(unquote(parts.path))


def _check_timeout(timeout_ms: int, ttl_ms: int, margin_ms: int) -> None:
    if not 0 < timeout_ms < ttl_ms - margin_ms:
        raise ConfigError(
            f"arbiter timeout of {timeout_ms} ms: a call has to end before a lease of {ttl_ms} ms less its margin of "
            f"{margin_ms} ms does",
            hint="set it to about a third of the ttl",
        )


def _open_etcd(
    url: str, parts: SplitResult, guest: str, ttl_ms: int, margin_ms: int, timeout_ms: int
) -> Arbiter:
    try:
        from replicator.arbiter.etcd import EtcdArbiter, Tls
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"arbiter {url!r} needs the Python module {error.name}, which is not installed",
            hint="install the etcd extra: pip install 'replicator[etcd]'",
        ) from error
    if not parts.netloc or "@" in parts.netloc or parts.fragment:
        raise ConfigError(f"arbiter {url!r} names no etcd endpoint", hint=_FORMS)
    scheme = "https" if parts.scheme == "etcds" else "http"
    options = _tls_options(url, parts)
    return EtcdArbiter(
        [f"{scheme}://{endpoint}" for endpoint in parts.netloc.split(",")],
        guest,
        ttl_ms=ttl_ms,
        margin_ms=margin_ms,
        timeout_ms=timeout_ms,
        prefix=unquote(parts.path).rstrip("/") or _DEFAULT_PREFIX,
        tls=Tls(options.get("ca"), options.get("cert"), options.get("key")),
    )


def _tls_options(url: str, parts: SplitResult) -> dict[str, str]:
    try:
        options = parse_qs(parts.query, strict_parsing=True) if parts.query else {}
    except ValueError as error:
        raise ConfigError(f"arbiter {url!r}: {error}") from error
    for name, values in options.items():
        if parts.scheme != "etcds" or name not in _TLS_OPTIONS or len(values) != 1:
            raise ConfigError(
                f"arbiter {url!r}: {name} is not an option here", hint="etcds:// takes ca, cert, key"
            )
        if not Path(values[0]).is_file():
            raise ConfigError(f"arbiter {url!r}: {name} names {values[0]}, which is no file")
    if ("cert" in options) != ("key" in options):
        raise ConfigError(f"arbiter {url!r}: cert and key belong together")
    return {name: values[0] for name, values in options.items()}
