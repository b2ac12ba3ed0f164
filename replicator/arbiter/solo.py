"""For a pair without an arbiter: counts terms in a file of this host, grants nothing by itself.

The lease never ends, because nobody could take it: the other side promotes only by its operator's word. Going alone
is refused, so that output stays held until an operator says that the secondary is gone for good.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from replicator.arbiter.base import ArbiterRecord, Lease, TakeOverRefused
from replicator.errors import ArbiterError

FOREVER_NS = (1 << 63) - 1
_TTL_MS = 1000


class SoloArbiter:
    """Implements arbiter.base.Arbiter. `path` keeps the newest term this host has seen."""

    def __init__(self, path: Path, guest: str) -> None:
        self._path = path
        self._guest = guest
        #: A term the other side has used; ours must be greater.
        self.term_floor = 0

    @property
    def ttl_ms(self) -> int:
        return _TTL_MS

    def read(self) -> ArbiterRecord | None:
        term = self._load()
        return ArbiterRecord(self._guest, term, "", barred=True, replica=None) if term else None

    def acquire(self, node: str, *, term: int | None = None, discard_replica: bool = False) -> Lease:
        return Lease(term or self._next_term(), node, FOREVER_NS)

    def renew(self, lease: Lease) -> Lease:
        return lease

    def take_over(
        self, node: str, replica_term: int, replica_epoch: int, *, replica_session: str | None = None
    ) -> Lease:
        raise TakeOverRefused("no arbiter is configured: only `replicator promote` starts this replica")

    def go_alone(self, lease: Lease) -> None:
        raise ArbiterError(
            "the secondary is lost and no arbiter can bar it: output is held",
            hint="make sure the secondary's host is off, then run `replicator promote` here",
        )

    def lift_bar(self, lease: Lease, replica_node: str, session: str, *, epoch: int = 0) -> None:
        """There is no bar but the operator."""

    def release(self, lease: Lease, *, hand_over: bool = False) -> None:
        """Nobody waits for it."""

    def take_back(self, lease: Lease, session: str, epoch: int) -> Lease:
        """Nobody else could know: the caller has the other side's word, or the operator's."""
        return lease

    def force_take_over(self, node: str) -> Lease:
        return Lease(self._next_term(), node, FOREVER_NS)

    def close(self) -> None:
        """Holds nothing open."""

    def _load(self) -> int:
        try:
            return int(json.loads(self._path.read_text())["term"])
        except FileNotFoundError:
            return 0
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArbiterError(
                f"{self._path} cannot be read: {error}", hint="remove it if no other side of this pair runs"
            ) from error

    def _next_term(self) -> int:
        term = max(self._load(), self.term_floor) + 1
        scratch = self._path.with_suffix(".new")
        try:
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump({"guest": self._guest, "term": term}, file)
            os.replace(scratch, self._path)
        except OSError as error:
            raise ArbiterError(f"{self._path} cannot be written: {error.strerror}") from error
        return term
