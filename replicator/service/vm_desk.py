"""COLO's VM at the secondary: its process, its relay, and what it has written into the replica's RAM.

Each method is one effect of engine/secondary.py, carried out while nothing else is handled. The RAM file is shared with
the store, which writes into it only while the VM stands still. What the VM writes is gathered over all its runs since
the last commit, so that it can be told again for another epoch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from replicator.engine import events as ev
from replicator.errors import GuestError, ReplicatorError
from replicator.guests.base import Died, Panicked, PoweredOff, SecondaryVm, VmStarter
from replicator.memory.pages import GuestLayout
from replicator.output.colo_base import SecondaryPort
from replicator.output.frame_channel import FrameChannel
from replicator.store import ReplicaStore
from replicator.units import Epoch
from replicator.wire.back_channel import Piece, state_word, suspended_word
from replicator.wire.layout import CheckpointStateId

_LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class VmParts:
    store: ReplicaStore
    layout: GuestLayout
    #: On the replica's RAM.
    starter: VmStarter
    #: A relay for it that has been started.
    make_relay: Callable[[], SecondaryPort]
    #: This side's end of the channel of frames that goes by this name.
    listen: Callable[[bytes], FrameChannel]


class VmDesk:
    """For one life of a secondary. `post` takes a VmFailed at any time, to be handled if what comes with it holds then."""

    def __init__(self, parts: VmParts, post: Callable[[ev.Event, Callable[[], bool]], None]) -> None:
        self._parts = parts
        self._post = post
        self.vm: SecondaryVm | None = None
        self.relay: SecondaryPort | None = None
        self._written = parts.layout.new_bitmap()
        self._runs = False
        #: How the VM's process ended by itself, "" while it has not: nobody hears that a second time.
        self._end = ""
        self._watch: asyncio.Task[None] | None = None

    # The session.

    def open_channel(self, frames: bytes) -> None:
        """Of a session that was accepted: a VM will be wanted. Without a channel nothing is compared, and the primary finds
        that out."""
        try:
            relay = self.relay = self.relay or self._parts.make_relay()
            # An older one has the port.
            relay.detach()
            relay.attach(self._parts.listen(frames))
            if self.vm is None:
                self._parts.starter.prepare()
        except ReplicatorError as error:
            _LOG.warning("no channel for the guests' frames: %s", error)

    def restart(self) -> None:
        """Inputs of another session are to come."""
        if self.relay is not None:
            self.relay.restart_inputs()

    # Effects.

    async def suspend(self) -> ev.Event | None:
        vm, relay = self.vm, self.relay
        if vm is None or relay is None:
            return ev.VmFailed("the VM is gone")
        try:
            # What it has not taken yet it is given again, after the load or when it runs on: there is nothing to wait for.
            relay.suspend()
            await vm.pause()
            self._runs = False
            vm.scan_dirty(self._written)
        except ReplicatorError as error:
            return ev.VmFailed(f"the VM cannot be suspended: {error}")
        return None

    def words_of_suspension(self) -> Iterator[Piece]:
        return suspended_word(self._written.pfns() if self._written.count() else array("Q"))

    async def load(self, epoch: Epoch, input_seq: int) -> ev.Event:
        """The replica is `epoch` now. What loading writes is found by the next scan.

        Up to here the replica may be promoted, also after both hosts have died: the primary compares nothing of what
        comes after `epoch` before the VM runs. From here on the VM alone stands for this side."""
        store, relay = self._parts.store, self.relay
        if relay is None:
            return ev.VmFailed("there is no channel for the VM's frames")
        try:
            state = store.device_state()
            store.mark_vm()
            self._written.clear_all()
            await self._load(state)
            if missing := relay.loaded(epoch, input_seq):
                _LOG.info("%d inputs did not reach this side", missing)
        except ReplicatorError as error:
            return ev.VmFailed(f"the VM cannot be made equal to the primary's: {error}")
        return ev.VmLoaded()

    async def _load(self, state: bytes) -> None:
        """Into the process that is there, or into a new one."""
        written = self._parts.store.ram.take_written()
        if self.vm is not None:
            try:
                await self.vm.reload(state, written)
                return
            except GuestError as error:
                _LOG.warning("the VM's process cannot be loaded, a new one is tried: %s", error)
                await self._end_vm()
        self.vm = await self._parts.starter.start(state)
        self._watch = asyncio.create_task(self._watch_vm(self.vm))

    async def run(self) -> ev.Event:
        vm, relay = self.vm, self.relay
        if vm is None or relay is None:
            return ev.VmFailed("the VM is gone")
        try:
            await vm.resume()
            self._runs = True
            relay.resume_input()
        except ReplicatorError as error:
            return ev.VmFailed(f"the VM cannot be run: {error}")
        return ev.VmResumed()

    async def end(self) -> None:
        """Of the VM, not of the relay, which logs inputs for the next one."""
        self._written.clear_all()
        await self._end_vm()

    async def _end_vm(self) -> None:
        vm, self.vm, self._runs = self.vm, None, False
        await self._end_watch()
        self._end = ""
        if vm is not None:
            await vm.kill()

    # The take-over.

    async def hand_over(self) -> tuple[SecondaryVm, SecondaryPort, bool]:
        """The VM, its relay, and whether it runs: another's from now on. GuestError when it is gone.

        What still waits in its events is the new owner's to hear; an end that was heard here is not, and may wait for
        its turn while the take-over has it."""
        await self._end_watch()
        vm, relay, runs = self.vm, self.relay, self._runs
        if vm is None or relay is None or self._end:
            raise GuestError(self._end or "the VM is gone", hint="see this host's log for its end")
        self.vm = self.relay = None
        return vm, relay, runs

    async def close(self) -> None:
        """What was not handed over."""
        await self.end()
        await self._parts.starter.close()
        if self.relay is not None:
            self.relay.stop()
            self.relay = None

    async def _watch_vm(self, vm: SecondaryVm) -> None:
        async for event in vm.events():
            if isinstance(event, Died):
                self._fail(vm, f"the VM died: {event.reason}")
            elif isinstance(event, PoweredOff | Panicked):
                self._fail(vm, "the VM stopped before the primary's")

    def _fail(self, vm: SecondaryVm, reason: str) -> None:
        """While the news waits for its turn another process may take this one's place."""
        _LOG.warning("%s", reason)
        self._end = reason
        self._post(ev.VmFailed(reason), lambda: self.vm is vm)

    async def _end_watch(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch


def word_of(*, runs: bool) -> Piece:
    """READY or RESUMED."""
    state = CheckpointStateId.SVM_RESUMED if runs else CheckpointStateId.SVM_READY
    return Piece(state_word(state), False)
