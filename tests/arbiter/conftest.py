"""Benches for the arbiter tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from arbiter_tools import Bench, EtcdBench, EtcdServer, FileBench, MemoryBench, Worker


@pytest.fixture(scope="session")
def etcd_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["memory", "file", "etcd"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    """Each contract test runs against each adapter."""
    if request.param == "memory":
        return MemoryBench()
    if request.param == "file":
        return FileBench(tmp_path / "arbiter")
    return EtcdBench(request.getfixturevalue("etcd_server"))


@pytest.fixture
def start_worker() -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(*arguments: object) -> Worker:
        workers.append(Worker(*map(str, arguments)))
        assert workers[-1].hear() == "ready"
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()
