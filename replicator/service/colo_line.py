"""A primary's part in COLO: what it says to the secondary about checkpoints, and its relay's comparison.

Pages that the secondary's VM has written are owed like those of our guest, and no delta may build upon what the
secondary held of them. When a checkpoint is made, and from which epoch on outputs are compared, says engine/primary.py.
"""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable

from replicator.engine import effects as fx
from replicator.engine import events as ev
from replicator.errors import ReplicatorError, WireError
from replicator.service.ledger import OwedLedger
from replicator.service.part_encoder import PartEncoder
from replicator.service.primary_parts import ColoParts, Post
from replicator.service.recorder import BackChannelRecorder
from replicator.units import Epoch
from replicator.wire import session as wire
from replicator.wire.back_channel import check_of, parse_piece
from replicator.wire.layout import CheckpointStateId

_LOG = logging.getLogger(__name__)


class ColoLine:
    """For one life of a primary."""

    def __init__(
        self,
        colo: ColoParts,
        ledger: OwedLedger,
        encoder: PartEncoder,
        pfn_end: int,
        *,
        send: Callable[[wire.Message], None],
        post: Post,
        recorder: BackChannelRecorder | None = None,
    ) -> None:
        self.relay = colo.relay
        self._ledger = ledger
        self._encoder = encoder
        self._pfn_end = pfn_end
        self._dial = colo.dial
        self._send = send
        self._post = post
        self._recorder = recorder
        #: Of a word whose pieces are coming in.
        self._pfns = array("Q")
        self._state: CheckpointStateId | None = None

    def open_channel(self, frames: bytes) -> None:
        """The secondary has accepted the session whose frames go by this name."""
        self._pfns, self._state = array("Q"), None
        try:
            self.relay.attach(self._dial(frames))
        except ReplicatorError as error:
            self._post(ev.ChannelLost(str(error)))

    def suspend(self, effect: fx.SuspendSecondaryVm) -> None:
        self._send(wire.CheckpointNew(effect.session, effect.epoch))

    def compare(self, effect: fx.CompareOutput) -> None:
        if not self.relay.compare(effect.epoch):
            self._post(ev.ChannelLost("there is no channel for the guests' frames"))

    def stop_comparing(self) -> None:
        self.relay.stop_comparing()

    def hear(self, message: wire.CheckpointWord, payload: memoryview) -> None:
        """A piece of what the secondary says."""
        if message.check != check_of(payload):
            self._refuse(message, "was changed on its way")
            return
        try:
            state, pfns = parse_piece(payload, self._pfn_end)
        except WireError as error:
            self._refuse(message, f"is none: {error}")
            return
        if state is not None:
            self._state, self._pfns = state, array("Q")
        self._pfns.extend(pfns)
        if not message.more:
            self._take(message)

    def _refuse(self, message: wire.CheckpointWord, why: str) -> None:
        self._post(ev.EpochRefused(Epoch(message.epoch), f"its word on a checkpoint {why}"))

    def _take(self, message: wire.CheckpointWord) -> None:
        state, pfns, epoch = self._state, self._pfns, Epoch(message.epoch)
        self._state, self._pfns = None, array("Q")
        if state is CheckpointStateId.SVM_SUSPENDED:
            self._ledger.owe(pfns)
            if self._recorder is not None:
                self._recorder.note_suspended(pfns)
            self._encoder.forget_pages(pfns)
            self._post(ev.SecondaryVmSuspended(message.session, epoch))
        elif state is CheckpointStateId.SVM_RESUMED:
            if self._recorder is not None:
                self._recorder.note_resumed()
            self._post(ev.SecondaryVmResumed(message.session, epoch))
        else:
            _LOG.debug("the secondary's VM is ready with epoch %d", epoch)
