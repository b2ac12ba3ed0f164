"""The relay that guests have: the same as `output.relay`, with everything between guest and TAP in a native thread.

Nothing that Python does delays a frame there: the thread needs no interpreter lock, reads its deadline from a word
that whoever keeps the lease writes (`replicator.deadline`), and leaves what is to be told to a thread of its own
(`output.native_news`). Calls are done in the caller's thread, without the interpreter lock.

native/relay.h says what is where."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from socket import socket
from typing import Any, Final

from replicator import urgency
from replicator._native import ffi, lib
from replicator.deadline import SharedDeadline
from replicator.engine.output import Frame, OutputCounters, OutputMode
from replicator.errors import GuestError, require
from replicator.limits import FRAME_BYTES_MAX, HOLD_BYTES_MAX
from replicator.memory.check import check
from replicator.output.announce import NicAddresses, choose_told, parse_mac
from replicator.output.base import BarrierMark, InputCounters, RelayCallbacks, RelayStats
from replicator.output.native_news import NewsThread, frames_of, make_news
from replicator.output.nic_socket import bind_relay_socket, remove_relay_socket
from replicator.output.relay import NicEnds
from replicator.output.tap import gone_error
from replicator.units import NS_PER_S, Epoch

#: The deadline of a guest without arbiter.
UNLIMITED: Final = SharedDeadline((1 << 63) - 1)
_MODES: Final = {OutputMode.PASS: lib.RP_MODE_PASS, OutputMode.HOLD: lib.RP_MODE_HOLD}
_ACTIONS: Final = {
    lib.RP_ACTION_RECV_GUEST: "cannot receive from the guest",
    lib.RP_ACTION_SEND_GUEST: "cannot send to the guest",
    lib.RP_ACTION_CONNECT_GUEST: "cannot connect to the guest's socket",
    lib.RP_ACTION_WAIT: "cannot wait for frames",
    lib.RP_ACTION_OWNER: "a callback failed",
}


class NativeRelay:
    """The OutputPort of a guest with real NICs. See `output.base` for the order of calls.

    `ends` are the guest's NICs in order; `deadline` is read before each write to a TAP. Raises GuestError from any
    call once the relay has failed."""

    def __init__(
        self,
        ends: Sequence[NicEnds],
        *,
        deadline: SharedDeadline = UNLIMITED,
        callbacks: RelayCallbacks | None = None,
        mode: OutputMode = OutputMode.PASS,
        hold_bytes_max: int = HOLD_BYTES_MAX,
    ) -> None:
        require(hold_bytes_max > 0, "the hold needs room")
        self._ends = tuple(ends)
        self._sockets: list[socket] = []
        #: Kept, because the native thread reads its cell.
        self._deadline = deadline
        made = ffi.new("struct rp_relay **")
        check(
            lib.rp_relay_create(len(self._ends), _MODES[mode], hold_bytes_max, deadline.cell, made),
            "cannot make a relay",
        )
        self._relay: Any = ffi.gc(made[0], lib.rp_relay_destroy)
        self._news = NewsThread(self._relay, callbacks or RelayCallbacks(), self._find_failure)
        self._started = False

    # Life.

    def start(self) -> None:
        """Bind the sockets and begin. GuestError when a socket cannot be made."""
        require(not self._started, "a relay starts once")
        self._started = True
        try:
            for nic, ends in enumerate(self._ends):
                self._open_nic(nic, ends)
            check(lib.rp_relay_start(self._relay), "cannot start the relay")
            if urgency.is_begun():
                check(lib.rp_relay_hurry(self._relay, urgency.PRIORITY), "cannot schedule the relay")
        except BaseException:
            self._close()
            raise
        self._news.start()

    def stop(self) -> None:
        """End the threads, close and remove the sockets. May be repeated; not from a callback."""
        self._news.check_thread()
        self._started = True
        self._close()

    # Inputs.

    def hold_input(self) -> None:
        self._check(lib.rp_relay_hold_input(self._relay), "hold inputs")

    def quiesce_input(self, timeout_s: float) -> int:
        unread = ffi.new("uint64_t *")
        code = lib.rp_relay_quiesce_input(self._relay, int(timeout_s * NS_PER_S), unread)
        self._check(code, "inputs must be held before one can say which of them a stop leaves behind")
        return int(unread[0])

    def resume_input(self) -> None:
        self._check(lib.rp_relay_resume_input(self._relay), "resume inputs")

    def restart_inputs(self) -> None:
        self._news.restart_inputs()

    def replay(self, frames: Sequence[Frame]) -> None:
        code = _Packed(frames).give(lib.rp_relay_replay, self._relay)
        self._check(code, "a replay is for our NICs, and no larger than a log")

    def doubtful(self) -> list[Frame]:
        """Between `drain_and_mark` and `resume_input`: the frames that will be given again."""
        news, _room = make_news()
        lib.rp_relay_copy_doubtful(self._relay, news)
        return frames_of(news)

    # Outputs.

    def drain_and_mark(self, epoch: Epoch) -> BarrierMark:
        mark = ffi.new("struct rp_mark *")
        code = lib.rp_relay_drain_and_mark(self._relay, epoch, mark)
        self._check(code, f"barrier of epoch {epoch}: hold the inputs before, and close each epoch once")
        return BarrierMark(epoch, mark.input_seq, mark.held_frames, mark.held_bytes)

    def release(self, epoch: Epoch) -> int:
        released = ffi.new("uint64_t *")
        self._check(
            lib.rp_relay_release(self._relay, epoch, released),
            f"epoch {epoch} released, which was not closed",
        )
        return int(released[0])

    def set_mode(self, mode: OutputMode) -> int:
        let_go = ffi.new("uint64_t *")
        self._check(lib.rp_relay_set_mode(self._relay, _MODES[mode], let_go), "set the mode")
        return int(let_go[0])

    def discard_output(self) -> int:
        """Also of a relay that failed or ended."""
        return int(lib.rp_relay_discard_output(self._relay))

    def set_deadline(self, deadline: SharedDeadline) -> None:
        lib.rp_relay_set_deadline(self._relay, deadline.cell)
        self._deadline = deadline

    def announce(self, frames: Sequence[Frame]) -> None:
        code = _Packed(frames).give(lib.rp_relay_announce, self._relay)
        self._check(code, "announcements are for our NICs")

    # Looks.

    def addresses(self) -> tuple[NicAddresses, ...]:
        return tuple(self._addresses_of(nic, ends.paths.mac) for nic, ends in enumerate(self._ends))

    def held_age_ns(self) -> int:
        return self.stats().oldest_held_age_ns

    def stats(self) -> RelayStats:
        stats = ffi.new("struct rp_relay_stats *")
        lib.rp_relay_read_stats(self._relay, stats)
        return RelayStats(
            output=output_counters(stats.output),
            input=_input_counters(stats),
            oldest_held_age_ns=stats.oldest_held_age_ns,
            muted=stats.muted,
            connected=stats.connected,
        )

    def _addresses_of(self, nic: int, mac: str) -> NicAddresses:
        book = ffi.new("struct rp_book *")
        lib.rp_relay_read_book(self._relay, nic, book)
        return told_addresses(mac, book)

    # Opening, closing and errors.

    def _open_nic(self, nic: int, ends: NicEnds) -> None:
        bound = bind_relay_socket(ends.paths)
        self._sockets.append(bound)
        path = os.fsencode(ends.paths.guest_path)
        mac = parse_mac(ends.paths.mac)
        code = lib.rp_relay_set_nic(self._relay, nic, mac, bound.fileno(), ends.tap.fileno(), path)
        check(code, f"NIC {ends.paths.name}: cannot be relayed")

    def _close(self) -> None:
        lib.rp_relay_stop(self._relay)
        self._news.join()
        for bound, ends in zip(self._sockets, self._ends, strict=False):
            bound.close()
            remove_relay_socket(ends.paths)
        self._sockets.clear()

    def _check(self, code: int, what: str) -> None:
        """GuestError for a relay that failed or ended, InvariantError for a call out of order."""
        if code == -errno.EIO:
            failure = self._find_failure()
            raise GuestError(f"the relay has failed: {failure}") from failure
        if code == -errno.ESHUTDOWN:
            raise GuestError("the relay has ended")
        require(code != -errno.EINVAL, what)
        check(code, what)

    def _find_failure(self) -> Exception | None:
        failure = ffi.new("struct rp_failure *")
        lib.rp_relay_read_failure(self._relay, failure)
        if failure.code == 0:
            return None
        ends, reason = self._ends[failure.nic], os.strerror(-failure.code)
        if failure.action == lib.RP_ACTION_TAP:
            return gone_error(ends.tap.name, reason)
        return GuestError(f"NIC {ends.paths.name}: {_ACTIONS[failure.action]}: {reason}")


class _Packed:
    """Frames as the core takes them: one after the other."""

    def __init__(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            require(frame.nic >= 0 and len(frame.data) <= FRAME_BYTES_MAX, f"a frame for NIC {frame.nic}")
        self._data = ffi.new("uint8_t[]", b"".join(frame.data for frame in frames) or b"\0")
        self._sizes = ffi.new("uint32_t[]", [len(frame.data) for frame in frames])
        self._nics = ffi.new("uint16_t[]", [frame.nic for frame in frames])
        self._frames = ffi.new(
            "struct rp_frames *",
            {"count": len(frames), "sizes": self._sizes, "nics": self._nics, "data": self._data},
        )

    def give(self, function: Callable[[Any, Any], int], relay: Any) -> int:
        """Call it with the frames, which stay here meanwhile; returns its code."""
        return function(relay, self._frames)


def output_counters(counters: Any) -> OutputCounters:
    """Of a `struct rp_hold_counters`."""
    return OutputCounters(
        mode=OutputMode.HOLD if counters.mode == lib.RP_MODE_HOLD else OutputMode.PASS,
        held_frames=counters.held_frames,
        held_bytes=counters.held_bytes,
        oldest_held_ns=counters.oldest_held_ns if counters.held_frames else None,
        left_frames=counters.left_frames,
        left_bytes=counters.left_bytes,
        lost_frames=counters.lost_frames,
        discarded_frames=counters.discarded_frames,
    )


def told_addresses(mac: str, book: Any) -> NicAddresses:
    """What is worth announcing of a `struct rp_book`."""
    certain, likely = (
        [bytes(address.bytes)[: address.size] for address in addresses[0:count]]
        for addresses, count in ((book.certain, book.certain_count), (book.likely, book.likely_count))
    )
    return choose_told(mac, certain, likely)


def _input_counters(stats: Any) -> InputCounters:
    return InputCounters(
        newest_seq=stats.newest_seq,
        given_frames=stats.input.given_frames,
        waiting_frames=stats.input.waiting_frames,
        waiting_bytes=stats.input.waiting_bytes,
        dropped_frames=stats.input.refused_frames,
        repeated_frames=stats.input.repeated_frames,
    )
