"""`replicator drill` as an operator types it: mistakes are named before anything is built."""

from __future__ import annotations

import pytest

from replicator.cli.drill import matrix
from replicator.cli.main import main
from replicator.errors import ConfigError


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--faults", "kill-hots"], "kill-host, kill-secondary"),
        (["--phases", "runing"], "resuming, running"),
        (["--quick", "--faults", "cut", "--phases", "running"], "no cell is left to run"),
        (["--on-copy", "b.toml", "--for-real", "a.toml"], "exclude each other"),
        (["--guest", "xen"], "'qemu', 'synthetic'"),
        (["--mode", "lockstep"], "'remus', 'colo'"),
        (["--mode", "colo", "--divergence", "2"], "0<=x<=1"),
        (["--faults", "kill-vm"], "no cell is left to run"),
    ],
)
def test_a_mistake_is_named(arguments, words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["drill", *arguments])
    assert ended.value.code == 2
    assert words in " ".join(capsys.readouterr().err.split())


def test_a_report_needs_a_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="--report"):
        matrix.make_folder(tmp_path / "file")


def test_the_help_names_every_way_to_drill(capsys):
    main(["drill", "--help"])
    said = capsys.readouterr().out
    assert all(word in said for word in ("--quick", "--mode", "--on-copy", "--for-real", "check"))
