"""The lab with real namespaces: needs root, iproute2 and /dev/net/tun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from replicator.demo import lab as labs
from replicator.demo.lab import (
    ARBITER,
    CLIENT,
    GUEST,
    HOST_A,
    HOST_B,
    REPLICATION,
    SWITCH,
    Lab,
)
from replicator.errors import ConfigError, GuestError


def reaches(lab: Lab, host: str, address: str, patience_s: float = 10) -> bool:
    """True when a machine at `address` answers `host` (by refusing a TCP connection) before patience ends."""
    script = (
        "import socket,sys,time\n"
        "end=time.monotonic()+float(sys.argv[2])\n"
        "while time.monotonic()<end:\n"
        "    s=socket.socket(); s.settimeout(0.2)\n"
        "    try: s.connect((sys.argv[1], 9))\n"
        "    except ConnectionRefusedError: print('answers'); break\n"
        "    except OSError: pass\n"
    )
    words = lab.check_output(host, [sys.executable, "-c", script, address, str(patience_s)])
    return words.strip() == "answers"


def test_hosts_reach_each_other_on_their_networks_and_nothing_stays_behind() -> None:
    with Lab() as lab:
        assert reaches(lab, HOST_A, lab.address(HOST_B, REPLICATION))
        assert reaches(lab, HOST_A, lab.address(SWITCH, ARBITER))
        assert lab.scratch.is_dir() and lab.scratch.stat().st_mode & 0o777 == 0o700
        names = list(lab.namespaces.values())
        assert all((labs.NETNS_DIR / name).exists() for name in names)
    assert not [found for found in labs.namespace_names() if found.startswith(lab.name)]
    assert not lab.scratch.exists()


def test_cut_link_silences_one_cable_and_restore_brings_it_back() -> None:
    with Lab() as lab:
        peer = lab.address(HOST_B, REPLICATION)
        arbiter = lab.address(SWITCH, ARBITER)
        lab.cut_link(REPLICATION)
        assert not reaches(lab, HOST_A, peer, 0.5)
        assert reaches(lab, HOST_A, arbiter)
        lab.restore_link(REPLICATION)
        assert reaches(lab, HOST_A, peer)
        lab.cut_link(f"{HOST_A}/{ARBITER}")
        assert not reaches(lab, HOST_A, arbiter, 0.5)
        assert reaches(lab, HOST_B, arbiter)
        lab.restore_link(HOST_A)
        assert reaches(lab, HOST_A, arbiter)
        with pytest.raises(ConfigError, match="no link"):
            lab.cut_link("moon")


def test_tap_waits_in_the_bridge_and_its_frames_reach_the_client() -> None:
    attach = (
        "import fcntl,os,struct,sys\n"
        "fd=os.open('/dev/net/tun',os.O_RDWR)\n"
        "fcntl.ioctl(fd,0x400454ca,struct.pack('16sH22x',sys.argv[1].encode(),0x1002))\n"
        "frame=b'\\xff'*6+b'\\x52\\x54\\0\\0\\0\\x01'+b'\\x88\\xb5'+b'hello from the guest'.ljust(46,b'.')\n"
        "print('attached',flush=True)\n"
        "sys.stdin.read(1)\n"
        "os.write(fd,frame)\n"
        "sys.stdin.read(1)\n"
    )
    listen = (
        "import socket\n"
        "s=socket.socket(socket.AF_PACKET,socket.SOCK_RAW,socket.htons(0x88b5)); s.bind(('guest0',0x88b5))\n"
        "print('listening',flush=True); print(s.recv(2000)[14:34].decode(),flush=True)\n"
    )
    with Lab() as lab:
        listener = lab.run(CLIENT, [sys.executable, "-c", listen], stdout=subprocess.PIPE)
        guest = lab.run(
            HOST_B, [sys.executable, "-c", attach, lab.tap_name(HOST_B)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert listener.stdout and guest.stdout and guest.stdin
        assert guest.stdout.readline() == b"attached\n"
        assert listener.stdout.readline() == b"listening\n"
        guest.stdin.write(b"x")
        guest.stdin.flush()
        assert listener.stdout.readline() == b"hello from the guest\n"


def test_processes_left_in_a_namespace_are_ended() -> None:
    with Lab() as lab:
        stubborn = (
            "import signal,time; signal.signal(15, signal.SIG_IGN); print('up',flush=True); time.sleep(600)"
        )
        # A grandchild in a session of its own: the lab holds no handle on it.
        spawn = f"import subprocess,sys; subprocess.Popen([sys.executable,'-c',{stubborn!r}],start_new_session=True)"
        child = lab.run(HOST_A, [sys.executable, "-c", spawn], stdout=subprocess.PIPE)
        assert child.stdout and child.stdout.readline() == b"up\n"
        (orphan,) = [pid for pid in labs.pids_inside(lab.namespaces[HOST_A]) if pid != child.pid]
    assert labs.process_start(orphan) is None


#: Waits with a timeout: a signal right before a call that blocks for ever would be noticed only after it.
OTHER_RUN = (
    "import select, sys\n"
    "from replicator.demo.lab import Lab, HOST_A\n"
    "with Lab() as lab:\n"
    "    child = lab.run(HOST_A, ['sleep', '600'])\n"
    "    print(lab.name, child.pid, flush=True)\n"
    "    while not select.select([sys.stdin], [], [], 0.1)[0]: pass\n"
)


def start_other_run() -> tuple[subprocess.Popen[str], str, int]:
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER_RUN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout
    name, pid = process.stdout.readline().split()
    return process, name, int(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_cleans_up(number: signal.Signals) -> None:
    process, name, _ = start_other_run()
    with process:
        process.send_signal(number)
        assert process.wait(20) != 0
    assert not any(found.startswith(name) for found in labs.namespace_names())
    assert not (labs.SCRATCH_ROOT / name).exists()


def test_leftovers_of_a_killed_run_go_at_the_next_start_and_running_labs_stay() -> None:
    alive, alive_name, _ = start_other_run()
    killed, killed_name, orphan = start_other_run()
    with alive, killed:
        killed.kill()
        killed.wait(20)
        assert labs.process_start(orphan) is not None
        with Lab():
            names = labs.namespace_names()
            assert not any(name.startswith(killed_name + "-") for name in names)
            assert any(name.startswith(alive_name + "-") for name in names)
        assert not (labs.SCRATCH_ROOT / killed_name).exists()
        assert (labs.SCRATCH_ROOT / alive_name).exists()
        assert labs.process_start(orphan) is None
        alive.terminate()
        alive.wait(20)


def test_two_labs_that_start_at_once_share_the_sweeping() -> None:
    killed, name, _ = start_other_run()
    with killed:
        killed.kill()
        killed.wait(20)
    stale = [found for found in labs.namespace_names() if found.startswith(name + "-")]
    assert len(stale) == len(labs.HOSTS)
    labs.remove_namespaces(stale)
    labs.remove_namespaces(stale)
    # Of other runs on this machine it may find more.
    found = labs.remove_leftovers()
    assert found.count(name) == 1
    assert not set(stale) & set(found)


def test_a_failing_command_says_what_failed() -> None:
    with pytest.raises(GuestError, match="netns del no-such-lab"):
        labs.run_ip(["netns", "del", "no-such-lab"])


def test_without_root_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ConfigError, match="need root"):
        labs.require_abilities()


def test_names_of_other_programs_are_never_leftovers() -> None:
    assert not labs.is_leftover("my-vpn")
    assert not labs.is_leftover("replicator-notes")
    assert labs.is_leftover("replicator-1-999999999999-0-host-a")
    assert not labs.is_leftover(f"replicator-{os.getpid()}-{labs.process_start(os.getpid())}-0-host-a")


def test_only_hosts_with_a_guest_have_a_tap() -> None:
    assert GUEST == "guest"
    lab = Lab()
    assert lab.tap_name(HOST_A) == "tap0"
    with pytest.raises(Exception, match="client has no TAP"):
        lab.tap_name(CLIENT)
