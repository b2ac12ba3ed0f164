"""Whoever gets keys wrong is told on both sides, in the log and in the status, which file to look at."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from command_line import replicator, wait_for_status
from pair import CONFIG, Pair, free_ports

from replicator.link.keys import write_keypair
from replicator.service.config import load_config

NAMES = ("a", "b", "stranger")


def add_keys(pair: Pair, side: str, *, secret: str, allow: str) -> None:
    path = pair.folder / f"{side}.toml"
    text = f'[keys]\nsecret = "keys/{secret}.key_secret"\nallow = ["keys/{allow}.key"]\n'
    path.write_text(text + path.read_text())


@pytest.fixture
def keyed(pair: Pair) -> Pair:
    """A pair whose folder has three hosts' keys; no side uses any yet."""
    make_keys(pair)
    return pair


def make_keys(pair: Pair) -> None:
    for name in NAMES:
        write_keypair(pair.folder / "keys", name)


def warnings(pair: Pair) -> dict[str, str]:
    """What each side's status warns of, once it does."""
    found = {}
    for side in ("a", "b"):
        found[side] = wait_for_status(pair.folder / f"{side}.toml", lambda status: bool(status["warning"]))
    return {side: str(status["warning"]) for side, status in found.items()}


def start_both(pair: Pair) -> None:
    pair.start("b", "secondary").wait_for("standby")
    pair.start("a", "primary").wait_for("unprotected")


def test_keygen_says_which_file_goes_where_and_replaces_none(tmp_path: Path) -> None:
    made = replicator("keygen", "--directory", tmp_path / "new", "host-a")
    public, secret = tmp_path / "new" / "host-a.key", tmp_path / "new" / "host-a.key_secret"
    assert f"for the peer's [keys] allow: {public}" in made.out
    assert f"for this host's [keys] secret: {secret}" in made.out
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    before = secret.read_bytes()
    again = replicator("keygen", "--directory", tmp_path / "new", "host-a")
    assert again.code == 2
    assert "exists and is not replaced" in again.err and "hint: choose another name" in again.err
    assert secret.read_bytes() == before


def test_with_the_right_keys_nobody_is_warned(keyed: Pair) -> None:
    add_keys(keyed, "a", secret="a", allow="b")
    add_keys(keyed, "b", secret="b", allow="a")
    keyed.protect()
    for side in ("a", "b"):
        wait_for_status(keyed.folder / f"{side}.toml", lambda status: status["warning"] == "")


def test_a_stranger_is_turned_away_and_both_are_told(keyed: Pair) -> None:
    add_keys(keyed, "a", secret="stranger", allow="b")
    add_keys(keyed, "b", secret="b", allow="a")
    start_both(keyed)
    told = warnings(keyed)
    assert "the peer does not allow our key; name our .key file in [keys] allow on the peer" in told["a"]
    assert "127.0.0.1 connected with the key" in told["b"] and "is not allowed" in told["b"]
    assert "name its .key file in [keys] allow here" in told["b"]
    key = (keyed.folder / "keys" / "stranger.key").read_text().split('"')[1]
    assert key in told["b"]
    primary, secondary = keyed.sides[1], keyed.sides[0]
    secondary.wait_for("name its .key file in [keys] allow here")
    primary.wait_for("name our .key file in [keys] allow on the peer")
    assert "no epoch was committed" in secondary.status()["state"]
    table = replicator("status", keyed.folder / "a.toml")
    assert "warning" in table.out and "unprotected" in table.out


def test_a_stranger_at_a_protected_pair_changes_nothing_but_is_told_of(keyed: Pair) -> None:
    add_keys(keyed, "a", secret="a", allow="b")
    add_keys(keyed, "b", secret="b", allow="a")
    keyed.protect()
    third = CONFIG.format(
        name="c",
        folder=keyed.folder,
        port=free_ports()[0],
        peer=load_config(keyed.folder / "b.toml").listen.port,
    )
    (keyed.folder / "c.toml").write_text(third)
    add_keys(keyed, "c", secret="stranger", allow="b")
    keyed.start("c", "primary").wait_for("the peer does not allow our key")
    told = wait_for_status(keyed.folder / "b.toml", lambda status: bool(status["warning"]))
    assert "is not allowed" in told["warning"]
    assert told["state"].startswith("standby at epoch")
    assert keyed.sides[1].status()["state"].startswith("protected")


def test_a_wrong_key_of_the_peer_is_told_on_both_sides(keyed: Pair) -> None:
    add_keys(keyed, "a", secret="a", allow="stranger")
    add_keys(keyed, "b", secret="b", allow="a")
    start_both(keyed)
    told = warnings(keyed)
    assert "the .key file in allow is not the peer's" in told["a"]
    assert "another public key of ours in mind; compare [keys] on both hosts" in told["b"]


@pytest.mark.parametrize("plain", ["a", "b"])
def test_plaintext_against_keys_is_told_on_both_sides(keyed: Pair, plain: str) -> None:
    other = "b" if plain == "a" else "a"
    add_keys(keyed, other, secret=other, allow=plain)
    start_both(keyed)
    told = warnings(keyed)
    # Who ends the handshake first knows why; to the other one it was just ended.
    assert any("encryption" in warning for warning in told.values())
    assert all("[keys]" in warning for warning in told.values())


def test_a_warning_ends_with_its_cause(pair_without_arbiter: Pair) -> None:
    pair = pair_without_arbiter
    make_keys(pair)
    add_keys(pair, "b", secret="b", allow="a")
    start_both(pair)
    secondary, primary = pair.sides
    secondary.wait_for("[keys]")
    primary.kill()
    add_keys(pair, "a", secret="a", allow="b")
    pair.start("a", "primary").wait_for("primary: protected")
    wait_for_status(pair.folder / "b.toml", lambda status: status["warning"] == "")


@pytest.mark.parametrize("section", ["listen", "peer"])
@pytest.mark.parametrize("role", ["primary", "secondary"])
def test_plaintext_beyond_this_machine_is_refused(pair: Pair, role: str, section: str) -> None:
    path = pair.folder / "a.toml"
    path.write_text(
        path.read_text().replace(f'[{section}]\nhost = "127.0.0.1"', f'[{section}]\nhost = "192.0.2.1"')
    )
    refused = replicator(role, path)
    assert refused.code == 2
    assert f"{path}: without [keys]" in refused.err and f"[{section}] host = 192.0.2.1" in refused.err
    assert "`replicator keygen`" in refused.err and "allow_plaintext = true" in refused.err


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda keys: (keys / "a.key_secret").unlink(), "cannot read the key"),
        (lambda keys: (keys / "a.key_secret").chmod(0o644), "can be read by others"),
        (
            lambda keys: (keys / "a.key_secret").write_bytes((keys / "a.key").read_bytes()),
            "holds no secret-key",
        ),
        (lambda keys: (keys / "b.key").write_text("?"), "holds no public-key"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_named(keyed: Pair, damage: object, named: str) -> None:
    add_keys(keyed, "a", secret="a", allow="b")
    assert callable(damage)
    (keyed.folder / "keys" / "a.key_secret").chmod(0o600)
    damage(keyed.folder / "keys")
    refused = replicator("primary", keyed.folder / "a.toml")
    assert refused.code == 2
    assert f"{keyed.folder / 'a.toml'}: [keys]" in refused.err and named in refused.err
    assert "hint:" in refused.err
