"""The control socket answers every request, with an error that carries its exit code where it must."""

from __future__ import annotations

import asyncio
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
