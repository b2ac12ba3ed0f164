"""UDP, ICMP, ARP, IPv6, VLANs, fragments, unknown protocols; bounds; counters."""

from __future__ import annotations

import pytest
from compare_frames import (
    FIN,
    RST,
    SYN_OPTIONS,
    Ends,
    arp_frame,
    echo_reply,
    ethernet,
    ip_frame,
    tcp_frame,
    udp_frame,
)
from compare_stand import ENDS, FIRST, Stand, Talker

from replicator.engine.compare.events import PrimarySaid, SecondarySaid
from replicator.engine.compare.machine import CompareSettings
from replicator.engine.compare.packet import Kind

V6 = Ends("fd00::1", 53, "fd00::2", 999)


@pytest.mark.parametrize(
    "ends", [ENDS, V6, Ends(vlans=(5,)), Ends("fd00::1", target="fd00::2", vlans=(9, 8))]
)
def test_equal_datagrams_leave_in_their_order(ends: Ends) -> None:
    stand = Stand()
    first, second = (
        stand.primary(udp_frame(ends, b"one", ident=1)),
        stand.primary(udp_frame(ends, b"two", ident=2)),
    )
    stand.secondary(udp_frame(ends, b"one", ident=7))
    assert stand.released == [first]
    stand.secondary(udp_frame(ends, b"two", ident=8))
    assert stand.released == [first, second]
    assert stand.machine.status().kinds[Kind.UDP].matched == 2


@pytest.mark.parametrize("other", [b"twO", b"two more", b""])
def test_another_datagram_differs(other: bytes) -> None:
    stand = Stand()
    number = stand.both(udp_frame(ENDS, b"two"), udp_frame(ENDS, other))
    assert stand.reasons() == ["differs"]
    stand.commit()
    assert stand.released == [number]


def test_empty_datagrams_are_the_same() -> None:
    stand = Stand()
    assert stand.released == [stand.both(udp_frame(ENDS, b""))]


def test_a_datagram_of_one_side_is_waited_for() -> None:
    stand = Stand()
    stand.primary(udp_frame(ENDS, b"alone"))
    stand.wait(501)
    assert stand.reasons() == ["timeout"]


def test_echo_replies_are_compared_by_identifier() -> None:
    stand = Stand()
    first, second = stand.primary(echo_reply(ENDS, 1, 1)), stand.primary(echo_reply(ENDS, 2, 1))
    stand.secondary(echo_reply(ENDS, 2, 1))
    assert stand.released == [second]
    stand.secondary(echo_reply(ENDS, 1, 2))
    assert stand.reasons() == ["differs"]
    stand.commit()
    assert stand.released == [second, first]


def test_arp_leaves_when_the_inputs_are_logged() -> None:
    stand = Stand(confirms=False)
    stand.input(arp_frame(1))
    number = stand.primary(arp_frame())
    stand.secondary(arp_frame())
    assert stand.released == []
    stand.log_inputs()
    assert stand.released == [number]


@pytest.mark.parametrize("kind", [133, 135, 136, 143])
def test_discovery_is_upkeep(kind: int) -> None:
    stand = Stand()
    number = stand.primary(ip_frame(V6, 58, bytes((kind, 0)) + bytes(22)))
    assert stand.released == [number]
    stand.secondary(ip_frame(V6, 58, bytes((kind, 0)) + bytes(22)))
    stand.wait(1000)
    assert stand.asked == []


def test_an_echo_over_ipv6_is_no_upkeep() -> None:
    stand = Stand()
    number = stand.primary(ip_frame(V6, 58, bytes((129, 0, 1, 2, 0, 7, 0, 1))))
    assert stand.released == []
    stand.secondary(ip_frame(V6, 58, bytes((129, 0, 3, 4, 0, 7, 0, 1))))
    assert stand.released == [number]


def test_fragments_are_compared_as_they_are() -> None:
    stand = Stand()
    numbers = [
        stand.both(
            ip_frame(ENDS, 17, body, ident=1, fragment=fragment),
            ip_frame(ENDS, 17, body, ident=9, fragment=fragment),
        )
        for body, fragment in ((b"a" * 32, 0x2000), (b"b" * 8, 0x0004))
    ]
    assert stand.released == numbers
    stand.both(ip_frame(ENDS, 17, b"c" * 8, fragment=0x2000), ip_frame(ENDS, 17, b"c" * 8, fragment=0x2001))
    assert stand.reasons() == ["differs"]


