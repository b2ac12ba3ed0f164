"""A configuration that cannot work is refused with the file, the place and the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import ConfigError
from replicator.service.config import load_config

GOOD = """
[node]
name = "a"
[guest]
file = "guest.toml"
taps = ["tap0"]
[listen]
host = "127.0.0.1"
[peer]
host = "127.0.0.1"
port = 7420
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "replicator.toml"
    path.write_text(text)
    return path


def test_defaults_and_relative_paths(tmp_path):
    config = load_config(write(tmp_path, GOOD))
    assert config.epoch.interval_ns == 50_000_000
    assert config.guest_file == tmp_path / "guest.toml"
    assert config.state_dir == Path("/dev/shm/replicator/a")
    assert (config.listen.port, config.peer.port) == (7410, 7420)
    assert config.guest.taps == ("tap0",)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("[peer]", "[pear]"), "[pear]"),
        (('file = "guest.toml"', "fiel = 3"), "fiel"),
        (('name = "a"', ""), "[node] name is missing"),
        (("port = 7420", 'port = "7420"'), "[peer] port"),
        (("port = 7420", "port = 70000"), "[peer] port = 70000"),
        (('taps = ["tap0"]', "taps = [1]"), "[guest] taps"),
        (("[peer]", "[epoch]\ninterval_ms = 1\n[peer]"), "interval_ms = 1"),
        (("[peer]", "[epoch]\nin_flight = 3\n[peer]"), "in_flight = 3"),
        (("[node]", "node = 1\n[other]"), "[other]"),
        (("[node]", "= ["), "cannot be read"),
    ],
)
def test_each_mistake_is_named(tmp_path, change, named):
    path = write(tmp_path, GOOD.replace(*change, 1))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_lease_shorter_than_the_detection_is_refused(tmp_path):
    text = GOOD + '[arbiter]\nurl = "file:///tmp/x"\nttl_ms = 200\n'
    with pytest.raises(ConfigError, match="exceeds the lease ttl"):
        load_config(write(tmp_path, text))


def test_a_missing_file_says_where_to_begin(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.toml")
    assert "README" in caught.value.hint
