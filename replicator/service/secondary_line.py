"""A primary's side of the conversation with its secondary: the greeting, mirrored inputs, and one connection after another.

What was made for one connection may not travel on the next, and a failure of an old one says nothing of the present one.
What the secondary answers is turned into events by the role; epochs are only known as what travels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.engine.output import Frame
from replicator.engine.primary import PrimaryMachine
from replicator.errors import TransportError
from replicator.link.sealing import derive_keys
from replicator.service.agreement import record_of
from replicator.service.epoch_writer import OutgoingEpoch
from replicator.service.primary_parts import Post, PrimaryParts
from replicator.service.samples import EpochSamples
from replicator.wire import session as wire

_LOG = logging.getLogger(__name__)


class SecondaryLine:
    """`session` is the one of the newest greeting."""

    def __init__(
        self, machine: PrimaryMachine, parts: PrimaryParts, samples: EpochSamples, post: Post
    ) -> None:
        self._machine = machine
        self._parts = parts
        self._samples = samples
        self._post = post
        self.session = wire.NO_SESSION
        #: Counts connections.
        self.connection = 0
        #: The newest greeting on this connection, and whether keys were agreed on for it.
        self._hello: wire.Hello | None = None
        self._agreed = False
        #: Closed epochs that are on their way.
        self.travelling: set[OutgoingEpoch] = set()

    async def greet(self, effect: fx.Greet) -> None:
        if effect.session != self.session:
            self.session = effect.session
            self._samples.restart_sync()
            self._parts.relay.restart_inputs()
        hello = wire.Hello(
            wire.PROTOCOL_VERSION,
            self._parts.node,
            record_of(self._parts.guest.identity),
            self._parts.keeper.lease.term,
            self.session,
            self._machine.pipeline.settings.in_flight_max,
            self._parts.may_discard,
            self._parts.draw_share() if self._parts.link.sealed else wire.NO_SHARE,
            self._parts.colo.draw_name() if self._parts.colo is not None else wire.NO_SESSION,
        )
        connection = self.connection
        self._hello, self._agreed = hello, False
        try:
            await self._parts.link.send(hello)
        except TransportError as error:
            self.fail(connection, error)

    def agree(self, answer: wire.KeyShare) -> None:
        """Seal what follows on this connection with what the secondary has answered."""
        hello = self._hello
        if hello is None or answer.answers != hello.share:
            _LOG.info("an answer to an older greeting is left aside")
            return
        try:
            self._parts.link.seal_bulk(derive_keys(hello, answer.share))
        except TransportError as error:
            self.fail(self.connection, error)
        else:
            self._agreed = True

    @property
    def frames(self) -> bytes:
        """Names the channel of the guests' frames that the newest greeting offered."""
        return self._hello.frames if self._hello is not None else wire.NO_SESSION

    @property
    def may_send_epochs(self) -> bool:
        """Whether there are keys for this connection, if it needs any."""
        return self._agreed or not self._parts.link.sealed

    def fail(self, connection: int, error: TransportError) -> None:
        """Something could not be sent on that connection."""
        if connection == self.connection:
            self._post(ev.LinkLost(str(error)))

    def leave_connection(self) -> None:
        self.connection += 1
        self._hello, self._agreed = None, False
        for outgoing in self.travelling:
            outgoing.abandon()

    async def reconnect(self) -> None:
        self.leave_connection()
        await self._parts.link.disconnect()
        if not self._machine.over:
            await self._parts.link.connect(self._parts.peer)

    async def send_inputs(self, first_seq: int, frames: Sequence[Frame]) -> None:
        packed = [frame.pack() for frame in frames]
        header = wire.InputFrames(self.session, first_seq, tuple(map(len, packed)))
        try:
            await self._parts.link.send(header, b"".join(packed))
        except TransportError as error:
            _LOG.debug("inputs not mirrored: %s", error)

    async def say(self, message: wire.Message) -> None:
        connection = self.connection
        try:
            await self._parts.link.send(message)
        except TransportError as error:
            self.fail(connection, error)

    async def offer_guest(self, effect: fx.OfferGuest) -> None:
        await self.say(wire.HandOver(effect.session, self._parts.keeper.lease.term, effect.epoch))

    async def tell_stand_down(self, reason: str) -> None:
        try:
            await self._parts.link.send(wire.StandDown(self._parts.keeper.lease.term, reason))
        except TransportError as error:
            _LOG.info("the secondary was not told to stand down: %s", error)
