"""The README's quick start with a real etcd: whatever dies or is cut off, one guest speaks and its client goes on."""

from __future__ import annotations

import json
import time

import pytest
from quick_start import TwoHosts, child_of, two_hosts, vcpu_runtime_ns, wait_until

from replicator.demo.lab import ARBITER, HOST_A, HOST_B, REPLICATION
from replicator.drill.stand.voice import GuestVoice
from replicator.units import NS_PER_S

pytestmark = pytest.mark.live

MAC = "52:54:00:77:65:62"
#: The README's ttl_ms = 2000, and what the README says to expect of it.
TTL_S = 2.0
TAKE_OVER_MAX_S = 3.0
#: The guest's timers fire more often than this.
PAUSE_LOOK_S = 0.2


def test_an_etcd_outage_and_power_offs() -> None:
    with two_hosts() as hosts, GuestVoice(hosts.lab, MAC) as voice:
        protect(hosts)
        see_status(hosts)
        lose_etcd_for_a_while(hosts, voice)
        lose_the_primary(hosts, voice)
        lose_the_primary_while_there_is_no_etcd(hosts, voice)
        check_all_was_well(hosts, voice, HOST_A, HOST_B, HOST_A)


def test_cut_links() -> None:
    with two_hosts() as hosts, GuestVoice(hosts.lab, MAC) as voice:
        protect(hosts)
        cut_the_replication_link(hosts, voice)
        isolate_the_primary(hosts, voice)
        check_all_was_well(hosts, voice, HOST_A, HOST_B)


def protect(hosts: TwoHosts) -> None:
    hosts.start_etcd()
    hosts.start_daemon(HOST_B, "secondary")
    hosts.start_daemon(HOST_A, "primary")
    hosts.start_client()
    wait_protected(hosts, HOST_A, HOST_B)


def wait_protected(hosts: TwoHosts, primary: str, secondary: str) -> None:
    hosts.wait_state(primary, "protected")
    hosts.wait_state(secondary, "standby at epoch")
    hosts.client_goes_on()


def check_all_was_well(hosts: TwoHosts, voice: GuestVoice, *speakers: str) -> None:
    """The client's connections kept every promise; nobody spoke but these, one after the other."""
    report = hosts.stop_client()
    assert report.kept, report
    assert voice.speakers() == list(speakers)
    assert voice.lost() == 0


def see_status(hosts: TwoHosts) -> None:
    command = hosts.command("replicator status").replace(" --watch", "")
    assert "protected" in hosts.run(HOST_A, command)
    standby = json.loads(hosts.run(HOST_B, command.replace("status", "status --json")))
    assert (standby["role"], standby["guest"]) == ("secondary", "web")


def lose_etcd_for_a_while(hosts: TwoHosts, voice: GuestVoice) -> None:
    qemu = child_of(hosts.daemons[HOST_A].pid)
    hosts.kill_etcd()
    frozen_ns = hosts.wait_state(HOST_A, "frozen")
    wait_until("the guest is paused", lambda: is_paused(qemu))
    hosts.stay(HOST_B, "standby at epoch", TTL_S)
    assert voice.words(frozen_ns) == []
    hosts.start_etcd()
    wait_protected(hosts, HOST_A, HOST_B)


def lose_the_primary(hosts: TwoHosts, voice: GuestVoice) -> None:
    off_ns = hosts.power_off(HOST_A)
    hosts.wait_state(HOST_B, "active-alone")
    hosts.client_goes_on()
    took_s = (voice.words(off_ns)[0].at_ns - off_ns) / NS_PER_S
    print(f"host-b spoke {took_s:.2f} s after the death of host-a")
    assert took_s < TAKE_OVER_MAX_S
    hosts.start_daemon(HOST_A, "secondary")
    wait_protected(hosts, HOST_B, HOST_A)


def lose_the_primary_while_there_is_no_etcd(hosts: TwoHosts, voice: GuestVoice) -> None:
    hosts.kill_etcd()
    off_ns = hosts.power_off(HOST_B)
    hosts.wait_state(HOST_A, "asking for the guest")
    hosts.stay(HOST_A, "asking for the guest", TTL_S)
    assert voice.words(off_ns) == []
    hosts.start_etcd()
    hosts.wait_state(HOST_A, "active-alone")
    hosts.client_goes_on()


def cut_the_replication_link(hosts: TwoHosts, voice: GuestVoice) -> None:
    hosts.lab.cut_link(REPLICATION)
    hosts.wait_state(HOST_A, "active-alone")
    hosts.wait_state(HOST_B, "standby, not promotable")
    hosts.client_goes_on()
    hosts.stay(HOST_B, "standby, not promotable", TTL_S)
    assert hosts.state(HOST_A) == "active-alone"
    assert voice.speakers() == [HOST_A]
    hosts.lab.restore_link(REPLICATION)
    wait_protected(hosts, HOST_A, HOST_B)


def isolate_the_primary(hosts: TwoHosts, voice: GuestVoice) -> None:
    qemu = child_of(hosts.daemons[HOST_A].pid)
    hosts.lab.cut_link(f"{HOST_A}/{REPLICATION}")
    hosts.lab.cut_link(f"{HOST_A}/{ARBITER}")
    frozen_ns = hosts.wait_state(HOST_A, "frozen")
    wait_until("the guest is paused", lambda: is_paused(qemu))
    spent_ns = vcpu_runtime_ns(qemu)
    hosts.wait_state(HOST_B, "active-alone")
    hosts.client_goes_on()
    assert vcpu_runtime_ns(qemu) == spent_ns
    assert {word.host for word in voice.words(frozen_ns)} == {HOST_B}
    hosts.lab.restore_link(f"{HOST_A}/{REPLICATION}")
    hosts.lab.restore_link(f"{HOST_A}/{ARBITER}")
    hosts.wait_state(HOST_A, "exit code 7")
    assert "ended: fenced" in hosts.log(HOST_A).read_text()
    hosts.start_daemon(HOST_A, "secondary")
    wait_protected(hosts, HOST_B, HOST_A)


def is_paused(qemu: int) -> bool:
    """Whether its vCPU spends no time at all."""
    before = vcpu_runtime_ns(qemu)
    time.sleep(PAUSE_LOOK_S)
    return vcpu_runtime_ns(qemu) == before
