"""Mistakes that only the host can show are named at the start of either daemon, before any guest depends on it."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import replicator
from pair import Pair

CONFIG_EXIT, GUEST_EXIT, ARBITER_EXIT = 2, 5, 7
ROLES = ("primary", "secondary")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("nic", "taps", "named", "remedy"),
    [
        ("true", "[]", "0 devices are named, the guest has 1 NICs", "name 1 TAP devices"),
        ("false", '["tap0"]', "1 devices are named, the guest has 0 NICs", "name 0 TAP devices"),
        ("true", '["lo"]', "lo exists and is not a TAP device", "choose another name"),
        ("true", '["no/name"]', "not a name for a TAP device", "1 to 15 bytes"),
    ],
)
def test_taps_that_do_not_fit(pair: Pair, role: str, nic: str, taps: str, named: str, remedy: str) -> None:
    path = pair.folder / "a.toml"
    change(pair.folder / "guest.toml", "nic = false", f"nic = {nic}")
    change(path, 'guest.toml"\n', f'guest.toml"\ntaps = {taps}\n')
    refused = replicator(role, path)
    assert refused.code == CONFIG_EXIT, refused.err
    assert f"{path}: [guest] taps: {named}" in refused.err and f"hint: {remedy}" in refused.err
    # Nothing was promised to anybody yet.
    assert not any(path.is_file() for path in (pair.folder / "arbiter").rglob("*"))


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("guest", "named"),
    [
        ("", "neither kernel nor disk"),
        ("= [", "is not TOML"),
        ('kind = "xen"', "kind = 'xen' is not a kind of guest"),
        ('name = "web"\nmemory_mib = 256\nkernel = "none"', "there is no file"),
        ('name = "web"\nmemory_mib = 256\nkernle = "x"', "unknown key kernle"),
    ],
)
def test_a_guest_file_that_cannot_be_used(pair: Pair, role: str, guest: str, named: str) -> None:
    if not guest:
        guest = 'name = "web"\nmemory_mib = 256'
    (pair.folder / "guest.toml").write_text(guest)
    refused = replicator(role, pair.folder / "a.toml")
    assert refused.code == CONFIG_EXIT, refused.err
    assert f"{pair.folder / 'a.toml'}: [guest] file: " in refused.err
    assert str(pair.folder / "guest.toml") in refused.err
    assert named in refused.err


def test_a_guest_file_that_is_not_there(pair: Pair) -> None:
    (pair.folder / "guest.toml").unlink()
    refused = replicator("primary", pair.folder / "a.toml")
    assert refused.code == CONFIG_EXIT
    assert f"[guest] file: guest file {pair.folder / 'guest.toml'} cannot be read" in refused.err
    assert "docs/guests.md" in refused.err


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("zookeeper://x", "is no address of an arbiter"),
        ("file://relative", "does not name a directory of this machine"),
        ("etcd://", "names no etcd endpoint"),
        ("etcd://127.0.0.1:many", "etcd endpoint"),
        ("etcds://127.0.0.1:1?ca=none.pem", "names none.pem, which is no file"),
    ],
)
@pytest.mark.parametrize("role", ROLES)
def test_an_arbiter_that_cannot_be(pair: Pair, role: str, url: str, named: str) -> None:
    path = pair.folder / "a.toml"
    change(path, f"file://{pair.folder}/arbiter", url)
    change(path, "ttl_ms = 1000", "ttl_ms = 2000")
    refused = replicator(role, path)
    assert refused.code == CONFIG_EXIT, refused.err
    assert f"{path}: [arbiter] url: " in refused.err and named in refused.err


def test_a_primary_without_an_etcd_that_answers_starts_no_guest(pair: Pair) -> None:
    path = pair.folder / "a.toml"
    change(path, f"file://{pair.folder}/arbiter", "etcd://127.0.0.1:1")
    change(path, "ttl_ms = 1000", "ttl_ms = 2000")
    refused = replicator("primary", path)
    assert refused.code == ARBITER_EXIT
    assert "no etcd endpoint answered" in refused.err and "hint: check that etcd runs" in refused.err
    assert not (pair.folder / "a" / "primary-ram").exists()
