"""The arbiter for two hosts: two keys a guest in etcd v3, through its HTTP gateway.

`<prefix>/<guest>/record` holds the record and stays. `<prefix>/<guest>/lease` is attached to an etcd lease: while
the key exists, the lease of the holder is live. A transaction reads both keys in one range request, applies the
rule, and writes only if both mod revisions are still the same; etcd's expiry of the lease key changes them too.
A renewal is one keep-alive: a lease that etcd still renews was never replaced, since no rule lets anyone in while
the lease key exists.

A request that timed out may have been carried out. Rules that keep the lease give the same result when applied
again. A grant puts its etcd lease id into the record; whoever asked for it and got no answer recognises it there at
the next call, and has not run anything by then, so that it may take the term as its own.

etcd counts leases in whole seconds and raises them to its minimum: 1.5 x election timeout, rounded up, which is
2 s with its defaults. The deadline is counted from what was asked, hence a raised lease only delays a take-over.
Each call tries the endpoints in turn and ends within `timeout_ms`, name resolution apart: give addresses."""

from __future__ import annotations

import base64
import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from etcd3gw import Etcd3Client
from etcd3gw.exceptions import Etcd3Exception

from replicator.arbiter.base import ArbiterRecord, Lease, boottime_ns, lease_deadline_ns
from replicator.arbiter.rules import (
    Change,
    LeaseChange,
    Rule,
    acquire_again,
    lease_ran_out,
    record_from_fields,
    record_to_fields,
)
from replicator.arbiter.stored import Stored, StoredArbiter
from replicator.errors import ArbiterError, ConfigError, ReplicatorError

