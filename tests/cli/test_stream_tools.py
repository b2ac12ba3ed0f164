"""The stream commands as an operator runs them: exit codes, what they say, and that pipes work."""

from __future__ import annotations

import io
import json
import struct
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from command_line import PROGRAM, TIMEOUT_S, Outcome, replicator
from recordings import SMALL
from wire_vectors import join, load_stream, load_xl_header

from replicator.cli.main import main
from replicator.units import PAGE_SIZE
from replicator.wire import verify_stream
from replicator.wire.layout import XL_HANDSHAKE_GO

Streams = dict[str, Path]
INVALID, CUT, DIFFERENT, NO_FILE, USAGE, RECEIVER = 3, 11, 12, 14, 2, 13


def stream(*arguments: str | Path) -> Outcome:
    """The command in this process; `replicator` starts one of its own for each."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main(["stream", *map(str, arguments)])
        except SystemExit as end:
            code = int(end.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def pipe(data: bytes, *arguments: str | Path) -> tuple[int, bytes]:
    """The command with this on its standard input; its exit code and its standard output."""
    argv = [*PROGRAM, "stream", *map(str, arguments)]
    done = subprocess.run(argv, input=data, capture_output=True, timeout=TIMEOUT_S, check=False)
    return done.returncode, done.stdout


# verify


@pytest.mark.parametrize("name", [each.name for each in SMALL if each.checkpoints is None])
def test_verify_takes_every_whole_stream(streams: Streams, name: str) -> None:
    done = replicator("stream", "verify", streams[name])
    assert (done.code, done.err) == (0, "")
    assert "valid, " in done.out


@pytest.mark.parametrize(
    "recording", [each for each in SMALL if each.checkpoints], ids=lambda each: each.name
)
def test_verify_says_how_far_a_cut_stream_is_good(streams: Streams, recording: object) -> None:
    name, count, end = recording.name, recording.checkpoints, recording.last_whole_end  # type: ignore[attr-defined]
    done = stream("verify", streams[name])
    assert done.code == CUT
    assert f"{count} whole checkpoints, the last one ends at {end}" in done.out
    assert stream("verify", "--up-to-last-checkpoint", streams[name]).code == 0


def test_verify_of_a_stream_without_a_checkpoint(streams: Streams) -> None:
    path = streams["pvh1.killed-in-round0"]
    for options in ((), ("--up-to-last-checkpoint",)):
        done = stream("verify", *options, path)
        assert done.code == CUT
        assert "there is no whole checkpoint" in done.out


def test_verify_names_every_problem(tmp_path: Path) -> None:
    data = bytearray(load_stream("hvm1.save"))
    data[12:16] = b"\0\0\0\4"  # a reserved option bit of the libxl header
    path = tmp_path / "damaged"
    path.write_bytes(bytes(data) + b"behind")
    done = stream("verify", path)
    assert done.code == INVALID
    lines = done.out.splitlines()
    assert lines[0].startswith("BadHeader: strict reading expects reserved option bits 0 (are 0x4)")
    assert lines[0].endswith("in libxl header at offset 0 (a receiver forgives it)")
    assert "bytes behind the end" in lines[1]
    assert lines[-1] == "not valid: 2 problems"
    assert stream("verify", "--tolerant", path).code == 0


def test_verify_as_json(streams: Streams) -> None:
    done = stream("verify", "--json", streams["pv1.remus-50ms"])
    found = json.loads(done.out)
    assert done.code == found["exit_code"] == CUT
    assert (found["checkpoints"], found["last_whole_end"]) == (2, 548_496)
    assert (found["kind"], found["guest"], found["problems"]) == ("remus", "PV", [])
    assert "PAGE_DATA" in found["cut"]


def test_a_file_that_is_no_stream(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("This is not a migration stream, and it is long enough to tell.\n")
    done = stream("verify", path)
    assert done.code == INVALID
    assert done.out.startswith("BadHeader: no stream")


# inspect


def test_inspect_shows_a_tree(streams: Streams) -> None:
    done = stream("inspect", streams["hvm1.remus-50ms"])
    assert done.code == 0
    for part in (
        "round 1 at 0",
        "CHECKPOINT_END",
        "PAGE_DATA x",
        "NOTAB",
        "HVM guest",
        "4 whole checkpoints",
    ):
        assert part in done.out


def test_inspect_as_json(streams: Streams) -> None:
    found = json.loads(stream("inspect", "--json", streams["hvm1.remus-50ms"]).out)
    assert found["checkpoints"] == 4
    assert [each["is_whole"] for each in found["rounds"]] == [True] * 4
    assert found["rounds"][0]["records"][0]["name"] == "xl header"
    assert found["rounds"][-1]["end"] == found["last_whole_end"] == 85_361
    ends = [each["end"] for each in found["rounds"]]
    assert [each["offset"] for each in found["rounds"][1:]] == ends[:-1]
    size = sum(row["bytes"] for each in found["rounds"] for row in each["records"])
    assert size == found["last_record_end"]
    entries = sum(n for e in found["rounds"] for r in e["records"] for n in r.get("page_types", {}).values())
    assert entries == found["page_entries"] == sum(found["page_types"].values())


def test_inspect_of_each_record(streams: Streams) -> None:
    rows = json.loads(stream("inspect", "--json", "--records", streams["pv1.save"]).out)["rounds"][0][
        "records"
    ]
    assert all(row["count"] == 1 for row in rows)
    offsets = [row["offset"] for row in rows]
    assert offsets == sorted(offsets)


def test_inspect_shows_what_it_could_read(tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(load_stream("hvm1.save")[:576] + b"\xff" * 64)
    done = stream("inspect", path)
    assert done.code == INVALID
    assert "libxl header" in done.out
    assert "not valid" in done.out


# convert


def test_convert_keeps_what_is_new_already(streams: Streams, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert stream("convert", streams["pv1.save"], out).code == 0
    assert out.read_bytes() == streams["pv1.save"].read_bytes()


def test_convert_changes_the_framing_and_back(streams: Streams, tmp_path: Path) -> None:
    libxc, xl = tmp_path / "libxc", tmp_path / "xl"
    assert stream("convert", "--to", "libxc", streams["pvh1.save"], libxc).code == 0
    config = tmp_path / "config"
    assert stream("extract", streams["pvh1.save"], "--config", config).code == 0
    assert stream("convert", libxc, xl, "--to", "xl", "--config", config).code == 0
    assert xl.read_bytes() == streams["pvh1.save"].read_bytes()


def test_convert_loses_no_device_model_unasked(streams: Streams, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = stream("convert", "--to", "libxc", streams["hvm1.save"], out)
    assert done.code == INVALID
    assert "no place for the device model" in done.err and "hint:" in done.err
    assert not out.exists()
    done = stream("convert", "--to", "libxc", "--drop-device-model", streams["hvm1.save"], out)
    assert done.code == 0
    assert "left out: 1 x EMULATOR_CONTEXT" in done.err
    assert verify_stream([out.read_bytes()]).records["END"] == 1


def test_convert_says_what_it_leaves_out(streams: Streams, tmp_path: Path) -> None:
    done = stream("convert", streams["pv1.migrate"], tmp_path / "out")
    assert "left out: 1 x migration handshake" in done.err
    assert (tmp_path / "out").read_bytes() + XL_HANDSHAKE_GO == streams["pv1.migrate"].read_bytes()


def test_convert_writes_a_cut_stream_as_far_as_it_goes(streams: Streams, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = stream("convert", streams["pv1.remus-50ms"], out)
    assert done.code == CUT
    assert stream("verify", "--up-to-last-checkpoint", out).code == 0
    assert stream("convert", streams["pvh1.killed-in-round0"], tmp_path / "other").code == CUT
    assert not (tmp_path / "other").exists()


def test_convert_feeds_a_receiver(streams: Streams, tmp_path: Path) -> None:
    path, out = streams["hvm1.save"], tmp_path / "out"
    done = stream("convert", path, "--exec", f"dd status=none of={out}")
    assert done.code == 0, done.err
    assert out.read_bytes() == path.read_bytes()
    assert "ended well" in done.err


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sh -c 'exit 7'", "7"),
        ("sh -c 'head -c 100 >/dev/null; exit 0'", "before it had the whole stream"),
        ("sh -c 'kill -9 $$'", "SIGKILL"),
        ("/no/such/program", "/no/such/program"),
    ],
)
def test_convert_tells_how_a_receiver_failed(streams: Streams, command: str, said: str) -> None:
    done = stream("convert", streams["pv1.save"], "--exec", command)
    assert done.code == RECEIVER
    assert said in done.err


def test_convert_gives_up_on_a_receiver_that_stalls(streams: Streams) -> None:
    done = stream("convert", streams["pv1.save"], "--stall-timeout", "0.2", "--exec", "sleep 60")
    assert done.code == RECEIVER
    assert "took nothing for 0.2 s" in done.err


def test_a_cut_stream_lets_its_receiver_finish(streams: Streams, tmp_path: Path) -> None:
    """As a Remus receiver does: the end of its input is what makes it take over."""
    out = tmp_path / "out"
    done = stream("convert", streams["pv1.remus-50ms"], "--exec", f"dd status=none of={out}")
    assert done.code == CUT
    assert stream("verify", "--up-to-last-checkpoint", out).code == 0


def test_a_back_channel_of_a_newer_xen_is_put_right(tmp_path: Path) -> None:
    """Named as such and with its quirk it is read, and written as the specification has it."""
    states = join("checkpoint_state_ready checkpoint_state_resumed checkpoint_state_suspended")
    wide = struct.pack("<IIQ2Q", 0x0F, 16, 0, 3, 7) + states
    path, out = tmp_path / "back", tmp_path / "out"
    path.write_bytes(states + wide)
    kind = ("--kind", "back-channel")
    done = stream("verify", *kind, path)
    assert done.code == INVALID
    assert "--quirk xen-4.18" in done.out
    quirk = (*kind, "--quirk", "xen-4.18")
    assert stream("verify", *quirk, path).code == 0
    assert stream("convert", *quirk, path, out).code == 0
    assert out.read_bytes() == states + struct.pack("<II2Q", 0x0F, 16, 3, 7) + states
    assert stream("verify", *kind, out).code == 0


# squash, extract, diff


@pytest.mark.parametrize("name", ["pv1.remus-50ms", "pvh1.remus-200ms", "hvm1.remus-50ms"])
def test_squash_makes_a_strictly_valid_save_file(streams: Streams, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    done = stream("squash", streams[name], out)
    assert done.code == 0, done.err
    assert "the guest at checkpoint" in done.err
    assert stream("verify", out).code == 0
    assert stream("diff", streams[name], out).code == 0


def test_squash_at_a_checkpoint(streams: Streams, tmp_path: Path) -> None:
    first, last = tmp_path / "first", tmp_path / "last"
    path = streams["hvm1.remus-50ms"]
    assert stream("squash", "--checkpoint", "1", path, first).code == 0
    assert stream("squash", path, last).code == 0
    assert stream("diff", first, path, "--checkpoint2", "1").code == 0
    assert stream("diff", first, last).code == DIFFERENT
    done = stream("squash", "--checkpoint", "5", path, tmp_path / "none")
    assert done.code == CUT
    assert "checkpoint 5 is asked, the stream has 4" in done.err
    assert not (tmp_path / "none").exists()


def test_diff_of_two_checkpoints(streams: Streams) -> None:
    path = streams["pv1.remus-50ms"]
    assert stream("diff", path, "--checkpoint", "2").code == 0
    done = stream("diff", path, "--checkpoint", "1", "--json")
    assert done.code == DIFFERENT
    found = json.loads(done.out)
    assert found["differs"] is True
    assert any("X86_TSC_INFO" in line for line in found["records"])
    assert (
        sum(last - first + 1 for first, last in found["content_differs"]["runs"])
        == found["content_differs"]["pages"]
    )


def test_extract(streams: Streams, tmp_path: Path) -> None:
    ram, state, config = (tmp_path / name for name in ("ram", "state", "config"))
    done = stream("extract", streams["hvm1.save"], "--ram", ram, "--device-state", state, "--config", config)
    assert done.code == 0, done.err
    assert json.loads(config.read_bytes())["c_info"]["type"] == "hvm"
    assert state.read_bytes().startswith(b"QEVM")
    assert ram.stat().st_size % PAGE_SIZE == 0
    assert ram.stat().st_mode & 0o077 == 0, "memory is nobody else's business"
    # The pages of these recordings say which entry they are of.
    with ram.open("rb") as file:
        file.seek(5 * PAGE_SIZE)
        assert int.from_bytes(file.read(8), "little") in (5, 0)


def test_extract_says_what_is_not_there(streams: Streams, tmp_path: Path) -> None:
    done = stream("extract", streams["pv1.save"], "--device-state", tmp_path / "state")
    assert done.code == USAGE
    assert "has no EMULATOR_CONTEXT" in done.err
    bare = tmp_path / "bare"
    bare.write_bytes(load_stream("pv1.save"))
    done = stream("extract", bare, "--config", tmp_path / "config")
    assert "has no configuration" in done.err


# Pipes and mistakes


def test_pipes_work_everywhere(streams: Streams, tmp_path: Path) -> None:
    data = streams["hvm1.remus-50ms"].read_bytes()
    assert pipe(data, "verify", "-", "--up-to-last-checkpoint")[0] == 0
    assert pipe(data, "inspect", "-", "--json")[0] == 0
    code, squashed = pipe(data, "squash", "-")
    assert code == 0
    assert verify_stream([squashed.removeprefix(load_xl_header("hvm1"))]).checkpoints == 0
    assert pipe(squashed, "convert", "-") == (0, squashed)
    assert pipe(squashed, "extract", "-", "--device-state", "-")[1].startswith(b"QEVM")
    path = tmp_path / "squashed"
    path.write_bytes(squashed)
    assert pipe(data, "diff", "-", path)[0] == 0
    code, ram = pipe(data, "extract", "-", "--ram", "-", "--checkpoint", "1")
    assert code == 0
    assert len(ram) % PAGE_SIZE == 0


def test_standard_input_may_have_been_read_before(streams: Streams, tmp_path: Path) -> None:
    """The stream starts where the reading does; a PV guest's start info page is looked up from there."""
    path = tmp_path / "behind"
    path.write_bytes(b"x" * 1000 + streams["pv1.save"].read_bytes())
    with path.open("rb", buffering=0) as file:
        file.read(1000)
        argv = [*PROGRAM, "stream", "verify", "--json", "-"]
        done = subprocess.run(argv, stdin=file, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0
    assert json.loads(done.stdout)["last_record_end"] == streams["pv1.save"].stat().st_size


def test_a_reader_that_goes_away_is_named(streams: Streams) -> None:
    argv = " ".join([*PROGRAM, "stream", "convert", str(streams["pv1.save"])])
    done = subprocess.run(
        ["bash", "-c", f"{argv} | head -c 10; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    # The whole stream may fit the pipe before the reader is gone.
    assert done.returncode in (0, NO_FILE)
    assert done.returncode == 0 or b"the reader closed it" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("verify", "/no/such/file"), NO_FILE, "No such file or directory"),
        (("verify", "/"), NO_FILE, "Is a directory"),
        (("convert", "IN", "/no/such/folder/out"), NO_FILE, "cannot write /no/such/folder/out"),
        (("convert", "IN", "out", "--exec", "true"), USAGE, "not both"),
        (("convert", "IN", "--exec", "'"), USAGE, "No closing quotation"),
        (("convert", "IN", "--exec", ""), USAGE, "an empty command"),
        (("extract", "IN"), USAGE, "nothing to extract"),
        (("extract", "IN", "--ram", "-", "--config", "-"), USAGE, "only one part"),
        (("diff", "IN"), USAGE, "nothing to compare with"),
        (("diff", "-", "--checkpoint", "1"), USAGE, "read only once"),
        (("squash", "--checkpoint", "0", "IN"), USAGE, "0 is not in the range"),
        (("verify", "--sender-bits", "16", "IN"), USAGE, "16"),
    ],
)
def test_mistakes(streams: Streams, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = stream(*(str(streams["pv1.save"]) if each == "IN" else each for each in arguments))
    assert done.code == code, done.err
    assert said in done.err


def test_a_full_disk_is_named(streams: Streams) -> None:
    done = stream("squash", streams["pv1.remus-50ms"], "/dev/full")
    assert done.code == NO_FILE
    assert "No space left on device" in done.err