def test_fragments_of_ipv6_leave_out_the_identification() -> None:
    stand = Stand()
    number = stand.both(
        ip_frame(V6, 44, bytes((17, 0, 0, 1)) + b"id01" + b"data"),
        ip_frame(V6, 44, bytes((17, 0, 0, 1)) + b"id02" + b"data"),
    )
    assert stand.released == [number]


def test_tcp_behind_extension_headers_is_a_stream() -> None:
    ends = Ends("fd00::1", 80, "fd00::2", 999)
    plain = tcp_frame(ends, 1, ack=1, data=b"abcd")
    hops = bytes((6, 0)) + bytes(6)
    stand = Stand()
    number = stand.primary(ip_frame(ends, 0, hops + plain[54:]))
    stand.secondary(tcp_frame(ends, 1, ack=1, data=b"ab"))
    assert stand.released == []
    stand.secondary(tcp_frame(ends, 3, ack=1, data=b"cd"))
    assert stand.released == [number]


def test_unknown_protocols_must_be_equal() -> None:
    stand = Stand()
    assert stand.both(ethernet(0x88B5, b"lab")) == stand.released[-1]
    assert stand.both(ip_frame(ENDS, 132, b"sctp")) == stand.released[-1]
    stand.both(ethernet(0x88B5, b"lab"), ethernet(0x88B5, b"bal"))
    assert stand.reasons() == ["differs"]


def test_the_padding_of_a_frame_says_nothing() -> None:
    stand = Stand()
    frame = tcp_frame(ENDS, 1, ack=1, data=b"x")
    assert stand.both(frame, frame[:-1] + b"\xff") == stand.released[-1]


def test_nics_are_kept_apart() -> None:
    stand = Stand()
    frame = udp_frame(ENDS, b"x")
    assert stand.machine.handle(PrimarySaid(FIRST, 1, 0, frame), 0) == []
    assert stand.machine.handle(SecondarySaid(FIRST, 1, frame), 0) == []


def test_too_many_connections_ask() -> None:
    stand = Stand(settings=CompareSettings(connections_max=4))
    for port in range(1, 5):
        stand.primary(Talker(ends=Ends(target_port=port)).says(0, b"x"))
    assert stand.asked == []
    number = stand.primary(Talker(ends=Ends(target_port=5)).says(0, b"x"))
    assert stand.reasons() == ["buffer"]
    stand.commit()
    assert stand.released[-1] == number


def test_quiet_connections_make_room() -> None:
    stand = Stand(settings=CompareSettings(connections_max=4))
    for port in range(1, 100):
        assert stand.both(Talker(ends=Ends(target_port=port)).says(0, b"x")) == stand.released[-1]
    assert stand.asked == []
    assert stand.machine.status().connections <= 4


def test_shifted_connections_do_not_make_room_before_they_close() -> None:
    stand = Stand(settings=CompareSettings(connections_max=2))
    for port in (1, 2):
        ends = Ends(target_port=port)
        stand.both(Talker(1, ends=ends).syn_ack(), Talker(2, ends=ends).syn_ack())
    stand.both(Talker(ends=Ends(target_port=3)).says(0, b"x"))
    assert stand.reasons() == ["buffer"]
    stand.commit()
    assert stand.both(Talker(ends=Ends(target_port=3)).says(0, b"y")) == stand.released[-1]


@pytest.mark.parametrize("how", ["reset by the peer", "reset by the guest", "ended"])
def test_closed_connections_make_room_though_shifted(how: str) -> None:
    stand = Stand(settings=CompareSettings(connections_max=2))
    for port in range(1, 9):
        ends = Ends(target_port=port)
        mine, others = Talker(1, ends=ends), Talker(2, ends=ends)
        stand.both(mine.syn_ack(), others.syn_ack())
        if how == "reset by the guest":
            stand.both(mine.resets(), others.resets())
        elif how == "ended":
            stand.both(mine.says(0, fin=True), others.says(0, fin=True))
        stand.input(tcp_frame(ends.flipped(), 7001, ack=2, flags=FIN if how == "ended" else RST))
    assert stand.asked == []


