"""Heartbeats on sockets and a thread of their own, so that a busy epoch loop does not look like a dead host.

The thread listens (ROUTER) and, while connected, dials its peer (DEALER). Every interval it sends a beat to the peer
that it dialled and to those whose beats came in of late. Only arriving beats count as life; a TCP connection does
not. What a beat says about the epoch loop is the caller's to judge: `local` is asked at each beat and should be as
old as the loop's last step.

Silence is reported once for each spell: `interval * misses` after the last beat, or after `connect` if none ever
came. A side that nobody beat to and that is not connected waits for nobody and reports nothing. What waits in
the sockets is read before silence is judged, and when this thread itself was held up (a frozen process, a starved
CPU) the peer gets one interval more: our own absence is no proof of the peer's.

Callbacks run on this thread: they must be quick and hand over, e.g. with `loop.call_soon_threadsafe`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import zmq

from replicator import urgency
from replicator.errors import ConfigError, TransportError, require
from replicator.link.base import BadMessage, LinkConfig, PeerAddress, PeerRefused, unpack
from replicator.link.sockets import (
    RECONNECT_MS,
    Gatekeeper,
    Socket,
    bound_port,
    dial,
    endpoint_of,
    listen,
    make_context,
)
from replicator.units import NS_PER_MS
from replicator.wire.session import Channel, Heartbeat, encode

#: Connections that get our beats at most.
LISTENERS_MAX: Final = 8
#: Messages read from a socket before it is looked whether a beat is due: more than come in while this side is frozen
#: for a minute, and few enough that a flood holds up no beat of ours.
TURN_MESSAGES_MAX: Final = 512
_WAKE_ENDPOINT: Final = "inproc://wake"


@dataclass(frozen=True, slots=True)
class HeartbeatCallbacks:
    #: What the next beat says; its `seq` does not matter.
    local: Callable[[], Heartbeat]
    #: The last beat of the peer, if there was one, and how many nanoseconds it has been silent.
    on_silent: Callable[[Heartbeat | None, int], None]
    on_alive: Callable[[Heartbeat], None]
    on_refused: Callable[[PeerRefused | BadMessage], None] = lambda _: None
    #: Whether a beat is a sign of life of the one who is waited for, and not only of the host.
    counts: Callable[[Heartbeat], bool] = lambda _: True


class SilenceWatch:
    """Pure: when the peer was last heard and whether that is too long ago."""

    def __init__(self, interval_ns: int, misses: int) -> None:
        self._interval_ns = interval_ns
        self.limit_ns = interval_ns * misses
        #: None: nobody is expected.
        self._heard_ns: int | None = None
        self._checked_ns: int | None = None
        self._reported = False

    def expect(self, now_ns: int) -> None:
        """From now on silence counts."""
        self._heard_ns = self._checked_ns = now_ns
        self._reported = False

    def hear(self, now_ns: int) -> None:
        self._heard_ns = now_ns
        self._reported = False

    def forget(self) -> None:
        self._heard_ns = None

    def silent_ns(self, now_ns: int) -> int:
        return 0 if self._heard_ns is None else now_ns - self._heard_ns

    def check(self, now_ns: int) -> bool:
        """Whether a silence is to be reported now. Call at least once an interval, after reading all beats."""
        held_up = self._checked_ns is not None and now_ns - self._checked_ns > 2 * self._interval_ns
        self._checked_ns = now_ns
        if self._heard_ns is None or self._reported:
            return False
        if held_up:
            self._heard_ns = max(self._heard_ns, now_ns - self.limit_ns + self._interval_ns)
        self._reported = now_ns - self._heard_ns >= self.limit_ns
        return self._reported


class HeartbeatThread:
    """Beats both ways. What others may call (`start`, `connect`, `disconnect`, `expect_peer`, `forget_peer`, `stop`) may
    be called from any thread."""

    def __init__(
        self,
        config: LinkConfig,
        *,
        interval_ms: int,
        misses: int,
        callbacks: HeartbeatCallbacks,
    ) -> None:
        if interval_ms < 1 or misses < 2:
            raise ConfigError(
                f"heartbeats every {interval_ms} ms with {misses} misses: at least 1 ms and 2 misses"
            )
        self._config = config
        self._interval_ns = interval_ms * NS_PER_MS
        self._local = callbacks.local
        self._on_silent = callbacks.on_silent
        self._on_alive = callbacks.on_alive
        self._on_refused = callbacks.on_refused
        self._counts = callbacks.counts
        self._watch = SilenceWatch(self._interval_ns, misses)
        #: Newest beat of the peer; None before the first and after connect.
        self._last: Heartbeat | None = None
        self._seq = 0
        self._listeners: dict[bytes, int] = {}
        self._dialled: Socket | None = None
        self._peer: PeerAddress | None = None
        self._orders: deque[Callable[[], None]] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self.port = 0

    def start(self) -> None:
        """Bind the port and start beating. TransportError when the port cannot be bound."""
        self._context = make_context()
        try:
            self._open()
        except TransportError:
            self._context.destroy(linger=0)
            raise
        self._thread.start()

    def _open(self) -> None:
        self._gatekeeper = None
        if self._config.keys is not None:
            self._gatekeeper = Gatekeeper(self._context, self._config.keys, self._refuse_key)
        self._wake_in = self._context.socket(zmq.PULL)
        self._wake_in.bind(_WAKE_ENDPOINT)
        self._bound = listen(self._context, self._config, Channel.HEARTBEAT, self._config.heartbeat_port)
        self.port = bound_port(self._bound)

    def connect(self, peer: PeerAddress) -> None:
        """Beat to this peer and expect its beats from now on."""
        self._config.check_secrecy(peer.host)
        self._order(partial(self._dial, peer))

    def disconnect(self) -> None:
        """Stop beating to the dialled peer, and expect nobody."""
        self._order(self._hang_up)

    def expect_peer(self) -> None:
        """The peer gave another sign of life: from now on its silence counts, even if no beat of it ever came."""
        self._order(self._expect)

    def _expect(self) -> None:
        self._watch.expect(time.monotonic_ns())

    def forget_peer(self) -> None:
        """Expect nobody until the next beat: the peer said that it would go."""
        self._order(self._watch.forget)

    def stop(self) -> None:
        """End the thread and close its sockets; no callback runs after the return."""
        require(threading.current_thread() is not self._thread, "stop from a heartbeat callback")
        if self._thread.is_alive():
            self._order(self._set_stopping)
            self._thread.join()

    def silent_ns(self) -> int:
        """How long the peer has been silent; 0 while nobody is expected."""
        return self._watch.silent_ns(time.monotonic_ns())

    def _order(self, order: Callable[[], None]) -> None:
        self._orders.append(order)
        # A socket belongs to one thread, so each order brings its own; a stopped thread needs no waking.
        if self._thread.is_alive():
            with suppress(zmq.ZMQError), self._context.socket(zmq.PUSH) as wake:
                wake.connect(_WAKE_ENDPOINT)
                wake.send(b"", zmq.NOBLOCK)

    def _set_stopping(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        urgency.hurry()
        try:
            beat_ns = time.monotonic_ns()
            while not self._stopping:
                self._wait_until(beat_ns)
                self._obey()
                self._read_all()
                now_ns = time.monotonic_ns()
                if now_ns >= beat_ns:
                    self._beat(now_ns)
                    # After a hold-up the missed beats are not made up for.
                    beat_ns = max(beat_ns + self._interval_ns, now_ns)
                if self._watch.check(now_ns):
                    self._on_silent(self._last, self._watch.silent_ns(now_ns))
        finally:
            self._context.destroy(linger=0)

    def _wait_until(self, beat_ns: int) -> None:
        poller = zmq.Poller()
        for socket in (self._wake_in, self._bound, self._dialled):
            if socket is not None:
                poller.register(socket, zmq.POLLIN)
        if self._gatekeeper is not None:
            poller.register(self._gatekeeper.socket, zmq.POLLIN)
        poller.poll(max(0, -(-(beat_ns - time.monotonic_ns()) // NS_PER_MS)))

    def _obey(self) -> None:
        if self._gatekeeper is not None:
            self._gatekeeper.answer()
        with suppress(zmq.Again):
            while True:
                self._wake_in.recv(zmq.NOBLOCK)
        while self._orders:
            self._orders.popleft()()

    def _dial(self, peer: PeerAddress) -> None:
        self._hang_up()
        self._peer = peer
        self._last = None
        self._redial()
        self._watch.expect(time.monotonic_ns())

    def _redial(self) -> None:
        """A fresh socket: libzmq gives a connection up for good after a refusal."""
        if self._peer is None:
            return
        if self._dialled is not None:
            self._dialled.close(linger=0)
        self._dialled = dial(self._context, self._config, Channel.HEARTBEAT, self._peer)
        self._dialled_ns = time.monotonic_ns()
        self._dialled.connect(endpoint_of(Channel.HEARTBEAT, self._peer))

    def _hang_up(self) -> None:
        if self._dialled is not None:
            self._dialled.close(linger=0)
        self._dialled = self._peer = None
        self._listeners.clear()
        self._watch.forget()

    def _read_all(self) -> None:
        for socket in (self._bound, self._dialled):
            for _ in range(TURN_MESSAGES_MAX):
                if socket is None or (frames := _receive(socket)) is None:
                    break
                identity = bytes(frames.pop(0)) if socket is self._bound else b""
                self._take(identity, frames)

    def _take(self, identity: bytes, frames: list[memoryview]) -> None:
        found = unpack(Channel.HEARTBEAT, identity, frames, reply=False)
        if isinstance(found, BadMessage):
            self._on_refused(found)
            return
        beat = found.message
        if not isinstance(beat, Heartbeat) or beat.node == self._config.node:
            # Our own voice, of a peer address that names ourselves, is no sign of life.
            return
        now_ns = time.monotonic_ns()
        if identity:
            self._listeners.pop(identity, None)
            self._listeners[identity] = now_ns
            while len(self._listeners) > LISTENERS_MAX:
                self._listeners.pop(next(iter(self._listeners)))
        if not self._counts(beat):
            return
        self._last = beat
        self._watch.hear(now_ns)
        self._on_alive(beat)

    def _beat(self, now_ns: int) -> None:
        self._seq += 1
        beat = encode(replace(self._local(), seq=self._seq))
        if self._dialled is not None:
            if self._watch.silent_ns(now_ns) > self._watch.limit_ns and self._overdue(now_ns):
                self._redial()
            with suppress(zmq.Again):
                self._dialled.send(beat, zmq.NOBLOCK)
        for identity, heard_ns in list(self._listeners.items()):
            if now_ns - heard_ns > self._watch.limit_ns or not self._answer(identity, beat):
                del self._listeners[identity]

    def _overdue(self, now_ns: int) -> bool:
        return now_ns - self._dialled_ns > max(self._watch.limit_ns, 20 * RECONNECT_MS * NS_PER_MS)

    def _answer(self, identity: bytes, beat: bytes) -> bool:
        try:
            self._bound.send_multipart([identity, beat], zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    def _refuse_key(self, address: str, key: str) -> None:
        self._on_refused(
            PeerRefused(
                Channel.HEARTBEAT,
                f"{address} connected with the key {key}, which is not allowed",
                "if that is the peer, name its .key file in [keys] allow here, and restart",
            )
        )


def _receive(socket: Socket) -> list[memoryview] | None:
    try:
        return [frame.buffer for frame in socket.recv_multipart(zmq.NOBLOCK, copy=False)]
    except zmq.Again:
        return None
