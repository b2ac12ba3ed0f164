"""The etcd arbiter alone: endpoints that fail in every way, answers that get lost, keys of others."""

from __future__ import annotations

import base64
import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from arbiter_tools import EtcdServer, Proxy, new_guest, wait_until

from replicator.arbiter.base import Lease, TakeOverRefused
from replicator.arbiter.etcd import EtcdArbiter
from replicator.errors import ArbiterError, ConfigError, LeaseLost

TTL_MS, MARGIN_MS, TIMEOUT_MS = 1000, 100, 400


def connect(*endpoints: str, guest: str, ttl_ms: int = TTL_MS) -> EtcdArbiter:
    return EtcdArbiter(list(endpoints), guest, ttl_ms=ttl_ms, margin_ms=MARGIN_MS, timeout_ms=TIMEOUT_MS)


@pytest.fixture
def guest() -> str:
    return new_guest()


@pytest.fixture
def proxy(etcd_server: EtcdServer) -> Iterator[Proxy]:
    proxy = Proxy(etcd_server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def black_hole() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def other_service() -> Iterator[str]:
    """Speaks HTTP but is no etcd."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def calls_of(arbiter: EtcdArbiter) -> list[Callable[[], object]]:
    lease = Lease(1, "a", 0, "12345")
    return [
        arbiter.read,
        lambda: arbiter.acquire("a"),
        lambda: arbiter.renew(lease),
        lambda: arbiter.take_over("b", 1, 1),
        lambda: arbiter.go_alone(lease),
        lambda: arbiter.lift_bar(lease, "b", "s"),
        lambda: arbiter.release(lease),
        lambda: arbiter.force_take_over("b"),
    ]


def test_a_refused_connection_is_a_clear_error_at_once(guest: str) -> None:
    for call in calls_of(connect("http://127.0.0.1:1", guest=guest)):
        with pytest.raises(
            ArbiterError, match=f"guest {guest}: no etcd endpoint answered.*127.0.0.1:1"
        ) as refusal:
            call()
        assert not isinstance(refusal.value, LeaseLost | TakeOverRefused)
        assert "check that etcd runs" in refusal.value.hint


def test_an_etcd_that_never_answers_is_given_up_in_time(guest: str, black_hole: str) -> None:
    for call in calls_of(connect(black_hole, black_hole, guest=guest)):
        started = time.monotonic()
        with pytest.raises(ArbiterError, match="no etcd endpoint answered"):
            call()
        assert 0.5 * TIMEOUT_MS < (time.monotonic() - started) * 1000 < 1.5 * TIMEOUT_MS


def test_another_service_is_no_etcd(guest: str, other_service: str) -> None:
    for call in calls_of(connect(other_service, guest=guest)):
        with pytest.raises(ArbiterError, match="no etcd endpoint answered"):
            call()


def test_a_living_endpoint_is_found_and_remembered(
    etcd_server: EtcdServer, guest: str, black_hole: str
) -> None:
    arbiter = connect("http://127.0.0.1:1", black_hole, etcd_server.endpoint, guest=guest)
    lease = arbiter.acquire("a")
    started = time.monotonic()
    for _ in range(3):
        lease = arbiter.renew(lease)
    assert (time.monotonic() - started) * 1000 < TIMEOUT_MS
    assert lease.is_live()


def test_what_was_granted_survives_the_end_of_etcd(tmp_path: Path, guest: str) -> None:
    server = EtcdServer(tmp_path)
    server.start()
    try:
        arbiter = connect(server.endpoint, guest=guest)
        lease = arbiter.acquire("a")
        arbiter.lift_bar(lease, "b", "s", epoch=3)
        server.stop()
        with pytest.raises(ArbiterError, match="no etcd endpoint answered"):
            arbiter.renew(lease)
        server.start()
        record = arbiter.read()
        assert record is not None
        assert (record.term, record.holder, record.barred) == (1, "a", False)
        wait_until(lambda: not arbiter.read().live)  # type: ignore[union-attr]
        assert arbiter.take_over("b", 1, 3).term == 2
    finally:
        server.stop()


def test_a_key_of_others_is_named(etcd_server: EtcdServer, guest: str) -> None:
    key = f"/replicator/{guest}/record"
    for value in (b"{", b"null", b"[" * 20_000, b'{"guest": "other"}'):
        etcd_server.post(
            "kv/put",
            {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value).decode()},
        )
        for call in (
            connect(etcd_server.endpoint, guest=guest).read,
            lambda: connect(etcd_server.endpoint, guest=guest).acquire("a"),
        ):
            with pytest.raises(ArbiterError, match=f"{key} is not ours"):
                call()


def test_a_take_over_whose_answer_was_lost_is_taken_up_again(
    etcd_server: EtcdServer, guest: str, proxy: Proxy
) -> None:
    direct, behind = connect(etcd_server.endpoint, guest=guest), connect(proxy.endpoint, guest=guest)
    lease = direct.acquire("a")
    direct.lift_bar(lease, "b", "s")
    etcd_server.post("lease/revoke", {"ID": lease.token})
    proxy.lose_answer_to = b"/kv/txn"
    with pytest.raises(ArbiterError, match="no etcd endpoint answered"):
        behind.take_over("b", 1, 1)
    record = direct.read()
    assert record is not None and (record.term, record.holder) == (2, "b")
    with pytest.raises(TakeOverRefused):
        direct.take_over("b", 1, 1)
    proxy.mend()
    taken = behind.take_over("b", 1, 1)
    assert (taken.term, taken.holder, taken.is_live()) == (2, "b", True)
    assert behind.renew(taken).is_live()
    with pytest.raises(TakeOverRefused):
        direct.take_over("b", 1, 1)


@pytest.mark.parametrize("path", [b"/lease/grant", b"/kv/txn", b"/kv/range"])
def test_an_acquire_whose_answer_was_lost_may_be_repeated(
    etcd_server: EtcdServer, guest: str, proxy: Proxy, path: bytes
) -> None:
    arbiter = connect(proxy.endpoint, guest=guest)
    proxy.lose_answer_to = path
    with pytest.raises(ArbiterError, match="no etcd endpoint answered"):
        arbiter.acquire("a")
    proxy.mend()
    lease = arbiter.acquire("a")
    assert (lease.term, lease.is_live()) == (1, True)


def test_a_lost_answer_is_asked_for_at_the_next_endpoint(
    etcd_server: EtcdServer, guest: str, proxy: Proxy
) -> None:
    arbiter = connect(proxy.endpoint, etcd_server.endpoint, guest=guest)
    proxy.lose_answer_to = b"/kv/txn"
    lease = arbiter.acquire("a")
    assert (lease.term, lease.is_live()) == (1, True)
    proxy.mend()
    proxy.lose_answer_to = b"/kv/txn"
    arbiter.lift_bar(lease, "b", "s")
    record = arbiter.read()
    assert record is not None and not record.barred


def test_going_alone_whose_answer_was_lost_counts(etcd_server: EtcdServer, guest: str, proxy: Proxy) -> None:
    arbiter, direct = connect(proxy.endpoint, guest=guest), connect(etcd_server.endpoint, guest=guest)
    lease = arbiter.acquire("a")
    arbiter.lift_bar(lease, "b", "s")
    proxy.lose_answer_to = b"/kv/txn"
    with pytest.raises(ArbiterError):
        arbiter.go_alone(lease)
    record = direct.read()
    assert record is not None and record.barred
    proxy.mend()
    arbiter.go_alone(lease)


def test_the_deadline_comes_before_the_end_of_the_etcd_lease(etcd_server: EtcdServer, guest: str) -> None:
    arbiter = connect(etcd_server.endpoint, guest=guest)
    lease = arbiter.acquire("a")
    wait_until(lambda: not lease.is_live())
    record = arbiter.read()
    assert record is not None and record.live


@pytest.mark.parametrize("endpoint", ["", "ftp://127.0.0.1", "http://", "http://127.0.0.1/x", "127.0.0.1:x"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ConfigError):
        connect(endpoint, guest="g")


def test_no_endpoint_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="no etcd endpoint"):
        connect(guest="g")
