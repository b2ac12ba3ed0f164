"""One NIC's way in: frames from the network, waiting for the guest or given to it, until it has surely taken them.

A frame given lies in the guest's socket until the guest's process reads it. A checkpoint contains it only if it was
read before the stop. `hold` and `note_unread`, both while the guest runs, note which frames were still unread; those
count as after the checkpoint. At `note_stop` the ones that left the socket meanwhile are in doubt: the guest may have
them, or the hypervisor may have thrown them away while it stopped. They are given once more when inputs resume; what
still lies in the socket then needs no repetition."""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple, Protocol

from replicator.errors import require
from replicator.output.nic_socket import Sent

#: Waiting frames of one NIC while the guest takes none; more are dropped, as a NIC would.
WAITING_BYTES_MAX: Final = 4 << 20
WAITING_FRAMES_MAX: Final = 4096
#: After so many frames given it is asked which of them the guest has taken.
_GIVEN_FRAMES_MAX: Final = 64


class Numbered(NamedTuple):
    seq: int
    data: bytes


class GuestSide(Protocol):
    """Where the guest takes its frames from."""

    def send(self, data: bytes) -> Sent: ...

    def unread_bytes(self) -> int: ...


class CostTable(Protocol):
    def cost(self, size: int) -> int:
        """What an unread frame of `size` bytes adds to `unread_bytes`."""
        ...


class NicInputs:
    """Not thread-safe."""

    def __init__(self, guest: GuestSide, costs: CostTable) -> None:
        self._guest = guest
        self._costs = costs
        #: Accepted and not given, in order.
        self._waiting: deque[Numbered] = deque()
        self._waiting_bytes = 0
        #: Given; the newest of them may be unread. Pruned now and then.
        self._given: deque[Numbered] = deque()
        self._held = False
        #: While held: given before the stop, and unread when last looked at.
        self._unread: list[Numbered] = []
        #: While held and stopped: the head of `_unread` that left the socket since then.
        self._doubtful: list[Numbered] = []
        self.given_frames = 0
        self.dropped_frames = 0
        self.repeated_frames = 0

    @property
    def waiting_frames(self) -> int:
        return len(self._waiting)

    @property
    def waiting_bytes(self) -> int:
        return self._waiting_bytes

    @property
    def wants_room(self) -> bool:
        """Whether frames wait only because the guest's queue is full, or nobody is there."""
        return bool(self._waiting) and not self._held

    def has_room(self, size: int) -> bool:
        return len(self._waiting) < WAITING_FRAMES_MAX and self._waiting_bytes + size <= WAITING_BYTES_MAX

    def accept(self, frame: Numbered) -> None:
        """The next frame for the guest. Call `deliver` afterwards."""
        self._waiting.append(frame)
        self._waiting_bytes += len(frame.data)

    def deliver(self) -> None:
        """Give what waits, as far as the guest's queue has room."""
        while self._waiting and not self._held:
            frame = self._waiting[0]
            sent = self._guest.send(frame.data)
            if sent is Sent.FULL or sent is Sent.GONE:
                return
            self._waiting.popleft()
            self._waiting_bytes -= len(frame.data)
            if sent is Sent.REFUSED:
                self.dropped_frames += 1
                continue
            self.note_given(frame)

    def waiting(self) -> list[Numbered]:
        """What waits for the guest, in order."""
        return list(self._waiting)

    def take_given(self, count: int) -> None:
        """The first of what waits was given by others."""
        for _ in range(count):
            frame = self._waiting.popleft()
            self._waiting_bytes -= len(frame.data)
            self.note_given(frame)

    def note_given(self, frame: Numbered) -> None:
        """The next frame, which was given by others."""
        self.given_frames += 1
        self._given.append(frame)
        if len(self._given) >= _GIVEN_FRAMES_MAX:
            self._prune()

    def hold(self) -> None:
        """Give nothing from now on. The guest runs."""
        self._held = True
        self.note_unread()

    def note_unread(self) -> int:
        """Look which frames the running guest has not taken; returns how many."""
        require(self._held, "inputs must be held before one can say which of them a stop leaves behind")
        self._prune()
        self._unread = list(self._given)
        return len(self._unread)

    def note_stop(self) -> int | None:
        """The guest stands still. Returns the number of the oldest frame it may not have, None when it has all."""
        require(self._held, "a guest may not be stopped while it is given inputs")
        self._prune()
        self._doubtful = self._unread[: max(len(self._unread) - len(self._given), 0)]
        later = [frame.seq for frame in (*self._unread, *self._waiting)]
        return min(later, default=None)

    def resume(self) -> None:
        """Give again, beginning with the doubtful frames."""
        self._held = False
        self._unread = []
        self._waiting.extendleft(reversed(self._doubtful))
        self._waiting_bytes += sum(len(frame.data) for frame in self._doubtful)
        self.repeated_frames += len(self._doubtful)
        self._doubtful = []
        self.deliver()

    def forget_given(self) -> None:
        """Another process took the guest's place: what was given to the former is gone with it."""
        self._given.clear()
        self._unread = []
        self._doubtful = []

    def restart(self) -> None:
        """The guest is another one's copy now: what waits and what was given was for the one that it was."""
        self.forget_given()
        self._waiting.clear()
        self._waiting_bytes = 0

    def _prune(self) -> None:
        """Keep of the given frames only those that the guest has not read."""
        unread = self._guest.unread_bytes()
        count = 0
        for frame in reversed(self._given):
            if unread <= 0:
                break
            unread -= self._costs.cost(len(frame.data))
            count += 1
        while len(self._given) > count:
            self._given.popleft()
