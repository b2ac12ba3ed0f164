"""RAM files, and processes that write them."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from memory_tools import Writer

from replicator.memory import GuestLayout, GuestRam, preload_environment


@pytest.fixture
def make_ram() -> Iterator[Callable[..., GuestRam]]:
    rams: list[GuestRam] = []

    def make(layout: GuestLayout, **options: bool) -> GuestRam:
        fd = os.memfd_create("test-ram")
        os.ftruncate(fd, layout.file_bytes)
        rams.append(GuestRam(fd, layout, **options))
        os.close(fd)
        return rams[-1]

    yield make
    for ram in rams:
        ram.close()


@pytest.fixture
def layout() -> GuestLayout:
    """256 pages, the last 64 behind a hole."""
    return GuestLayout.with_hole(256, low_pages=192, high_pfn=1000)


@pytest.fixture
def ram(make_ram: Callable[..., GuestRam], layout: GuestLayout) -> GuestRam:
    made = make_ram(layout)
    made.reserve()
    return made


@pytest.fixture
def start_writer(ram: GuestRam) -> Iterator[Callable[..., Writer]]:
    writers: list[Writer] = []

    def start(mode: str = "read", environment: dict[str, str] | None = None) -> Writer:
        writers.append(Writer(ram.fd, mode, environment))
        return writers[-1]

    yield start
    for writer in writers:
        writer.end()


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
        bound.bind(str(tmp_path / "uffd"))
        bound.listen()
        yield bound


@pytest.fixture
def preloaded(listener: socket.socket) -> dict[str, str]:
    """The environment that makes a writer hand over its userfaultfd to `listener`."""
    return preload_environment(listener.getsockname())
