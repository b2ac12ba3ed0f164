"""Key files: made once, kept secret, read strictly."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import zmq.auth

from replicator.errors import ConfigError
from replicator.link import load_keys, write_keypair
from replicator.link.keys import load_public_key


def test_written_keys_are_read_again_and_by_zeromqs_own_tools(tmp_path: Path) -> None:
    public_path, secret_path = write_keypair(tmp_path / "keys", "host-a")
    peer_path, _ = write_keypair(tmp_path / "keys", "host-b")
    keys = load_keys(secret_path, [peer_path])
    assert keys.public == load_public_key(public_path)
    assert keys.allowed == {load_public_key(peer_path)}
    assert keys.secret not in repr(keys)
    assert zmq.auth.load_certificate(secret_path) == (keys.public.encode(), keys.secret.encode())
    assert zmq.auth.load_certificate(public_path) == (keys.public.encode(), None)
    assert stat.S_IMODE(secret_path.stat().st_mode) == 0o600
    assert keys.secret not in public_path.read_text()


@pytest.mark.parametrize("kept", ["host-a.key", "host-a.key_secret"])
def test_no_key_is_overwritten(tmp_path: Path, kept: str) -> None:
    (tmp_path / kept).write_text("precious")
    with pytest.raises(ConfigError, match=f"{kept} exists"):
        write_keypair(tmp_path, "host-a")
    assert [path.name for path in tmp_path.iterdir()] == [kept]
    assert (tmp_path / kept).read_text() == "precious"


@pytest.mark.parametrize("name", ["", "../host-a", "a/b", ".hidden", "a b"])
def test_a_name_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="key name"):
        write_keypair(tmp_path, name)


def test_a_readable_secret_is_refused(tmp_path: Path) -> None:
    _, secret_path = write_keypair(tmp_path, "host-a")
    secret_path.chmod(0o640)
    with pytest.raises(ConfigError, match="can be read by others") as caught:
        load_keys(secret_path, [])
    assert "chmod 600" in caught.value.hint


def test_files_that_are_no_keys_are_named(tmp_path: Path) -> None:
    public_path, secret_path = write_keypair(tmp_path, "host-a")
    other_path, _ = write_keypair(tmp_path, "host-b")
    absent = tmp_path / "absent.key"
    with pytest.raises(ConfigError, match="cannot read the key .*absent.key: No such file"):
        load_keys(secret_path, [absent])
    with pytest.raises(ConfigError, match=r"host-a.key holds no secret-key"):
        public_path.chmod(0o600)
        load_keys(public_path, [])
    for content in (b"", b"\xff\xfe", b'public-key = "short"', public_path.read_bytes() * 2):
        other_path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"host-b.key (is not a key file|holds no public-key)"):
            load_keys(secret_path, [other_path])


def test_halves_of_two_pairs_are_noticed(tmp_path: Path) -> None:
    _, secret_path = write_keypair(tmp_path, "host-a")
    public_path, _ = write_keypair(tmp_path, "host-b")
    mixed = secret_path.read_text().replace(load_keys(secret_path, []).public, load_public_key(public_path))
    secret_path.write_text(mixed)
    with pytest.raises(ConfigError, match="do not belong together"):
        load_keys(secret_path, [])
