"""The secondary's copy of a guest: RAM and device state that equal one whole epoch, or are not trusted.

Rules: 1. RAM is never touched before the journal says how to get back to a whole epoch or forward to one.
2. The device state of a new epoch goes to the file that the committed one does not use. 3. Whatever makes
an epoch fail, the last committed one is whole again before the error reaches the caller. 4. What cannot be
proven whole at start is declared unsynced, with the reason, and is never promotable.

Calls block on memory speed and are not safe from several threads at once. This file does not know what
carries the parts, who may promote, or which guest maps the RAM file. How an epoch is applied is in
open_epoch.py, what happens at start in recovery.py.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from replicator.errors import EpochError, InvariantError, StoreError, require
from replicator.memory.pages import GuestLayout
from replicator.store import files
from replicator.store.journal import Entry, Phase
from replicator.store.open_epoch import OpenEpoch
from replicator.store.recovery import FRESH, open_replica
from replicator.store.replica_files import RAM, ReplicaFiles, empty_entry, remove_all_but_ram, remove_files
from replicator.store.replica_ram import ReplicaRam
from replicator.store.verdicts import Committed, Promotable, Recovery, committed_of, promotable_of
from replicator.units import PAGE_SIZE, Epoch, Term

SESSION_BYTES = 16
_SYNC_UNFINISHED = "the initial synchronisation has not finished"


class ReplicaStore:
    """The files of one replica in `directory` (created 0700; its parent must exist).

    Nothing is opened before `recover`, which must be the first call. `staging_bytes_max` bounds what is kept
    of an epoch before it is applied; one record must fit. Every failure of the files is a StoreError. `write_at`
    writes to files (not to RAM); a simulation brings one that fails.
    """

    def __init__(
        self,
        directory: Path,
        ram_bytes: int,
        layout: GuestLayout,
        staging_bytes_max: int,
        *,
        write_at: files.WriteAt = files.write_at,
    ) -> None:
        require(ram_bytes > 0 and ram_bytes % PAGE_SIZE == 0, "RAM must be whole pages")
        require(layout.pages * PAGE_SIZE == ram_bytes, "the layout must cover the RAM")
        require(staging_bytes_max >= PAGE_SIZE, "staging must hold at least a page")
        self._directory = Path(directory)
        self._layout = layout
        self._staging_bytes_max = staging_bytes_max
        self._write_at = write_at
        self._files: ReplicaFiles | None = None
        self._open: OpenEpoch | None = None
        #: What the journal said when it was asked last, and what that stands for.
        self._read_entry: Entry | None = None
        self._committed: Committed | None = None
        #: Not empty: RAM may be torn and cannot be mended here; only `discard` or a new start helps.
        self._failed = ""
        #: Who runs on an ACTIVE RAM is a VM that epochs are loaded into.
        self._has_vm = False

    # What the replica is worth.

    @property
    def ram_path(self) -> Path:
        """The RAM file that a standby maps."""
        return self._directory / RAM

    @property
    def ram(self) -> ReplicaRam:
        return self._recovered.ram

    @property
    def committed(self) -> Committed | None:
        if self._files is None:
            return None
        entry = self._files.journal.entry
        if entry is not self._read_entry:
            self._read_entry = entry
            self._committed = committed_of(entry)
        return self._committed

    @property
    def session(self) -> bytes:
        """Session in which the committed epoch arrived (16 bytes, zero when unknown)."""
        return self._recovered.entry.committed.session

    @property
    def promotable(self) -> Promotable:
        """True only while RAM and device state are exactly those of `committed`."""
        if self._files is None:
            return Promotable(False, FRESH)
        if self._failed:
            return Promotable(False, self._failed)
        return promotable_of(self._files.entry)

    def device_state(self) -> bytes:
        """Device state of the committed epoch."""
        require(self.committed is not None, "an unsynced replica has no device state")
        entry = self._recovered.entry
        return self._recovered.read_state(entry.state_slot, entry.committed)

    # Start and end.

    def recover(self) -> Recovery:
        """Open or create the files and bring RAM to a whole epoch, or declare the replica unsynced."""
        require(self._files is None, "recover() is called once")
        self._files, recovery = open_replica(
            self._directory, self._layout, self._staging_bytes_max, self._write_at
        )
        self._failed = ""
        return recovery

    def close(self) -> None:
        """Give up mappings, descriptors and the lock. An open epoch is taken back. May be repeated."""
        opened, self._files = self._files, None
        epoch, self._open = self._open, None
        if opened is None:
            return
        try:
            if epoch is not None and not self._failed:
                epoch.take_back()
        finally:
            opened.close()

    def forsake(self) -> None:
        """Give up mappings, descriptors and the lock as the death of this process would: nothing is taken back."""
        opened, self._files, self._open = self._files, None, None
        if opened is not None:
            opened.close()

    def leave_ram_to_guest(self) -> None:
        """A guest runs on the RAM file: close everything, and free the rest of the replica's space."""
        require(self._recovered.entry.phase is Phase.ACTIVE, "only an active replica is left to its guest")
        self.forsake()
        remove_all_but_ram(self._directory)

    def destroy(self) -> None:
        """Close, and remove the replica's files (the directory too when nothing else is in it)."""
        self.close()
        remove_files(self._directory)

    def mark_active(self) -> None:
        """A guest is about to run on the RAM file: from now on it equals no epoch. Call before `resume`.

        A later start, or `discard`, declares the replica unsynced.
        """
        self.abort()
        require(self.promotable.ready, f"not promotable: {self.promotable.reason}")
        entry = replace(self._recovered.entry, phase=Phase.ACTIVE, reason="the guest ran on this RAM file")
        self._recovered.journal.write(entry)

    def mark_vm(self) -> None:
        """As `mark_active`, for a VM that is to become equal to the next epoch again: that may be begun over what the VM
        has written, and must carry every page that it wrote. Given up, it leaves the VM's pages as they were."""
        self.mark_active()
        self._has_vm = True

    @property
    def _base(self) -> Committed | None:
        """What the next epoch may build upon."""
        mark = self._recovered.entry.committed
        if self._has_vm and self._recovered.entry.phase is Phase.ACTIVE:
            return Committed(Term(mark.term), Epoch(mark.epoch), mark.digest)
        return self.committed

    def discard(self, reason: str) -> None:
        """Declare the replica unsynced, so that a new initial synchronisation may begin."""
        self._recovered.journal.write(empty_entry(self._layout, reason))
        self._open, self._failed, self._has_vm = None, "", False
        self._recovered.undo.clear()

    # One epoch.

    def begin(self, term: int, epoch: int, *, session: bytes = b"", first_of_sync: bool = False) -> None:
        """Open `epoch`. An epoch that is still open is aborted first.

        It must be the successor of the committed one. The first of a (re)sync (epoch 1, or `first_of_sync`)
        may be any later (term, epoch), because it carries all that differs from the base both sides agreed
        on. With no base it must carry every page.
        Raises EpochError.
        """
        self.abort()
        is_active = self._recovered.entry.phase is Phase.ACTIVE
        require(not is_active or self._has_vm, "the guest runs on this RAM file")
        require(len(session) <= SESSION_BYTES, f"a session id has at most {SESSION_BYTES} bytes")
        self._check_successor(term, epoch, first_of_sync or epoch == 1)
        in_place = self._base is None
        if in_place:
            self._recovered.journal.write(empty_entry(self._layout, _SYNC_UNFINISHED))
        padded = session.ljust(SESSION_BYTES, b"\0")
        self._open = OpenEpoch(self._recovered, term, epoch, padded, in_place=in_place)

    def _check_successor(self, term: int, epoch: int, first_of_sync: bool) -> None:
        base = self._base
        if term < 1 or epoch < 1:
            raise EpochError(f"term {term}, epoch {epoch}: both count from 1", epoch=epoch)
        if base is None:
            if not first_of_sync:
                raise EpochError(
                    f"epoch {epoch} has no base: the replica is unsynced ({self.promotable.reason})",
                    epoch=epoch,
                    hint="the primary must start a full synchronisation",
                )
            return
        allowed = (term, epoch) == (base.term, base.epoch + 1)
        if first_of_sync:
            allowed = (term, epoch) > (base.term, base.epoch)
        if not allowed:
            raise EpochError(
                f"term {term} epoch {epoch} does not follow the committed term {base.term} "
                f"epoch {base.epoch}",
                epoch=epoch,
                hint="the link resyncs from the last committed epoch",
            )

    def add_part(self, index: int, payload: memoryview) -> None:
        """Take the next part. The caller may reuse `payload` afterwards.

        On any error the epoch is gone and the committed one whole. Raises EpochError or StoreError.
        """
        epoch = self._opened()
        try:
            if index != epoch.parts:
                raise EpochError(f"part {index} where part {epoch.parts} was due", epoch=epoch.epoch)
            epoch.add_part(memoryview(payload).cast("B"))
        except (EpochError, StoreError):
            self.abort()
            raise
        except BaseException as error:
            self._fail(f"applying epoch {epoch.epoch} failed: {error}")
            raise

    def finish(self, parts: int, bytes: int, digest: bytes) -> Committed:
        """Verify the open epoch against the sender's totals and commit it.

        On EpochError or StoreError the epoch is gone and the committed one whole.
        """
        epoch = self._opened()
        try:
            epoch.verify(parts, bytes, digest)
            mark = epoch.prepare()
        except (EpochError, StoreError):
            self.abort()
            raise
        try:
            epoch.apply(mark)
        except BaseException as error:
            self._fail(f"committing epoch {epoch.epoch} failed: {error}")
            raise
        self._open = None
        committed = self.committed
        if committed is None:
            raise InvariantError("a finished epoch is committed")
        return committed

    def abort(self) -> None:
        """Drop the open epoch, if any; pages applied early are put back."""
        require(not self._failed, self._failed)
        epoch, self._open = self._open, None
        if epoch is None:
            return
        try:
            epoch.take_back()
        except BaseException as error:
            self._fail(f"taking back epoch {epoch.epoch} failed: {error}")
            raise

    # Small helpers.

    @property
    def _recovered(self) -> ReplicaFiles:
        if self._files is None:
            raise InvariantError("recover() comes first")
        return self._files

    def _opened(self) -> OpenEpoch:
        require(not self._failed, self._failed)
        if self._open is None:
            raise EpochError("no epoch is open", epoch=0, hint="its beginning was lost or refused")
        return self._open

    def _fail(self, reason: str) -> None:
        """RAM may be torn and cannot be mended here: refuse all use until `discard` or the next start."""
        self._failed = reason
        self._open = None
