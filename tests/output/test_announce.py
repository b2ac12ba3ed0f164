"""Announcements, checked by the kernel's own neighbour tables, and the passive learner."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from output_tools import CLIENT_MAC, GUEST_MAC, wait_until

from replicator.errors import ConfigError
from replicator.output import announce
from replicator.output.announce import AddressBook, NicAddresses, build_announcement
from replicator.output.tap import Tap

MAC = "52:54:00:00:00:01"
V4 = IPv4Address("10.9.0.2")
V6 = IPv6Address("fd09::2")


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def test_the_kernel_believes_a_gratuitous_arp(tap: Tap) -> None:
    ip("addr", "add", "10.9.0.1/24", "dev", tap.name)
    for build in (announce.build_arp_request, announce.build_arp_reply):
        ip("neigh", "replace", str(V4), "lladdr", "02:00:00:00:00:99", "nud", "stale", "dev", tap.name)
        # Linux ignores changes within a second of the last one, and shorter with this at 0.
        Path(f"/proc/sys/net/ipv4/neigh/{tap.name}/locktime").write_text("0")
        tap.write_frame(build(GUEST_MAC, V4))
        wait_until(lambda: MAC in ip("neigh", "show", str(V4)))


def test_the_kernel_believes_an_unsolicited_advertisement(tap: Tap) -> None:
    Path(f"/proc/sys/net/ipv6/conf/{tap.name}/disable_ipv6").write_text("0")
    ip("addr", "add", "fd09::1/64", "dev", tap.name, "nodad")
    ip("neigh", "replace", str(V6), "lladdr", "02:00:00:00:00:99", "nud", "stale", "dev", tap.name)
    tap.write_frame(announce.build_advertisement(GUEST_MAC, V6))
    wait_until(lambda: MAC in ip("-6", "neigh", "show", str(V6)))


def test_a_bridge_learns_the_port_from_an_announcement_without_addresses(tap: Tap) -> None:
    ip("link", "add", "br1", "type", "bridge")
    try:
        ip("link", "set", tap.name, "master", "br1")
        ip("link", "set", "br1", "up")
        (rarp,) = build_announcement(NicAddresses(MAC))

        def learned() -> bool:
            tap.write_frame(rarp)
            shown = subprocess.run(
                ["bridge", "fdb", "show"], check=True, capture_output=True, text=True
            ).stdout
            return f"{MAC} dev {tap.name}" in shown

        wait_until(learned)
    finally:
        ip("link", "del", "br1")


def test_every_announcement_is_a_whole_frame_from_the_guest() -> None:
    frames = build_announcement(NicAddresses(MAC, (V4,), (V6,)))
    assert len(frames) == 4
    assert all(len(frame) >= 60 and frame[6:12] == GUEST_MAC for frame in frames)


@pytest.mark.parametrize(
    "text", ["", "52:54", "52:54:00:00:00:zz", "ff:ff:ff:ff:ff:ff", "52:54:00:00:00:1ff"]
)
def test_what_is_no_mac_of_a_nic_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        announce.parse_mac(text)


def ipv4(source: str, target: str, *, from_guest: bool = True) -> bytes:
    macs = CLIENT_MAC + GUEST_MAC if from_guest else GUEST_MAC + CLIENT_MAC
    header = bytes(12) + IPv4Address(source).packed + IPv4Address(target).packed
    return (macs + announce.ETHERTYPE_IPV4 + header).ljust(60, b"\0")


def ipv6(source: str, target: str) -> bytes:
    header = bytes(6) + b"\x06\x40" + IPv6Address(source).packed + IPv6Address(target).packed
    return (CLIENT_MAC + GUEST_MAC + announce.ETHERTYPE_IPV6 + header).ljust(60, b"\0")


def test_learns_from_its_own_announcements() -> None:
    book = AddressBook(MAC)
    for frame in build_announcement(NicAddresses(MAC, (V4,), (V6,))):
        book.learn_output(frame)
    assert book.known() == NicAddresses(MAC, (V4,), (V6,))


def test_learns_from_ip_traffic_of_either_direction() -> None:
    book = AddressBook(MAC)
    book.learn_output(ipv4("10.9.0.2", "10.9.0.1"))
    book.learn_output(ipv6("fd09::2", "fd09::1"))
    assert book.known() == NicAddresses(MAC, (V4,), (V6,))
    other = AddressBook(MAC)
    other.learn_input(ipv4("10.9.0.1", "10.9.0.2", from_guest=False))
    assert other.known().ipv4 == (V4,)


def test_a_certain_address_beats_likely_ones() -> None:
    book = AddressBook(MAC)
    book.learn_output(ipv4("192.0.2.7", "10.9.0.1"))
    book.learn_output(announce.build_arp_request(GUEST_MAC, V4))
    assert book.known().ipv4 == (V4,)


def test_a_router_does_not_make_us_announce_what_it_forwards() -> None:
    book = AddressBook(MAC)
    for number in range(20):
        book.learn_output(ipv4(f"192.0.2.{number}", "10.9.0.1"))
    assert book.known().ipv4 == ()


def test_probes_groups_and_others_frames_teach_nothing() -> None:
    book = AddressBook(MAC)
    book.learn_output(announce.build_arp_request(GUEST_MAC, IPv4Address(0)))
    book.learn_output(announce.build_arp_request(CLIENT_MAC, V4))
    book.learn_output(ipv4("0.0.0.0", "255.255.255.255"))
    book.learn_output(ipv6("::", "ff02::1"))
    book.learn_input(ipv4("10.9.0.1", "224.0.0.1", from_guest=False))
    book.learn_input(announce.build_arp_request(CLIENT_MAC, V4))
    assert book.known() == NicAddresses(MAC)


KINDS = [announce.ETHERTYPE_IPV4, announce.ETHERTYPE_IPV6, announce.ETHERTYPE_ARP]


@given(st.sampled_from(KINDS), st.binary(max_size=90), st.booleans())
def test_any_bytes_are_survived(kind: bytes, body: bytes, cut: bool) -> None:
    book = AddressBook(MAC)
    frame = GUEST_MAC + GUEST_MAC + kind + body
    book.learn_output(frame[: len(body)] if cut else frame)
    book.learn_input(frame)
    build_announcement(book.known())


def test_a_frame_that_ends_within_an_address_teaches_none() -> None:
    book = AddressBook(MAC)
    whole = announce.build_advertisement(announce.parse_mac(MAC), IPv6Address("fe80::5"))
    for size in (26, 66):
        book.learn_output(whole[:size])
    assert (book.known().ipv4, [str(one) for one in book.known().ipv6]) == ((), ["fe80::5"])