DEFAULT_TTL_MS = 5000
DEFAULT_MARGIN_MS = 500
DEFAULT_TIMEOUT_MS = 1500
#: Lost races after which a call gives up; each one means that somebody else succeeded.
ATTEMPTS_MAX = 50
DEFAULT_PORT = 2379
_DOUBTFUL_MAX = 64

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of PEM files for https endpoints."""

    ca_cert: str | None = None
    cert: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class _Seen:
    """One snapshot of both keys. A revision of 0 means that the key does not exist."""

    record: ArbiterRecord | None
    record_revision: int
    lease_revision: int
    #: Etcd lease id of the grant that made the record's term or took it up again.
    grant: str


class EtcdArbiter(StoredArbiter):
    """Arbiter over etcd v3.4 or newer. `endpoints` are `http[s]://host:port`, tried in turn."""

    def __init__(
        self,
        endpoints: list[str],
        guest: str,
        *,
        ttl_ms: int = DEFAULT_TTL_MS,
        margin_ms: int = DEFAULT_MARGIN_MS,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        prefix: str = "/replicator",
        tls: Tls | None = None,
    ) -> None:
        super().__init__(guest, ttl_ms=ttl_ms, margin_ms=margin_ms)
        if ttl_ms % 1000:
            raise ConfigError(
                f"etcd leases last whole seconds, not {ttl_ms} ms", hint="set the ttl to n x 1000"
            )
        if not endpoints:
            raise ConfigError("no etcd endpoint is configured")
        self._base = f"{prefix.rstrip('/')}/{guest}/"
        self._timeout_s = timeout_ms / 1000
        self._endpoints = [_split_endpoint(endpoint) for endpoint in endpoints]
        self._tls = tls or Tls()
        #: Index of the endpoint that answered last. Races between threads only cost a try.
        self._preferred = 0
        self._local = threading.local()
        #: Grants whose outcome we never learned.
        self._doubtful: deque[str] = deque(maxlen=_DOUBTFUL_MAX)

    def read(self) -> ArbiterRecord | None:
        """The record, or None before the first acquire."""
        return self._look(self._by()).record

    def renew(self, lease: Lease) -> Lease:
        """One keep-alive of the etcd lease."""
        requested_at_ns = boottime_ns()
        granted_s = self._ask(self._by(), "lease/keepalive", {"ID": lease.token}, _read_keep_alive)
        if granted_s <= 0:
            raise lease_ran_out(self.guest, lease)
        ttl_ms = min(self._ttl_ms, granted_s * 1000)
        return replace(
            lease, deadline_boottime_ns=lease_deadline_ns(requested_at_ns, ttl_ms, self._margin_ms)
        )

    def close(self) -> None:
        """Close this thread's connections."""
        for client in vars(self._local).pop("clients", []):
            client.session.close()

    def _transact(self, rule: Rule, *, current: Lease | None = None) -> Stored:
        by = self._by()
        for _ in range(ATTEMPTS_MAX):
            seen = self._look(by)
            change = self._apply(rule, seen, is_grant=current is None)
            if change.lease is LeaseChange.GRANT:
                stored = self._try_grant(by, seen, change)
                if stored is not None:
                    return stored
                continue
            if _is_done(seen, change) or self._commit(by, seen, change, None):
                if change.lease is LeaseChange.DROP and current is not None:
                    self._revoke(by, current.token)
                return Stored(change.record, 0, self._ttl_ms)
        raise ArbiterError(f"guest {self.guest}: {ATTEMPTS_MAX} etcd transactions were overtaken")

    def _apply(self, rule: Rule, seen: _Seen, *, is_grant: bool) -> Change:
        """What `rule` says; a grant that only fails because of our own lost one takes that term up again."""
        try:
            return rule(seen.record)
        except ArbiterError:
            if not is_grant or seen.record is None or seen.grant not in self._doubtful:
                raise
        return acquire_again(seen.record.holder, seen.record.term)(seen.record)

    def _try_grant(self, by: float, seen: _Seen, change: Change) -> Stored | None:
        """Get an etcd lease and commit `change` with it. None when the keys changed meanwhile."""
        requested_at_ns = boottime_ns()
        lease_id, granted_s = self._ask(
            by, "lease/grant", {"TTL": self._ttl_ms // 1000, "ID": 0}, _read_grant
        )
        ttl_ms = min(self._ttl_ms, granted_s * 1000)
        try:
            won = self._commit(by, seen, change, lease_id)
            # Refused may also mean: carried out at the first try, whose answer was lost.
            won = won or self._look(by).grant == lease_id
        except ReplicatorError:
            self._doubtful.append(lease_id)
            self._revoke(by, lease_id)
            raise
        if not won:
            self._revoke(by, lease_id)
            return None
        return Stored(change.record, requested_at_ns, ttl_ms, lease_id)

    def _look(self, by: float) -> _Seen:
        # Both keys at one revision: '0' is the character after '/', hence the end of the range of our prefix.
        body = {"key": _base64(self._base), "range_end": _base64(self._base[:-1] + "0")}
        found = self._ask(by, "kv/range", body, self._read_range)
        value, revision = found.get("record", (b"", 0))
        _, lease_revision = found.get("lease", (b"", 0))
        if not revision:
            return _Seen(None, 0, lease_revision, "")
        try:
            fields: Any = json.loads(value)
            record = record_from_fields(fields, self.guest)
        except (ValueError, RecursionError) as error:
            raise ArbiterError(
                f"etcd key {self._base}record is not ours: {error}",
                hint="choose another prefix, or delete the key while both sides are stopped",
            ) from error
        record = replace(record, live=lease_revision != 0)
        return _Seen(record, revision, lease_revision, str(fields.get("grant", "")))

    def _read_range(self, answer: dict[str, Any]) -> dict[str, tuple[bytes, int]]:
        """(value, mod revision) of each key, by the last part of its name."""
        rows = {}
        for row in answer.get("kvs", []):
            name = base64.b64decode(row["key"]).decode("utf-8")[len(self._base) :]
            rows[name] = base64.b64decode(row.get("value", "")), int(row["mod_revision"])
        return rows

    def _commit(self, by: float, seen: _Seen, change: Change, lease_id: str | None) -> bool:
        record_key, lease_key = f"{self._base}record", f"{self._base}lease"
        value = json.dumps({**record_to_fields(change.record), "grant": lease_id or seen.grant})
        actions: list[dict[str, Any]] = [
            {"request_put": {"key": _base64(record_key), "value": _base64(value)}},
        ]
        if lease_id is not None:
            put = {"key": _base64(lease_key), "value": _base64(lease_id), "lease": lease_id}
            actions.append({"request_put": put})
        elif change.lease is LeaseChange.DROP:
            actions.append({"request_delete_range": {"key": _base64(lease_key)}})
        compare = [
            _unchanged(record_key, seen.record_revision),
            _unchanged(lease_key, seen.lease_revision),
        ]
        body = {"compare": compare, "success": actions, "failure": []}
        return bool(self._ask(by, "kv/txn", body, _read_as_is).get("succeeded", False))

    def _revoke(self, by: float, lease_id: str) -> None:
        """Best effort: the lease would run out anyway."""
        with contextlib.suppress(ArbiterError):
            self._ask(by, "lease/revoke", {"ID": lease_id}, _read_as_is)

    def _by(self) -> float:
        """The time by which the call that starts now has to end."""
        return time.monotonic() + self._timeout_s

    def _ask(self, by: float, path: str, body: dict[str, Any], read: Callable[[dict[str, Any]], _T]) -> _T:
        """What `read` makes of the answer to one request, from the first endpoint that answers as an etcd does."""
        clients = self._clients()
        failures: list[str] = []
        for offset in range(len(clients)):
            index = (self._preferred + offset) % len(clients)
            left_s = by - time.monotonic()
            if left_s <= 0:
                failures.append("out of time")
                break
            client = clients[index]
            client.timeout = left_s / (len(clients) - offset)
            try:
                answer = read(_require_header(client.post(client.get_url(path), json=body)))
            # requests' exceptions are OSErrors; an answer that is no JSON or lacks a field is no etcd.
            except (Etcd3Exception, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                failures.append(f"{client.base_url}: {_in_short(error)}")
                continue
            self._preferred = index
            return answer
        raise ArbiterError(
            f"guest {self.guest}: no etcd endpoint answered ({'; '.join(failures)})",
            hint="check that etcd runs, that the endpoints are right and that this host reaches them",
        )

    def _clients(self) -> list[Etcd3Client]:
        """This thread's clients: a requests session must not be shared between threads."""
        clients: list[Etcd3Client] | None = getattr(self._local, "clients", None)
        if clients is None:
            clients = self._local.clients = [self._open(*endpoint) for endpoint in self._endpoints]
        return clients

    def _open(self, protocol: str, host: str, port: int) -> Etcd3Client:
        client = Etcd3Client(
            host,
            port,
            protocol,
            ca_cert=self._tls.ca_cert,
            cert_key=self._tls.key,
            cert_cert=self._tls.cert,
            api_path="/v3/",
        )
        # Proxies of the environment have no place between a host and its arbiter.
        client.session.trust_env = False
        return client


def _is_done(seen: _Seen, change: Change) -> bool:
    """The keys already say what the change wants."""
    if seen.record is None or replace(seen.record, live=False) != replace(change.record, live=False):
        return False
    return change.lease is LeaseChange.KEEP or not seen.lease_revision


def _unchanged(key: str, revision: int) -> dict[str, Any]:
    return {"key": _base64(key), "target": "MOD", "result": "EQUAL", "mod_revision": str(revision)}


def _require_header(answer: Any) -> dict[str, Any]:
    """Every answer of an etcd has a header; another service's has not, and must not pass for an empty etcd."""
    fields = answer.get("result", answer)
    if "header" not in fields:
        raise ValueError(f"not an answer of etcd: {answer}")
    found: dict[str, Any] = answer
    return found


def _read_as_is(answer: dict[str, Any]) -> dict[str, Any]:
    return answer


def _read_grant(answer: dict[str, Any]) -> tuple[str, int]:
    """Id and seconds of a new etcd lease."""
    return str(answer["ID"]), int(answer["TTL"])


def _read_keep_alive(answer: dict[str, Any]) -> int:
    """Seconds the etcd lease lasts from now on; 0 when it does not exist any more."""
    return int(answer["result"].get("TTL", 0))


def _split_endpoint(endpoint: str) -> tuple[str, str, int]:
    parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise ConfigError(f"etcd endpoint {endpoint!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ConfigError(f"etcd endpoint {endpoint!r} is not http[s]://host:port")
    return parts.scheme, parts.hostname, port


def _base64(text: str) -> str:
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


def _in_short(error: Exception) -> str:
    return (str(error) or type(error).__name__).replace("\n", " ")[:200]
