"""How a secondary becomes a primary: under a lease its standby gets the device state, and the guest runs and announces itself.

It is called when the lease was granted, and hands over a primary whose guest runs. Whether to take over is decided
elsewhere (engine/secondary.py), and so is what comes after (daemon.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from replicator.arbiter.base import Lease
from replicator.arbiter.keeper import Keeper
from replicator.engine.output import Frame
from replicator.errors import GuestError, GuestMayHaveRun, ReplicatorError
from replicator.guests.base import Guest, SecondaryVm
from replicator.output.announce import AddressBook, NicAddresses, build_announcement
from replicator.output.base import OutputPort
from replicator.output.colo_base import SecondaryPort
from replicator.service.chronicle import Chronicle
from replicator.service.primary_role import PrimaryRole
from replicator.service.standby import StandbyKeeper
from replicator.service.vm_desk import VmDesk


class Promotion:
    """Of one secondary; `macs` are the guest's, one a NIC. `primary` is there once `activate` has returned."""

    def __init__(
        self,
        standby: StandbyKeeper,
        macs: Sequence[str],
        chronicle: Chronicle,
        *,
        has_lease: Callable[[], bool],
        committed: Callable[[], int],
        keep_lease: Callable[[Lease], Keeper],
        open_network: Callable[[Guest, Sequence[Frame]], OutputPort],
        give_voice: Callable[[SecondaryPort], None],
        make_primary: Callable[[Guest, OutputPort, Keeper], PrimaryRole],
    ) -> None:
        self.primary: PrimaryRole | None = None
        self._standby = standby
        self._books = [AddressBook(mac) for mac in macs]
        self._chronicle = chronicle
        self._has_lease = has_lease
        self._committed = committed
        self._keep_lease = keep_lease
        self._open_network = open_network
        self._give_voice = give_voice
        self._make_primary = make_primary

    async def activate(self, lease: Lease, state: bytes, inputs: list[Frame]) -> None:
        """Run the guest from the device state; it gets `inputs` before any other. ReplicatorError when it does not run:
        then nothing of it is left."""
        keeper = self._keep_lease(lease)
        self._chronicle.tell_primary(lease, promoted=True)
        try:
            guest = await self._standby.activate(state)
            relay = await self._run_or_kill(guest, inputs)
        except ReplicatorError:
            # Nobody renews a lease for a guest that is not there.
            keeper.stop()
            raise
        self.primary = self._make_primary(guest, relay, keeper)

    async def activate_vm(self, lease: Lease, desk: VmDesk) -> None:
        """Let the VM that runs beside the primary's be the guest. ReplicatorError when it cannot: nothing of it is left."""
        keeper = self._keep_lease(lease)
        self._chronicle.tell_primary(lease, promoted=True)
        try:
            vm, relay, runs = await desk.hand_over()
            try:
                await self._let_speak(vm, relay, runs=runs)
            except ReplicatorError:
                relay.stop()
                await vm.kill()
                raise
        except ReplicatorError:
            keeper.stop()
            raise
        self._chronicle.tell_running(self._committed(), 0)
        relay.announce(_announcement_of(relay.addresses()))
        self.primary = self._make_primary(vm, relay, keeper)

    async def _let_speak(self, vm: SecondaryVm, relay: SecondaryPort, *, runs: bool) -> None:
        if not self._has_lease():
            raise GuestError("the lease ended before the guest could speak")
        if not runs:
            await _resume(vm)
        self._give_voice(relay)
        if not runs:
            relay.resume_input()

    async def _run_or_kill(self, guest: Guest, inputs: list[Frame]) -> OutputPort:
        try:
            return await self._run(guest, inputs)
        except ReplicatorError:
            await guest.kill()
            raise

    async def _run(self, guest: Guest, inputs: list[Frame]) -> OutputPort:
        for frame in inputs:
            if frame.nic < len(self._books):
                self._books[frame.nic].learn_input(frame.data)
        relay = self._open_network(guest, inputs)
        try:
            if not self._has_lease():
                raise GuestError("the lease ended before the guest could run")
            await _resume(guest)
        except GuestError:
            relay.stop()
            raise
        self._chronicle.tell_running(self._committed(), len(inputs))
        relay.announce(_announcement_of(book.known() for book in self._books))
        return relay


def _announcement_of(addresses: Iterable[NicAddresses]) -> list[Frame]:
    """Frames that tell the network where the guest's addresses are now."""
    return [Frame(nic, raw) for nic, known in enumerate(addresses) for raw in build_announcement(known)]


async def _resume(guest: Guest) -> None:
    """GuestMayHaveRun when that fails."""
    try:
        await guest.resume()
    except GuestError as error:
        raise GuestMayHaveRun(str(error), hint=error.hint) from error
