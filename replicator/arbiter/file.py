"""The embedded arbiter: a directory that both sides of one machine reach.

The record is one JSON file a version, `<guest>/<version>.json`; the highest version counts. A transaction reads
version N, writes its successor to a temporary file and links it as version N+1: link(2) fails when that name
exists, so it is the compare-and-swap. There is no lock, hence nobody can block the others by being killed or
frozen (SIGSTOP) at any point; a lock file could keep a replica from its promotion for as long as its frozen
owner sleeps.

A version becomes visible whole, by link(2), or not at all. Old versions are removed, except the last few, so that a
directory listing that overlaps with writers never misses all of them, and except the last one that changed more
than the lease (`base`). A process that slept between reading and linking may find name N+1 free again because it
was removed long ago; therefore each version carries the ids of the last writes (`trail`), and a writer whose id is
missing from the newest one has not written anything that counts.

Nothing is synced to disk, so that a call takes well under a millisecond. Leases end with the boot they were
granted in, and a record of an earlier boot bars its replica: its newest changes may not have reached the disk.
Only then an empty file, which is what a power cut leaves of an unsynced one, gives way to the version before it.

Both sides must share the kernel, its CLOCK_BOOTTIME (no time namespaces between them) and the file system.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from replicator.arbiter.base import (
    DEFAULT_MARGIN_MS,
    DEFAULT_TTL_MS,
    ArbiterRecord,
    Lease,
    boottime_ns,
)
from replicator.arbiter.rules import LeaseChange, Rule, record_from_fields, record_to_fields
from replicator.arbiter.stored import Stored, StoredArbiter
from replicator.errors import ArbiterError
from replicator.units import NS_PER_MS

FORMAT = 1
#: Ids of the last writes each version carries.
TRAIL_LENGTH = 32
#: Lost races after which a call gives up. Each one means that somebody else succeeded.
ATTEMPTS_MAX = 200
#: Newest versions that stay.
KEPT_VERSIONS = 8
VERSION_BYTES_MAX = 16 << 10
#: A temporary file of this age has no living writer any more.
STALE_TEMPORARY_S = 60.0

_VERSION_NAME = re.compile(r"(\d{20})\.json")


@dataclass(frozen=True, slots=True)
class _Version:
    """One stored version. `record` is None for the empty state before the first."""

    number: int
    record: ArbiterRecord | None = None
    expires_ns: int = 0
    boot_id: str = ""
    #: Last version that changed more than the lease; it is kept.
    base: int = 0
    trail: list[str] = field(default_factory=list)


class FileArbiter(StoredArbiter):
    """Arbiter for two sides on one machine. `directory` is created (0700) when missing."""

    def __init__(
        self,
        directory: Path,
        guest: str,
        *,
        ttl_ms: int = DEFAULT_TTL_MS,
        margin_ms: int = DEFAULT_MARGIN_MS,
    ) -> None:
        super().__init__(guest, ttl_ms=ttl_ms, margin_ms=margin_ms)
        self._directory = directory / guest
        self._boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._remove_stale_temporaries()
        except OSError as error:
            raise self._unusable(error) from error

    def read(self) -> ArbiterRecord | None:
        """The record, or None before the first acquire."""
        return self._view(self._newest())

    def close(self) -> None:
        """Holds nothing open."""

    def _transact(self, rule: Rule, *, current: Lease | None = None) -> Stored:
        for _ in range(ATTEMPTS_MAX):
            requested_at_ns = boottime_ns()
            newest = self._newest()
            seen = self._view(newest)
            change = rule(seen)
            successor = self._succeed(newest, change.record, requested_at_ns, change.lease)
            if self._publish(successor):
                self._remove_old(successor)
                return Stored(change.record, requested_at_ns, self._ttl_ms)
        raise ArbiterError(
            f"guest {self.guest}: {ATTEMPTS_MAX} transactions in {self._directory} were overtaken",
            hint="look for a process that writes there in a loop",
        )

    def _view(self, version: _Version) -> ArbiterRecord | None:
        if version.record is None:
            return None
        if version.boot_id != self._boot_id:
            return replace(version.record, live=False, barred=True, replica=None)
        return replace(version.record, live=boottime_ns() < version.expires_ns)

    def _succeed(
        self, newest: _Version, record: ArbiterRecord, requested_at_ns: int, lease: LeaseChange
    ) -> _Version:
        number = newest.number + 1
        expires_ns = newest.expires_ns if newest.boot_id == self._boot_id else 0
        if lease is LeaseChange.GRANT:
            expires_ns = requested_at_ns + self._ttl_ms * NS_PER_MS
        elif lease is LeaseChange.DROP:
            expires_ns = 0
        record = replace(record, live=False)
        same = newest.record is not None and record == replace(newest.record, live=False)
        trail = [*newest.trail[-(TRAIL_LENGTH - 1) :], secrets.token_hex(8)]
        return _Version(number, record, expires_ns, self._boot_id, newest.base if same else number, trail)

    def _publish(self, version: _Version) -> bool:
        """Link `version` under its name. False when another process was faster."""
        target = self._path(version.number)
        temporary = self._directory / f".{os.getpid()}.{version.trail[-1]}.tmp"
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                content = _to_bytes(version)
                if os.write(descriptor, content) != len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            finally:
                os.close(descriptor)
            os.link(temporary, target)
        except FileExistsError:
            return False
        except OSError as error:
            raise self._unusable(error) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
        return version.trail[-1] in self._newest().trail

    def _newest(self) -> _Version:
        """The version that counts. A name that vanishes while we look at it was replaced by a newer one."""
        for _ in range(ATTEMPTS_MAX):
            numbers = self._numbers()
            if not numbers:
                return _Version(0)
            try:
                return self._load_first_whole(numbers)
            except FileNotFoundError:
                continue
        raise ArbiterError(f"guest {self.guest}: {self._directory} changes faster than it can be read")

    def _numbers(self) -> list[int]:
        """Numbers of the stored versions, newest first."""
        try:
            names = os.listdir(self._directory)
        except OSError as error:
            raise self._unusable(error) from error
        matches = (_VERSION_NAME.fullmatch(name) for name in names)
        return sorted((int(match[1]) for match in matches if match), reverse=True)

    def _load_first_whole(self, numbers: list[int]) -> _Version:
        """The highest version, or what a power cut left: the highest one of an earlier boot that is not empty."""
        for number in numbers:
            raw = self._read_bytes(self._path(number))
            if not raw.strip(b"\0"):
                continue
            version = self._parse(number, raw)
            if number != numbers[0] and version.boot_id == self._boot_id:
                break
            return replace(version, number=numbers[0])
        raise self._corrupt(numbers[0], "is empty")

    def _read_bytes(self, path: Path) -> bytes:
        try:
            with open(path, "rb", buffering=0) as file:
                return file.read(VERSION_BYTES_MAX) or b""
        except FileNotFoundError:
            raise
        except OSError as error:
            raise self._unusable(error) from error

    def _parse(self, number: int, raw: bytes) -> _Version:
        try:
            fields: Any = json.loads(raw)
            record = record_from_fields(fields, self.guest)
            if fields["format"] != FORMAT:
                raise ValueError(f"format {fields['format']!r} is not {FORMAT}")
            expires_ns, boot_id, base, trail = (fields[k] for k in ("expires_ns", "boot_id", "base", "trail"))
            is_sound = type(expires_ns) is int and type(base) is int and isinstance(boot_id, str)
            if not is_sound or not isinstance(trail, list):
                raise ValueError("a field has a wrong type")
            return _Version(number, record, expires_ns, boot_id, base, trail)
        except KeyError as error:
            raise self._corrupt(number, f"has no field {error}") from error
        except (ValueError, RecursionError) as error:
            raise self._corrupt(number, f"cannot be read: {error}") from error

    def _remove_old(self, newest: _Version) -> None:
        for number in self._numbers():
            if number <= newest.number - KEPT_VERSIONS and number != newest.base:
                with contextlib.suppress(OSError):
                    self._path(number).unlink()

    def _remove_stale_temporaries(self) -> None:
        """Leftovers of writers that were killed between creating and linking."""
        for path in self._directory.glob(".*.tmp"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_TEMPORARY_S:
                    path.unlink()

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:020d}.json"

    def _corrupt(self, number: int, what: str) -> ArbiterError:
        return ArbiterError(
            f"arbiter file {self._path(number)} {what}",
            hint="stop both sides, remove that directory and start the side first whose guest is to live on",
        )

    def _unusable(self, error: OSError) -> ArbiterError:
        return ArbiterError(
            f"arbiter directory {self._directory}: {error.strerror or error}",
            hint="it must be a directory that both sides may write, with space left",
        )


def _to_bytes(version: _Version) -> bytes:
    if version.record is None:
        raise ValueError("the empty state is never written")
    fields = {
        "format": FORMAT,
        **record_to_fields(version.record),
        "expires_ns": version.expires_ns,
        "boot_id": version.boot_id,
        "base": version.base,
        "trail": version.trail,
    }
    return json.dumps(fields).encode("ascii")
