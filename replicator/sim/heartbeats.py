"""Heartbeats over the simulated network: the real watch over silence, driven by a thread of the process.

What a beat says and what silence leads to is the daemon's business; the link (link.py) is not known here.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from replicator.errors import RemoteWireError
from replicator.link.base import LinkConfig, PeerAddress
from replicator.link.heartbeat import HeartbeatCallbacks, SilenceWatch
from replicator.sim.network import Network
from replicator.sim.process import Process
from replicator.units import NS_PER_MS
from replicator.wire.session import Channel, Heartbeat, Message, decode, encode


class SimHeartbeats:
    """Implements service.platform.Heartbeats: a thread of the process."""

    def __init__(
        self,
        process: Process,
        network: Network,
        config: LinkConfig,
        *,
        interval_ms: int,
        misses: int,
        callbacks: HeartbeatCallbacks,
    ) -> None:
        self._process = process
        self._network = network
        self._config = config
        self._interval_ns = interval_ms * NS_PER_MS
        self._callbacks = callbacks
        self._watch = SilenceWatch(self._interval_ns, misses)
        self._peer = ""
        self._last: Heartbeat | None = None
        #: Host -> when its newest beat came.
        self._listeners: dict[str, int] = {}
        self._seq = 0
        self._stopped = False

    def start(self) -> None:
        self._network.listen_beats(self._config.bind_host, self._process, self._take)
        self._tick()

    def connect(self, peer: PeerAddress) -> None:
        self._peer, self._last = peer.host, None
        self._watch.expect(self._now())

    def disconnect(self) -> None:
        self._peer = ""
        self._listeners.clear()
        self._process.schedule(0, self._watch.forget)

    def expect_peer(self) -> None:
        self._process.schedule(0, lambda: self._watch.expect(self._now()))

    def stop(self) -> None:
        self._stopped = True

    def _now(self) -> int:
        return self._process.clock.monotonic_ns()

    def _tick(self) -> None:
        if self._stopped:
            return
        self._process.schedule(self._process.clock.world_ns(self._interval_ns), self._tick)
        now_ns = self._now()
        self._seq += 1
        beat = encode(replace(self._callbacks.local(), seq=self._seq))
        heard = [host for host, at_ns in self._listeners.items() if now_ns - at_ns <= self._watch.limit_ns]
        for host in dict.fromkeys([*([self._peer] if self._peer else []), *heard]):
            self._network.send_beat(self._config.bind_host, host, beat)
        if self._watch.check(now_ns):
            self._callbacks.on_silent(self._last, self._watch.silent_ns(now_ns))

    def _take(self, sender: str, raw: bytes) -> None:
        if self._stopped:
            return
        beat: Message | None = None
        with suppress(RemoteWireError):
            beat = decode(raw, Channel.HEARTBEAT)
        if not isinstance(beat, Heartbeat):
            return
        self._listeners[sender] = self._now()
        if self._callbacks.counts(beat):
            self._last = beat
            self._watch.hear(self._now())
            self._callbacks.on_alive(beat)
