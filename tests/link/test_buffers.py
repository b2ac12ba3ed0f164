"""Buffers are used again once nobody holds them, and not before."""

from __future__ import annotations

import gc
import weakref

import zmq

from replicator.link.buffers import KEPT_MAX, BufferPool

SIZE = 200_000
MESSAGES = 200


def place_of(view: memoryview) -> int:
    """What tells two buffers apart."""
    return id(view.obj)


def test_a_buffer_is_free_when_its_view_is_gone() -> None:
    pool = BufferPool(SIZE)
    view = pool.take(SIZE)
    other = pool.take(10)
    assert (len(view), len(other)) == (SIZE, 10)
    assert place_of(view) != place_of(other)
    first = place_of(view)
    del view
    again = pool.take(20)
    assert place_of(again) == first
    again[:] = b"x" * 20
    assert other != again[:10]


def test_few_are_kept() -> None:
    pool = BufferPool(SIZE)
    views = [pool.take(1) for _ in range(KEPT_MAX * 3)]
    buffers = [weakref.ref(view.obj) for view in views]
    views.clear()
    gc.collect()
    assert sum(buffer() is not None for buffer in buffers) == KEPT_MAX


def test_what_is_sent_is_not_overwritten_on_its_way() -> None:
    """The receiver reads late, so that buffers wait in the socket, and sees what was put into them."""
    pool = BufferPool(SIZE)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    used = set()
    with context.socket(zmq.PUSH) as push, context.socket(zmq.PULL) as pull:
        for one in (push, pull):
            one.set(zmq.SNDHWM, 4)
            one.set(zmq.RCVHWM, 4)
        port = pull.bind_to_random_port("tcp://127.0.0.1")
        push.connect(f"tcp://127.0.0.1:{port}")
        sent = received = 0
        for number in range(MESSAGES):
            view = pool.take(SIZE)
            used.add(place_of(view))
            view[:] = bytes([number]) * SIZE
            while received < sent and not push.poll(0, zmq.POLLOUT):
                assert pull.recv() == bytes([received]) * SIZE
                received += 1
            push.send(view, copy=False)
            del view
            sent += 1
        while received < sent:
            assert pull.recv() == bytes([received]) * SIZE
            received += 1
    context.term()
    assert len(used) < sent / 2, "nothing was used again"
