"""The phases of an epoch in which a fault can strike, and whose phases they are. Pure; how one is hit says actors/daemon.py.

A phase is a place in the daemon's work, not a moment in time: the daemon stops exactly there until the fault is done.
"""

from __future__ import annotations

from enum import Enum


class Role(Enum):
    PRIMARY = "primary"
    SECONDARY = "secondary"


class Phase(Enum):
    """In the order in which an epoch passes them."""

    #: The guest runs; the epoch is about to be closed.
    RUNNING = "running"
    #: The guest stands still, nothing was copied yet.
    PAUSED = "paused"
    #: The guest stands still; the secondary's VM is to stand still, too (COLO).
    JOINING = "joining"
    #: Some pages are copied.
    COPYING = "copying"
    #: All pages are copied, the device state is not.
    SAVING = "saving"
    #: Everything is kept, the guest still stands.
    RESUMING = "resuming"
    #: The guest runs again; the epoch's parts are on their way, its end is not.
    SENDING = "sending"
    #: The end was sent; the epoch's output is held.
    AWAITING = "awaiting the ack"
    #: The ack came; the output is still held.
    RELEASING = "releasing"
    #: Both guests run from one epoch; what both say is about to leave (COLO).
    COMPARING = "comparing"
    #: The secondary's VM stands still; the primary was not told (COLO).
    VM_SUSPENDED = "vm suspended"
    #: A part was stored, more are to come.
    RECEIVING = "receiving"
    #: The epoch is whole in staging; nothing was decided.
    STAGED = "staged"
    #: The journal says redo, pages are being put into the RAM file.
    APPLYING = "applying"
    #: The epoch is committed, the ack was not sent.
    COMMITTED = "committed"
    #: The ack was sent.
    ACKED = "acked"
    #: The VM is about to be made equal to the committed epoch (COLO).
    VM_LOADING = "vm loading"
    #: It is equal, and about to run (COLO).
    VM_STARTING = "vm starting"

    @property
    def is_colo(self) -> bool:
        """No epoch of Remus passes through it."""
        return self in _OF_COLO

    @property
    def role(self) -> Role:
        """Which side of the pair passes through it."""
        return Role.SECONDARY if self in _OF_SECONDARY else Role.PRIMARY


_OF_COLO = frozenset(
    {Phase.JOINING, Phase.COMPARING, Phase.VM_SUSPENDED, Phase.VM_LOADING, Phase.VM_STARTING}
)
_OF_SECONDARY = frozenset({
    Phase.VM_SUSPENDED, Phase.RECEIVING, Phase.STAGED, Phase.APPLYING, Phase.COMMITTED, Phase.ACKED,
    Phase.VM_LOADING, Phase.VM_STARTING,
})  # fmt: skip
OF_PRIMARY = tuple(phase for phase in Phase if phase.role is Role.PRIMARY)
OF_SECONDARY = tuple(phase for phase in Phase if phase.role is Role.SECONDARY)
