"""An epoch between its beginning and its commit. What it does with the pages depends on its mode:

    STAGED    it fits staging: kept apart, verified, journal REDO, applied, journal COMMITTED
    UNDO      it outgrew staging: old pages go to the undo log, parts applied early, verified, COMMITTED
    IN_PLACE  there is no epoch to keep (initial synchronisation): applied as it comes, must cover every page

Rule: RAM is never touched before the journal says how to get back to a whole epoch or forward to one.

Records are read as the parts arrive, so that the commit, for which the guest's output waits, has nothing left
to do but compare the digest, write the device state and copy pages.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from enum import Enum

import xxhash

from replicator.errors import EpochError, NativeError, StoreError
from replicator.store.epoch_stream import EpochStream, PageBatch
from replicator.store.journal import Entry, EpochMark, Phase
from replicator.store.replica_files import ReplicaFiles


class Mode(Enum):
    STAGED = "staged"
    UNDO = "undo"
    IN_PLACE = "in place"


class OpenEpoch:
    """Takes parts in order. After an error the caller calls `take_back` and forgets it."""

    def __init__(
        self, opened: ReplicaFiles, term: int, epoch: int, session: bytes, *, in_place: bool
    ) -> None:
        self.term, self.epoch = term, epoch
        self._session = session
        self._files = opened
        self.mode = Mode.IN_PLACE if in_place else Mode.STAGED
        self.parts = 0
        self._bytes_in = 0
        self._stream = EpochStream(epoch, opened.ram)
        #: Bytes at the start of staging, and how many of them are records that were read.
        self._staged = self._read = 0
        #: STAGED: the pages, still in staging.
        self._kept: list[PageBatch] = []
        #: IN_PLACE: the frames that arrived.
        self._covered = opened.layout.new_bitmap() if in_place else None

    def add_part(self, payload: memoryview) -> None:
        """EpochError for bytes that are no epoch, StoreError when there is no room."""
        self.parts += 1
        self._bytes_in += len(payload)
        if self.mode is Mode.STAGED:
            if self._staged + len(payload) <= self._files.staging_bytes_max:
                self._stage(payload)
                self._kept += self._read_staged()
                return
            self._start_undo()
        self._add_early(payload)

    def verify(self, parts: int, size: int, digest: bytes) -> None:
        """The epoch is whole: it is what the sender says he sent, and a whole piece of a stream. EpochError
        otherwise."""
        if (parts, size) != (self.parts, self._bytes_in):
            raise self._error(
                f"{self.parts} parts of {self._bytes_in} bytes arrived, {parts} of {size} were sent"
            )
        if self._read != self._staged or not self._stream.complete:
            raise self._error("it ends inside a record or before CHECKPOINT_END")
        if digest != self._stream.digest.digest():
            raise self._error("the digest does not match")
        if self._stream.device_state is None:
            raise self._error("it has no device state")
        if self._covered is not None and (missing := self._files.layout.pages - self._covered.count()):
            raise self._error(f"the initial synchronisation left out {missing} pages")

    def prepare(self) -> EpochMark:
        """Save what the commit of a verified epoch needs. Up to its end the epoch can be taken back."""
        state = self._stream.device_state or b""
        self._files.write_state(state)
        mark = EpochMark(
            term=self.term,
            epoch=self.epoch,
            digest=self._stream.digest.digest(),
            session=self._session,
            state_bytes=len(state),
            state_check=xxhash.xxh3_64_intdigest(state),
        )
        if self.mode is Mode.STAGED:
            entry = replace(self._files.entry, phase=Phase.REDO, pending=mark, staged_bytes=self._staged)
            self._files.journal.write(entry)
        return mark

    def apply(self, mark: EpochMark) -> None:
        """Make the prepared epoch the committed one. After an error only recovery can help."""
        for pfns, data in self._kept:
            self._files.ram.scatter(pfns, data)
        self._kept.clear()
        flip(self._files, mark)

    def take_back(self) -> None:
        """Leave the RAM as it was. After an error only recovery can help."""
        self._kept.clear()
        if self.mode is Mode.UNDO:
            roll_back(self._files)

    def _stage(self, payload: memoryview) -> None:
        self._files.stage(payload, self._staged)
        self._staged += len(payload)

    def _read_staged(self) -> list[PageBatch]:
        """The pages of the records that became whole in staging."""
        batches, used = self._stream.take(memoryview(self._files.staging)[self._read : self._staged])
        self._read += used
        return batches

    def _start_undo(self) -> None:
        """Log old pages from now on, and apply what is staged."""
        self._files.undo.start(self.term, self.epoch)
        pending = EpochMark(self.term, self.epoch, session=self._session)
        has_guest = self._files.entry.phase is Phase.ACTIVE
        phase = Phase.UNDO_ACTIVE if has_guest else Phase.UNDO
        self._files.journal.write(replace(self._files.entry, phase=phase, pending=pending))
        self.mode = Mode.UNDO
        kept, self._kept = self._kept, []
        self._apply_early(kept)
        self._drop_read()

    def _add_early(self, payload: memoryview) -> None:
        """Apply whole records from where they are; only those cut in two go through staging."""
        while payload:
            if not self._staged:
                batches, used = self._stream.take(payload)
                self._apply_early(batches)
                payload = payload[used:]
            room = self._files.staging_bytes_max - self._staged
            if payload and not room:
                raise StoreError(
                    f"one record of epoch {self.epoch} does not fit staging",
                    hint=f"raise [epoch] staging_mib, now {self._files.staging_bytes_max} bytes",
                )
            self._stage(payload[:room])
            payload = payload[room:]
            self._apply_early(self._read_staged())
            self._drop_read()

    def _apply_early(self, batches: list[PageBatch]) -> None:
        for pfns, data in batches:
            if self._covered is not None:
                self._covered.set_pfns(pfns)
                self._fill(pfns, data)
            else:
                self._files.undo.save(pfns, self._files.ram)
                self._files.ram.scatter(pfns, data)

    def _fill(self, pfns: array[int], data: memoryview) -> None:
        try:
            self._files.ram.fill(pfns, data)
        except NativeError as error:
            raise StoreError(f"epoch {self.epoch}: {error}", hint="the replica stays unsynced") from error

    def _drop_read(self) -> None:
        """Move the incomplete record to the start of staging."""
        self._staged -= self._read
        self._files.staging.move(0, self._read, self._staged)
        self._read = 0

    def _error(self, what: str) -> EpochError:
        return EpochError(
            f"epoch {self.epoch}: {what}",
            epoch=self.epoch,
            hint="the link resyncs from the last committed epoch",
        )


def flip(opened: ReplicaFiles, mark: EpochMark) -> None:
    """RAM and the device state beside the committed one are those of `mark`: say so in the journal."""
    entry = replace(
        opened.entry,
        phase=Phase.COMMITTED,
        state_slot=1 - opened.entry.state_slot,
        committed=mark,
        pending=EpochMark(),
        staged_bytes=0,
        reason="",
    )
    opened.journal.write(entry)
    opened.undo.clear()


def roll_back(opened: ReplicaFiles) -> int:
    """Put back the pages that were applied early; return how many. StoreError when that cannot be done."""
    entry: Entry = opened.entry
    pages = opened.undo.roll_back(entry.pending.term, entry.pending.epoch, opened.ram)
    phase = Phase.ACTIVE if entry.phase is Phase.UNDO_ACTIVE else Phase.COMMITTED
    opened.journal.write(replace(entry, phase=phase, pending=EpochMark()))
    opened.undo.clear()
    return pages
