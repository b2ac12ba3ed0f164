"""The relay in memory: the rules of a checkpoint over any history, and several NICs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from output_tools import frame_in, frame_out, number_of

from replicator.compare import load_comparer
from replicator.deadline import SharedDeadline
from replicator.engine.output import Frame, InputLog, OutputMode
from replicator.output.base import OutputPort, RelayCallbacks
from replicator.output.colo_memory import MemoryColoOutput, MemorySecondary
from replicator.output.colo_relay import ColoRelay
from replicator.output.memory import GUEST_QUEUE_FRAMES, MemoryOutput, MemoryPort
from replicator.output.native_relay import NativeRelay
from replicator.output.relay import Relay
from replicator.output.secondary_relay import SecondaryRelay
from replicator.units import Epoch

Kind = Callable[..., MemoryOutput]


def without_secondary(ports: Sequence[MemoryPort], **options: Any) -> MemoryOutput:
    return MemoryColoOutput(ports, load_comparer().guarded(lambda: 0), **options)


KINDS = pytest.mark.parametrize("kind", [MemoryOutput, without_secondary], ids=["plain", "colo"])


def started(
    kind: Kind, *, mode: OutputMode = OutputMode.HOLD, **options: object
) -> tuple[MemoryOutput, MemoryPort]:
    port = MemoryPort()
    output = kind([port], mode=mode, **options)
    output.start()
    return output, port


def test_all_relays_are_output_ports() -> None:
    kinds: list[type[OutputPort]] = [MemoryOutput, Relay, NativeRelay, ColoRelay, SecondaryRelay]
    kinds += [MemoryColoOutput, MemorySecondary]
    wanted = {name for name in vars(OutputPort) if not name.startswith("_")}
    assert all(wanted <= set(dir(kind)) for kind in kinds)


@KINDS
def test_release_and_mute(kind: Kind) -> None:
    now = [100]
    deadline = SharedDeadline(50)
    output, port = started(kind, deadline=deadline, clock=lambda: now[0])
    output.guest_sends(frame_out(1))
    output.hold_input()
    output.drain_and_mark(Epoch(1))
    output.resume_input()
    now[0] = 130
    output.release(Epoch(1))
    assert (port.left, output.stats().muted, output.stats().oldest_held_age_ns) == ([], True, 30)
    deadline.deadline_ns = 131
    output.pump()
    assert [number_of(data) for data in port.left] == [1]
    assert not output.stats().muted


@KINDS
def test_the_oldest_unread_frame_of_any_nic_bounds_the_checkpoint(kind: Kind) -> None:
    ports = [MemoryPort("52:54:00:00:00:01"), MemoryPort("52:54:00:00:00:02")]
    output = kind(ports)
    output.start()
    output.network_sends(frame_in(1), 0)
    output.network_sends(frame_in(2), 1)
    output.network_sends(frame_in(3), 0)
    output.guest_reads(0)
    output.hold_input()
    assert output.quiesce_input(0.0) == 1
    assert output.drain_and_mark(Epoch(1)).input_seq == 1


@KINDS
def test_the_mark_takes_what_lies_in_the_socket_at_the_stop(kind: Kind) -> None:
    output, port = started(kind)
    output.hold_input()
    port.from_guest.extend(frame_out(number) for number in range(100))
    assert output.drain_and_mark(Epoch(1)).held_frames == 100


@KINDS
def test_output_of_two_nics_leaves_on_its_own_side_in_order(kind: Kind) -> None:
    ports = [MemoryPort("52:54:00:00:00:01"), MemoryPort("52:54:00:00:00:02")]
    output = kind(ports, mode=OutputMode.HOLD)
    output.start()
    for number in range(6):
        output.guest_sends(frame_out(number), number % 2)
    output.hold_input()
    output.drain_and_mark(Epoch(1))
    output.release(Epoch(1))
    assert [[number_of(data) for data in port.left] for port in ports] == [[0, 2, 4], [1, 3, 5]]


def test_mirrored_frames_survive_packing() -> None:
    frame = Frame(3, frame_in(7))
    assert Frame.unpack(memoryview(frame.pack())) == frame


steps = st.lists(
    st.one_of(
        st.tuples(st.just("network"), st.integers(1, 15)),
        st.tuples(st.just("read"), st.integers(1, 12)),
        st.tuples(st.just("checkpoint"), st.integers(0, 6)),
    ),
    max_size=40,
)


@KINDS
@given(steps)
def test_no_input_is_lost_by_any_checkpoint_and_take_over(kind: Kind, history: list[tuple[str, int]]) -> None:
    """After any history: what the checkpoint contains plus what the log replays is every frame that came.

    A checkpoint throws away up to so many frames that the guest's side had read around the stop, as a hypervisor
    may; the running guest must still get each frame at least once, too."""
    log = InputLog()
    callbacks = RelayCallbacks(on_input=lambda first, frames: log.append(first, frames))
    output, port = started(kind, callbacks=callbacks)
    had: list[int] = []
    sent = epoch = 0

    def read(count: int) -> list[int]:
        taken = [number_of(port.unread.popleft()) for _ in range(min(count, len(port.unread)))]
        output.pump()
        return taken

    for step, count in history:
        if step == "network":
            for _ in range(count):
                sent += 1
                output.network_sends(frame_in(sent))
        elif step == "read":
            had += read(count)
        else:
            epoch += 1
            output.hold_input()
            output.quiesce_input(0.0)
            read(count)
            mark = output.drain_and_mark(Epoch(epoch))
            output.network_sends(frame_in(sent := sent + 1))
            output.resume_input()
            log.trim(mark.input_seq)
            replay = log.after(mark.input_seq)
            assert replay.missing == 0
            assert set(range(1, mark.input_seq + 1)) <= set(had)
            assert [number_of(frame.data) for frame in replay.frames] == list(
                range(mark.input_seq + 1, sent + 1)
            )
        assert len(port.unread) <= GUEST_QUEUE_FRAMES
    while port.unread:
        had += read(GUEST_QUEUE_FRAMES)
    assert set(had) == set(range(1, sent + 1))
