"""Pairs with keys: what travels is sealed, and damage on the way costs no more than the epochs that were under way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pair import PATIENCE_S, Pair, free_ports
from tampering import Tamperer

from replicator.link import write_keypair


@pytest.fixture
def sealed_pair(tmp_path: Path) -> Iterator[Pair]:
    made = Pair(tmp_path)
    for name, peer in (("a", "b"), ("b", "a")):
        write_keypair(tmp_path, name)
        with (tmp_path / f"{name}.toml").open("a") as config:
            config.write(f'[keys]\nsecret = "{name}.key_secret"\nallow = ["{peer}.key"]\n')
    yield made
    made.end()


def test_the_primary_dies_and_the_guest_goes_there_and_back(sealed_pair: Pair) -> None:
    primary, secondary = sealed_pair.protect()
    primary.kill()
    secondary.wait_for("b: primary: active-alone")
    repaired = sealed_pair.start("a", "secondary")
    secondary.wait_for("b: primary: protected")
    secondary.kill()
    repaired.wait_for("a: primary: active-alone")


def test_damage_on_the_way_is_found_and_repaired(sealed_pair: Pair) -> None:
    """The secondary says what it was, and the pair is protected again by itself."""
    way = lead_through_a_tamperer(sealed_pair)
    try:
        primary, secondary = sealed_pair.protect()
        way.strike()
        secondary.wait_for("was changed on its way")
        assert way.struck.wait(PATIENCE_S)
        primary.wait_for("link: LinkUp()")
        damaged = primary.status()["committed"]
        while (
            not (status := primary.status())["state"].startswith("protected")
            or status["committed"] <= damaged
        ):
            assert primary.process.poll() is None
        assert status["term"] == 1
    finally:
        way.close()


def lead_through_a_tamperer(pair: Pair) -> Tamperer:
    """From the primary to the secondary."""
    config = pair.folder / "a.toml"
    head, _, port = config.read_text().rpartition("port = ")
    far, *rest = port.split("\n")
    near, _ = free_ports()
    config.write_text("\n".join([f"{head}port = {near}", *rest]))
    return Tamperer(near, int(far))