def test_too_many_bytes_ask_and_then_get_lost() -> None:
    stand = Stand(settings=CompareSettings(bytes_max=20_000))
    talker = Talker()
    numbers = [stand.primary(talker.says(place, bytes(1000))) for place in range(0, 40_000, 1000)]
    assert stand.reasons() == ["buffer"]
    assert stand.dropped
    status = stand.machine.status()
    assert status.held_bytes + status.kept_bytes <= 40_000
    assert status.kinds[Kind.TCP].lost == len(stand.dropped)
    stand.commit()
    assert sorted(stand.released + stand.dropped) == numbers
    # The sides go on behind all that was said, lost or not.
    assert stand.both(talker.says(40_000, b"next")) == stand.released[-1]


def test_the_secondary_cannot_fill_the_memory_either() -> None:
    stand = Stand(settings=CompareSettings(bytes_max=20_000))
    for place in range(0, 100_000, 1000):
        stand.secondary(Talker().says(place, bytes(1000)))
    assert stand.reasons() == ["buffer"]
    assert stand.machine.status().kept_bytes <= 21_000
    assert stand.machine.status().ignored_frames > 70


def test_one_side_of_one_connection_is_bounded() -> None:
    stand = Stand()
    for place in range(0, 6 << 20, 60_000):
        stand.secondary(Talker().says(place, bytes(60_000)))
    assert stand.reasons() == ["buffer"]


def test_datagrams_are_bounded() -> None:
    stand = Stand()
    for _ in range(1100):
        stand.primary(udp_frame(ENDS, b""))
    assert stand.reasons() == ["buffer"]
    stand.commit()
    assert len(stand.released) == 1100


def test_what_comes_too_early_is_bounded() -> None:
    stand = Stand(settings=CompareSettings(bytes_max=20_000))
    for place in range(0, 100_000, 1000):
        stand.secondary(Talker().says(place, bytes(1000)), epoch=FIRST + 1)
    assert stand.asked == []
    stand.commit()
    assert [(one.epoch, one.reason.value) for one in stand.asked] == [(FIRST + 1, "buffer")]


def test_status_counts_by_protocol_and_reason() -> None:
    stand = Stand()
    stand.both(udp_frame(ENDS, b"x"))
    stand.both(Talker().says(0, b"a"))
    stand.both(Talker().says(1, b"a"), Talker().says(1, b"b"))
    stand.commit()
    kinds = stand.machine.status().kinds
    assert kinds[Kind.UDP].hit_rate == 1.0
    assert kinds[Kind.TCP].hit_rate == 0.5
    assert {reason.value: n for reason, n in kinds[Kind.TCP].asked.items()} == {"differs": 1}
    assert kinds[Kind.ICMP].hit_rate is None


def test_a_faulty_comparer_asks_and_is_named() -> None:
    stand = Stand("compare_faulty:Raises")
    number = stand.both(Talker().says(0, b"a"))
    assert stand.reasons() == ["comparer"]
    stand.commit()
    assert stand.released == [number]
    assert "RuntimeError" in stand.machine.status().comparer.last_fault


def test_a_comparer_that_waits_for_ever_runs_into_the_bound() -> None:
    stand = Stand("compare_faulty:Waits")
    stand.both(Talker().says(0, b"a"))
    stand.wait(501)
    assert stand.reasons() == ["timeout"]


def test_a_comparer_that_waits_with_all_it_may_see_asks() -> None:
    stand = Stand("compare_faulty:Waits")
    for place in range(0, 70_000, 10_000):
        stand.both(Talker().says(place, bytes(10_000)))
    assert stand.reasons() == ["buffer"]


def test_http_goes_on_after_a_checkpoint() -> None:
    stand = Stand("http")
    stand.both(Talker().syn_ack(options=SYN_OPTIONS))

    def answer(second: int, body: bytes) -> bytes:
        return b"HTTP/1.1 200 OK\r\nDate: 10:00:%02d\r\nContent-Length: 2\r\n\r\n%s" % (second, body)

    size = len(answer(1, b"ab"))
    assert (
        stand.both(Talker().says(0, answer(1, b"ab")), Talker().says(0, answer(2, b"ab")))
        == stand.released[-1]
    )
    # The difference is in the body; a part of the next response leaves with the checkpoint too.
    stand.both(Talker().says(size, answer(1, b"ab") + b"HTTP/1.1 2"), Talker().says(size, answer(1, b"ax")))
    assert stand.reasons() == ["differs"]
    stand.commit()
    rest, place = answer(5, b"cd")[10:], 2 * size + 10
    assert (
        stand.both(Talker().says(place, rest), Talker().says(place, answer(6, b"cd")[10:]))
        == stand.released[-1]
    )
    assert stand.machine.status().comparer.ignored_bytes == 2
