"""The callbacks of the native relay: a thread that waits for what it has to tell, and calls.

The relay's own thread never waits for this one. What Python is too busy to take stays in a ring as large as a
secondary's log of inputs; inputs beyond that are given to the guest without being mirrored."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from replicator._native import ffi, lib
from replicator.engine.output import Frame
from replicator.errors import GuestError, InvariantError, ReplicatorError, require
from replicator.output.base import RelayCallbacks

_LOG = logging.getLogger(__name__)

#: Bytes of frames that are taken at once; more than the largest frame.
NEWS_BYTES: Final = 1 << 20
_STOP_S: Final = 5.0


def make_news() -> tuple[Any, Any]:
    """A `struct rp_news` and its room, which must be kept with it."""
    room = ffi.new("uint8_t[]", NEWS_BYTES)
    news = ffi.new("struct rp_news *")
    news.data, news.room = room, NEWS_BYTES
    return news, room


def frames_of(news: Any) -> list[Frame]:
    """The frames of a batch."""
    count = news.frames
    sizes, nics = ffi.unpack(news.sizes, count), ffi.unpack(news.nics, count)
    data = ffi.buffer(news.data, sum(sizes))[:]
    frames, at = [], 0
    for nic, size in zip(nics, sizes, strict=True):
        frames.append(Frame(nic, data[at : at + size]))
        at += size
    return frames


class NewsThread:
    """Calls `callbacks` until the relay ends. `find_failure` says why, None when it was asked to."""

    def __init__(
        self, relay: Any, callbacks: RelayCallbacks, find_failure: Callable[[], Exception | None]
    ) -> None:
        self._relay = relay
        self._callbacks = callbacks
        self._find_failure = find_failure
        self._news, self._room = make_news()
        self._fulls = self._waits = 0
        self._mute_turns = 0
        #: Number of the last input before this session.
        self._base_seq = 0
        #: Inputs of one session are told before the next one begins. Callbacks may call the relay.
        self._telling = threading.RLock()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="relay-news", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        """After the relay's end. May be repeated; what was not told yet is not told any more."""
        self._stopping = True
        if self._thread.ident is not None:
            self._thread.join(_STOP_S)
            require(not self._thread.is_alive(), "the relay's news do not end: a callback blocks them")

    def check_thread(self) -> None:
        """InvariantError within a callback."""
        require(self._thread is not threading.current_thread(), "a callback cannot wait for the relay's end")

    def restart_inputs(self) -> None:
        """The next input is number 1, and no input of before is told after the return."""
        with self._telling:
            self._base_seq = lib.rp_relay_restart_inputs(self._relay)

    def _run(self) -> None:
        failure: Exception | None = GuestError("unexpected error in a callback of the relay, see the log")
        try:
            while self._tell_next():
                pass
            failure = self._find_failure()
        except (ReplicatorError, InvariantError, OSError) as error:
            failure = error
        finally:
            # Any other exception goes its way to the thread's hook, after this.
            if failure is not None:
                self._fail(failure)

    def _fail(self, failure: Exception) -> None:
        lib.rp_relay_abort(self._relay)
        _LOG.error("the relay ended by itself; nothing leaves any more: %s", failure, exc_info=failure)
        self._callbacks.on_failed(failure)

    def _tell_next(self) -> bool:
        """Wait and tell. False when there is nothing more to come."""
        news = self._news
        lib.rp_relay_take_news(self._relay, news)
        if self._stopping:
            return False
        if news.frames:
            self._tell_inputs(news.first_number)
        self._tell_state(news.fulls, news.waits, news.mute_turns)
        return bool(news.frames) or not news.ended

    def _tell_inputs(self, first_number: int) -> None:
        frames = frames_of(self._news)
        with self._telling:
            before = max(self._base_seq + 1 - first_number, 0)
            if before < len(frames):
                self._callbacks.on_input(first_number + before - self._base_seq, frames[before:])

    def _tell_state(self, fulls: int, waits: int, mute_turns: int) -> None:
        while self._fulls < fulls:
            self._fulls += 1
            self._callbacks.on_hold_full()
        while self._waits < waits:
            self._waits += 1
            self._callbacks.on_output_waiting()
        while self._mute_turns < mute_turns:
            self._mute_turns += 1
            if self._mute_turns % 2:
                self._callbacks.on_muted()
            else:
                self._callbacks.on_unmuted()
