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


MISTAKES = [
    (("[peer]", "[pear]"), "[pear]", "known are"),
    (('file = "guest.toml"', "fiel = 3"), "fiel", "known are"),
    (('name = "a"', ""), "[node] name is missing", "README"),
    (("[peer]", "[epoch]"), "[peer] is missing", "README"),
    (("port = 7420", 'port = "7420"'), "[peer] port is '7420'", "a whole number, without quotes"),
    (("port = 7420", "port = true"), "[peer] port is True", "a whole number"),
    (("port = 7420", "port = 70000"), "[peer] port = 70000", "65532 at most"),
    (("port = 7420", "port = 7412"), "[peer] 127.0.0.1 port 7412 overlaps", "at least 4 apart"),
    (('taps = ["tap0"]', "taps = [1]"), "[guest] taps", "write ["),
    (('taps = ["tap0"]', 'taps = ["x", "x"]'), "[guest] taps names x twice", "TAP of its own"),
    (('name = "a"', 'name = "../a"'), "[node] name = '../a'", "letters, digits"),
    (('name = "a"', 'name = ""'), "[node] name = ''", "letters, digits"),
    (('host = "127.0.0.1"', 'host = ""'), "[listen] host = ''", "address of this host"),
    (("[peer]", "[epoch]\ninterval_ms = 1\n[peer]"), "interval_ms = 1", "set interval_ms to 5"),
    (("[peer]", "[epoch]\nin_flight = 5\n[peer]"), "in_flight = 5", "set in_flight to 1"),
    (("[peer]", '[clock]\npolicy = "slew"\n[peer]'), "[clock]: policy = 'slew'", '"catch-up"'),
    (("[peer]", "[clock]\nmax_behind_ms = 5\n[peer]"), "max_behind_ms = 5", "set max_behind_ms to 20"),
    (("[peer]", '[epoch]\npacing = "slow"\n[peer]'), "[epoch]: pacing = 'slow'", '"fixed", "adaptive"'),
    (("[peer]", '[epoch]\ngoal = "fast"\n[peer]'), "[epoch]: goal 'fast'", "latency=10ms"),
    (("[peer]", '[epoch]\ngoal = "overhead=90%"\n[peer]'), "not in 0.1..50 %", "stand still"),
    (("[peer]", "[epoch]\ninterval_min_ms = 200\n[peer]"), "interval_min_ms = 200", "not above the second"),
    (
        ("[peer]", '[epoch]\npacing = "adaptive"\ngoal = "latency=2ms"\n[peer]'),
        "latency=2ms is shorter than interval_min_ms = 5",
        "lower interval_min_ms",
    ),
    (("[peer]", '[sync]\non_busy = "panic"\n[peer]'), "[sync]: on_busy = 'panic'", '"abort"'),
    (("[peer]", "[sync]\nmax_iterations = 2\n[peer]"), "max_iterations = 2", "set max_iterations to 4"),
    (
        ("[peer]", "[sync]\nmax_downtime_ms = 2000\nmax_time_s = 1\n[peer]"),
        "2000 ms is longer",
        "raise max_time",
    ),
    (("[node]", "node = 1\n[other]"), "[other]", "known are"),
    (("[node]", "peer = 1\n[node]"), "not TOML", "README"),
    (("[node]", "= ["), "not TOML", "README"),
    (("[node]", '[keys]\nallow = ["b.key"]\n[node]'), "[keys] allow needs", ".key_secret"),
    (("[node]", '[keys]\nsecret = "a.key_secret"\n[node]'), "[keys] allow names 0 keys", "keygen"),
    (
        ("[node]", '[keys]\nsecret = "s"\nallow = ["b.key"]\nallow_plaintext = true\n[node]'),
        "[keys] allow_plaintext",
        "remove one",
    ),
    (
        ('[peer]\nhost = "127.0.0.1"', '[peer]\nhost = "10.0.0.2"'),
        "[peer] host = 10.0.0.2 would carry the guest's memory unencrypted",
        "`replicator keygen`",
    ),
    (
        ("[node]", '[arbiter]\nurl = "file:///x"\nmargin_ms = 0\n[node]'),
        "[arbiter] margin_ms = 0",
        "1 at least",
    ),
    (
        ("[node]", '[arbiter]\nurl = "file:///x"\nttl_ms = 200\n[node]'),
        "[arbiter] ttl_ms: heartbeat interval_ms 50 x misses 4 + margin_ms 30 = 230 ms exceeds the lease ttl",
        "raise ttl_ms to 230",
    ),
    (
        ("[node]", '[arbiter]\nurl = "etcd://h:1"\nttl_ms = 2500\n[node]'),
        "[arbiter] ttl_ms = 2500: etcd's leases last whole seconds",
        "write ttl_ms = 3000",
    ),
    (
        ("[node]", '[arbiter]\nurl = "etcd://h:1"\nttl_ms = 1000\n[node]'),
        "[arbiter] ttl_ms = 1000",
        "write ttl_ms = 2000",
    ),
]


@pytest.mark.parametrize(("change", "named", "remedy"), MISTAKES)
def test_each_mistake_is_named_with_its_file_and_what_to_do(tmp_path, change, named, remedy):
    path = write(tmp_path, GOOD.replace(*change, 1))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert named in str(caught.value)
    assert str(path) in str(caught.value)
    assert remedy in caught.value.hint


def test_detection_may_take_exactly_the_lease(tmp_path):
    text = GOOD + '[arbiter]\nurl = "file:///x"\nttl_ms = 230\n'
    assert load_config(write(tmp_path, text)).arbiter.ttl_ms == 230


def test_etcd_has_the_lease_that_it_grants_by_default(tmp_path):
    config = load_config(write(tmp_path, GOOD + '[arbiter]\nurl = "etcd://h:1"\n'))
    assert config.arbiter.ttl_ms == 2000


def test_a_folder_or_missing_file_says_where_to_begin(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "none.toml")
    assert "README" in caught.value.hint
    with pytest.raises(ConfigError, match=f"{tmp_path} cannot be read: Is a directory"):
        load_config(tmp_path)
