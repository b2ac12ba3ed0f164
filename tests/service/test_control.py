"""The control socket answers every request, with an error that carries its exit code where it must."""

from __future__ import annotations

import asyncio
import json
import socket
import stat

import pytest

from replicator.errors import FenceError, TransportError
from replicator.service.control import ControlServer, RefusedByDaemon, ask_daemon


async def answer(request):
    if request["command"] == "promote":
        raise FenceError("the primary is alive", hint="stop it first")
    return {"echo": request}


def serve_and(tmp_path, client):
    async def run():
        server = ControlServer(tmp_path, answer)
        await server.start()
        try:
            return await asyncio.to_thread(client)
        finally:
            await server.stop()

    return asyncio.run(run())


def test_an_answer_comes_back(tmp_path):
    assert serve_and(tmp_path, lambda: ask_daemon(tmp_path, "status", watch=1)) == {
        "echo": {"command": "status", "watch": 1}
    }


def test_an_error_keeps_its_exit_code_and_hint(tmp_path):
    with pytest.raises(RefusedByDaemon, match="the primary is alive") as caught:
        serve_and(tmp_path, lambda: ask_daemon(tmp_path, "promote"))
    assert caught.value.exit_code == FenceError.exit_code
    assert caught.value.hint == "stop it first"


@pytest.mark.parametrize("garbage", [b"\n", b"[]\n", b"\xff\xfe\n", b"{\n"])
def test_garbage_is_answered_or_closed(tmp_path, garbage):
    def client():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(10)
            connection.connect(str(tmp_path / "control.sock"))
            connection.sendall(garbage)
            return connection.recv(4096)

    found = serve_and(tmp_path, client)
    assert found == b"" or b'"ok": false' in found


def test_the_socket_is_private(tmp_path):
    mode = serve_and(tmp_path, lambda: (tmp_path / "control.sock").stat().st_mode)
    assert stat.S_IMODE(mode) == 0o600


def test_no_daemon_says_how_to_start_one(tmp_path):
    with pytest.raises(TransportError) as caught:
        ask_daemon(tmp_path, "status")
    assert "replicator primary" in caught.value.hint


@pytest.mark.parametrize(("command", "is_answered"), [("status", True), ("copy", False)])
def test_who_has_no_more_to_say_is_answered_unless_the_work_is_long(tmp_path, command, is_answered):
    """A copy for somebody who hung up is given up; every order is carried out whole."""
    given_up = asyncio.Event()

    async def work(request):
        try:
            await asyncio.sleep(30 if request["command"] == "copy" else 0)
        except asyncio.CancelledError:
            given_up.set()
            raise
        return {"done": True}

    def client():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(10)
            connection.connect(str(tmp_path / "control.sock"))
            connection.sendall(json.dumps({"command": command}).encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(4096)

    async def run():
        server = ControlServer(tmp_path, work)
        await server.start()
        try:
            return await asyncio.to_thread(client)
        finally:
            await server.stop()

    found = asyncio.run(run())
    assert (b'"done": true' in found) is is_answered
    assert given_up.is_set() is not is_answered
