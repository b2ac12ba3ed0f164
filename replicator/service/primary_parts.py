"""What a primary works with: made by the daemon, shared by the files of the runner (primary_role.py)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from replicator.arbiter.base import Arbiter, Lease
from replicator.arbiter.keeper import Keeper, LeaseDeadline
from replicator.clock import SYSTEM_CLOCK, Clock
from replicator.engine.events import Event
from replicator.engine.guest_clock import ClockSettings
from replicator.guests.base import Guest
from replicator.link.base import Link, PeerAddress
from replicator.output.base import OutputPort
from replicator.output.colo_base import ComparingPort
from replicator.output.frame_channel import FrameChannel
from replicator.service.chronicle import Watch
from replicator.service.epoch_writer import EpochWriter
from replicator.service.recorder import BackChannelRecorder

#: Gives an event to the machine, in the event loop's thread.
Post = Callable[[Event], None]
#: Runs a coroutine as a task of the role.
Spawn = Callable[[Coroutine[Any, Any, None]], None]


@dataclass(frozen=True, slots=True)
class ColoParts:
    """What a primary has in COLO beside the others."""

    #: The relay of PrimaryParts.
    relay: ComparingPort
    #: Makes this side's end of the channel of frames that goes by this name (16 bytes).
    dial: Callable[[bytes], FrameChannel]
    #: A name that no other channel has.
    draw_name: Callable[[], bytes]


@dataclass(slots=True)
class PrimaryParts:
    """Owned by the role from its start on."""

    node: str
    guest: Guest
    relay: OutputPort
    link: Link
    peer: PeerAddress
    arbiter: Arbiter
    keeper: Keeper
    deadline: LeaseDeadline
    writer: EpochWriter
    #: Random, for one greeting alone.
    draw_share: Callable[[], bytes]
    #: Begins to renew another lease in the keeper's place.
    keep_lease: Callable[[Lease], Keeper]
    #: None in Remus.
    colo: ColoParts | None = None
    #: Where the secondary's words are recorded, in COLO.
    back_channel: BackChannelRecorder | None = None
    secondary_node: str = ""
    may_discard: bool = False
    clock: Clock = SYSTEM_CLOCK
    clock_settings: ClockSettings = field(default_factory=ClockSettings)
    #: How far the guest's clocks are known to be behind at the start of this role.
    clock_behind_ns: int = 0
    #: The guest goes on from a checkpoint: nobody here has seen its clocks run.
    was_set_back: bool = False
    #: Sees each event before it is handled, and each effect before it is carried out.
    watch: Watch = lambda _: None

    def has_lease(self) -> bool:
        """Whether the guest may run and speak at this moment."""
        return self.clock.boottime_ns() < self.deadline.deadline_ns
