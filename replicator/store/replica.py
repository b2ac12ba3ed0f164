"""The secondary's copy of a guest: RAM and device state that always equal one whole epoch, or are not trusted.

Modes of an open epoch:
    STAGED    it fits staging: kept apart, verified, journal REDO, applied, journal COMMITTED
    UNDO      it outgrew staging: old pages go to the undo log, parts are applied early, verified, COMMITTED
    IN_PLACE  there is no epoch to keep (initial synchronisation): applied as it arrives, must cover every page

Rules: 1. RAM is never touched before the journal says how to get back to a whole epoch or forward to one.
2. The device state of a new epoch goes to the file that the committed one does not use. 3. Whatever makes an
epoch fail, the last committed one is whole again before the error reaches the caller. 4. What cannot be proven
whole at start is declared unsynced, with the reason, and is never promotable.

"Crash" means the death of a process: the page cache survives, nothing is synced. A journal written before a reboot
of the host is therefore not believed. Calls block on memory speed and are not safe from several threads at once.
This file does not know what carries the parts, who may promote, or which guest maps the RAM file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import xxhash

from replicator.errors import EpochError, StoreError, require
from replicator.memory.pages import GuestLayout, GuestRam
from replicator.store import files
from replicator.store.epoch_stream import EpochStream
from replicator.store.journal import Entry, EpochMark, Journal, Phase
from replicator.store.undo import UndoLog
from replicator.units import PAGE_SIZE, Epoch, Term

_STATE_NAMES = ("state-0", "state-1")
_ALL_NAMES = ("ram", "staging", "undo", *_STATE_NAMES, "journal")
_FRESH = "no epoch was ever committed here"
_SYNC_UNFINISHED = "the initial synchronisation has not finished"


class Committed(NamedTuple):
    """The epoch that RAM and device state are those of."""

    term: Term
    epoch: Epoch
    #: xxh3_128 over the joined payloads of the epoch.
    digest: bytes


class Promotable(NamedTuple):
    """Whether a guest may be started from the replica; if not, why."""

    ready: bool
    reason: str = ""


class Outcome(Enum):
    """What `recover` found."""

    FRESH = "fresh"
    CLEAN = "clean"
    REDONE = "redone"
    ROLLED_BACK = "rolled back"
    UNSYNCED = "unsynced"


@dataclass(frozen=True, slots=True)
class Recovery:
    outcome: Outcome
    committed: Committed | None
    #: For the operator: what happened, or why the replica is not trusted.
    reason: str
    #: Names of the files in which a crash had left something that was thrown away.
    removed: tuple[str, ...] = ()


class _Mode(Enum):
    STAGED = "staged"
    UNDO = "undo"
    IN_PLACE = "in place"


@dataclass(slots=True)
class _OpenEpoch:
    term: int
    epoch: int
    session: bytes
    mode: _Mode
    stream: EpochStream
    parts: int = 0
    bytes_in: int = 0
    #: Bytes at the start of staging that were not applied yet.
    staged: int = 0
    digest: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)
    #: IN_PLACE only: one byte a frame, 1 when it arrived.
    covered: bytearray = field(default_factory=bytearray)


class ReplicaStore:
    """The files of one replica in `directory` (created 0700; its parent must exist).

    Nothing is opened before `recover`, which must be the first call. `staging_bytes_max` bounds what is kept of an
    epoch before it is applied; one record must fit. Every failure of the files is a StoreError.
    """

    def __init__(self, directory: Path, ram_bytes: int, layout: GuestLayout, staging_bytes_max: int) -> None:
        require(ram_bytes > 0 and ram_bytes % PAGE_SIZE == 0, "RAM must be whole pages")
        require(staging_bytes_max >= PAGE_SIZE, "staging must hold at least a page")
        self._directory = Path(directory)
        self._ram_bytes = ram_bytes
        self._layout = layout
        self._staging_bytes_max = staging_bytes_max
        self._ranges = [(part.first_pfn, part.first_pfn + part.pages) for part in layout.segments]
        require(layout.pages * PAGE_SIZE == ram_bytes, "the layout must cover the RAM")
        self._open: _OpenEpoch | None = None
        self._failed = ""
        self._journal: Journal | None = None
        self._undo: UndoLog | None = None
        self._ram: GuestRam | None = None
        self._staging_fd = -1
        self._staging: mmap.mmap | None = None
        self._entry = self._empty_entry(_FRESH)

    # What the replica is worth.

    @property
    def ram_path(self) -> Path:
        """The RAM file that a standby maps."""
        return self._directory / "ram"

    @property
    def ram(self) -> GuestRam:
        require(self._ram is not None, "recover() comes first")
        assert self._ram is not None
        return self._ram

    @property
    def committed(self) -> Committed | None:
        mark = self._entry.committed
        if self._entry.phase in (Phase.UNSYNCED, Phase.ACTIVE) or not mark.epoch:
            return None
        return Committed(Term(mark.term), Epoch(mark.epoch), mark.digest)

    @property
    def session(self) -> bytes:
        """Session in which the committed epoch arrived (16 bytes, zero when unknown)."""
        return self._entry.committed.session

    @property
    def promotable(self) -> Promotable:
        """True only while RAM and device state are exactly those of `committed`."""
        phase = self._entry.phase
        if self._failed:
            return Promotable(False, self._failed)
        if phase is Phase.ACTIVE:
            return Promotable(False, "the guest runs on this RAM file")
        if phase is Phase.UNSYNCED:
            return Promotable(False, self._entry.reason)
        if phase is not Phase.COMMITTED:
            return Promotable(False, f"epoch {self._entry.pending.epoch} is being applied")
        return Promotable(True)

    def device_state(self) -> bytes:
        """Device state of the committed epoch."""
        require(self.committed is not None, "an unsynced replica has no device state")
        return self._read_state(self._entry.state_slot, self._entry.committed)

    # Start and end.

    def recover(self) -> Recovery:
        """Open or create the files and bring RAM to a whole epoch, or declare the replica unsynced."""
        require(self._journal is None, "recover() is called once")
        try:
            return self._recover()
        except BaseException:
            self.close()
            raise

    def _recover(self) -> Recovery:
        files.make_directory(self._directory)
        self._journal = Journal(self._directory / "journal")
        found = self._journal.read()
        distrust = self._reason_to_distrust(found)
        self._open_files()
        if found is None or distrust:
            outcome = Outcome.UNSYNCED if distrust else Outcome.FRESH
            recovery = self._declare_unsynced(distrust or _FRESH, outcome)
        else:
            self._entry = found
            recovery = self._recover_phase()
        return replace(recovery, removed=self._remove_leftovers())

    def _reason_to_distrust(self, found: Entry | None) -> str:
        """Why the files cannot be what the journal says; "" when they can. Looks before anything is created."""
        if found is None:
            return "the journal is unreadable" if (self._directory / "ram").exists() else ""
        expected = self._empty_entry("")
        if (found.ram_bytes, found.layout_check) != (expected.ram_bytes, expected.layout_check):
            return "the replica was made for another RAM size or layout"
        if found.phase is Phase.UNSYNCED:
            return found.reason
        if found.boot != expected.boot:
            return "the host restarted since the last commit"
        if not self.ram_path.exists() or self.ram_path.stat().st_size != self._ram_bytes:
            return "the RAM file is missing or has another size"
        return ""

    def _recover_phase(self) -> Recovery:
        phase, pending = self._entry.phase, self._entry.pending
        try:
            if phase is Phase.ACTIVE:
                return self._declare_unsynced("the guest ran on this RAM file", Outcome.UNSYNCED)
            if phase is Phase.REDO:
                self._redo()
                return self._recovered(Outcome.REDONE, f"finished applying epoch {pending.epoch}")
            if phase is Phase.UNDO:
                pages = self._roll_back()
                return self._recovered(
                    Outcome.ROLLED_BACK, f"took back {pages} pages of unfinished epoch {pending.epoch}"
                )
            self.device_state()
            return self._recovered(Outcome.CLEAN, "")
        except (StoreError, EpochError) as error:
            return self._declare_unsynced(
                f"interrupted {phase.name} cannot be resolved: {error}", Outcome.UNSYNCED
            )

    def _recovered(self, outcome: Outcome, reason: str) -> Recovery:
        return Recovery(outcome, self.committed, reason)

    def _declare_unsynced(self, reason: str, outcome: Outcome) -> Recovery:
        self._write(self._empty_entry(reason))
        return Recovery(outcome, None, reason)

    def _open_files(self) -> None:
        ram_fd = files.open_private(self.ram_path)
        try:
            files.set_size(ram_fd, self.ram_path, self._ram_bytes)
        finally:
            os.close(ram_fd)
        staging = self._directory / "staging"
        self._staging_fd = files.open_private(staging)
        # A staged epoch to be redone may be larger than a limit that was lowered since.
        size = max(self._staging_bytes_max, os.fstat(self._staging_fd).st_size)
        files.set_size(self._staging_fd, staging, size)
        self._staging = mmap.mmap(self._staging_fd, size)
        self._undo = UndoLog(self._directory / "undo", self._layout.pfn_limit)
        for name in _STATE_NAMES:
            os.close(files.open_private(self._directory / name))
        self._ram = GuestRam(self.ram_path, self._layout)

    def _remove_leftovers(self) -> tuple[str, ...]:
        """Empty what only an unfinished epoch needed."""
        removed = []
        if self._undo_log.bytes_on_disk:
            self._undo_log.clear()
            removed.append("undo")
        used = None if self._entry.phase is Phase.UNSYNCED else self._entry.state_slot
        for slot, name in enumerate(_STATE_NAMES):
            path = self._directory / name
            if slot != used and path.stat().st_size:
                os.truncate(path, 0)
                removed.append(name)
        return tuple(removed)

    def close(self) -> None:
        """Give up mappings, descriptors and the lock. An open epoch is taken back. May be repeated."""
        if self._open is not None and not self._failed:
            self.abort()
        self._open = None
        if self._ram is not None:
            self._ram.close()
            self._ram = None
        if self._staging is not None:
            with contextlib.suppress(BufferError):  # a traceback still holds a view; it is unmapped with that
                self._staging.close()
            self._staging = None
        if self._staging_fd >= 0:
            os.close(self._staging_fd)
            self._staging_fd = -1
        if self._undo is not None:
            self._undo.close()
            self._undo = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def destroy(self) -> None:
        """Close, and remove the replica's files (only those; the directory too when nothing else is in it)."""
        self.close()
        for name in _ALL_NAMES:
            (self._directory / name).unlink(missing_ok=True)
        try:
            self._directory.rmdir()
        except OSError:
            return

    def mark_active(self) -> None:
        """A guest is about to run on the RAM file: from now on it equals no epoch. Call before `resume`.

        A later start, or `discard`, declares the replica unsynced.
        """
        require(self.promotable.ready, f"not promotable: {self.promotable.reason}")
        self.abort()
        self._write(replace(self._entry, phase=Phase.ACTIVE, reason="the guest ran on this RAM file"))

    def discard(self, reason: str) -> None:
        """Declare the replica unsynced, so that a new initial synchronisation may begin."""
        if self._open is not None and not self._failed:
            self.abort()
        self._write(self._empty_entry(reason))
        self._open, self._failed = None, ""
        self._undo_log.clear()

    # One epoch.

    def begin(self, term: int, epoch: int, *, session: bytes = b"", first_of_sync: bool = False) -> None:
        """Open `epoch`. An epoch that is still open is aborted first.

        It must be the successor of the committed one. The first of a (re)sync (epoch 1, or `first_of_sync`) may be
        any later (term, epoch), because it carries all that differs from the base both sides agreed on.
        Raises EpochError.
        """
        require(self._journal is not None, "recover() comes first")
        require(not self._failed, self._failed)
        require(self._entry.phase is not Phase.ACTIVE, "the guest runs on this RAM file")
        require(len(session) <= 16, "a session id has at most 16 bytes")
        self.abort()
        self._check_successor(term, epoch, first_of_sync or epoch == 1)
        in_place = self.committed is None
        if in_place:
            self._write(self._empty_entry(_SYNC_UNFINISHED))
        self._open = _OpenEpoch(
            term=term,
            epoch=epoch,
            session=session.ljust(16, b"\0"),
            mode=_Mode.IN_PLACE if in_place else _Mode.STAGED,
            stream=EpochStream(epoch, self._layout.pfn_limit, self._pfn_checker(epoch)),
            covered=bytearray(self._layout.pfn_limit if in_place else 0),
        )

    def _check_successor(self, term: int, epoch: int, first_of_sync: bool) -> None:
        base = self.committed
        if term < 1 or epoch < 1:
            raise EpochError(f"term {term}, epoch {epoch}: both count from 1", epoch=epoch)
        if base is None:
            if not first_of_sync:
                raise EpochError(
                    f"epoch {epoch} has no base: the replica is unsynced ({self._entry.reason})",
                    epoch=epoch,
                    hint="the primary must start a full synchronisation",
                )
            return
        allowed = (term, epoch) > (base.term, base.epoch)
        if not first_of_sync:
            allowed = (term, epoch) == (base.term, base.epoch + 1)
        if not allowed:
            raise EpochError(
                f"term {term} epoch {epoch} does not follow the committed term {base.term} epoch {base.epoch}",
                epoch=epoch,
                hint="the link resyncs from the last committed epoch",
            )

    def _pfn_checker(self, epoch: int) -> Callable[[array[int]], None]:
        def check(pfns: array[int]) -> None:
            inside = sum(1 for pfn in pfns for first, end in self._ranges if first <= pfn < end)
            if inside != len(pfns):
                raise EpochError(f"epoch {epoch} names frames the guest does not have", epoch=epoch)

        return check

    def add_part(self, index: int, payload: memoryview) -> None:
        """Take part `index` (from 0, in order). The bytes are kept or applied before the call returns.

        On any error the epoch is gone and the committed one whole. Raises EpochError or StoreError.
        """
        opened = self._opened()
        if index != opened.parts:
            raise self._refuse(f"part {index} where part {opened.parts} was due")
        payload = memoryview(payload).cast("B")
        try:
            opened.digest.update(payload)
            opened.parts += 1
            opened.bytes_in += len(payload)
            self._take(opened, payload)
        except (EpochError, StoreError):
            self.abort()
            raise
        except BaseException as error:
            self._fail(f"applying epoch {opened.epoch} failed: {error}")
            raise

    def _take(self, opened: _OpenEpoch, payload: memoryview) -> None:
        if opened.mode is _Mode.STAGED:
            if opened.staged + len(payload) <= self._staging_bytes_max:
                self._stage(opened, payload)
                return
            self._start_undo(opened)
        while payload:
            if not opened.staged:
                payload = payload[self._apply_early(opened, payload) :]
            room = self._staging_bytes_max - opened.staged
            if payload and not room:
                raise StoreError(
                    f"one record of epoch {opened.epoch} does not fit staging",
                    hint=f"raise staging_bytes_max ({self._staging_bytes_max} now)",
                )
            self._stage(opened, payload[:room])
            payload = payload[room:]
            self._apply_staged_head(opened)

    def _stage(self, opened: _OpenEpoch, payload: memoryview) -> None:
        files.write_at(self._staging_fd, self._directory / "staging", payload, opened.staged)
        opened.staged += len(payload)

    def _start_undo(self, opened: _OpenEpoch) -> None:
        """The epoch outgrew staging: log old pages from now on and apply what is staged."""
        self._undo_log.start(opened.term, opened.epoch)
        pending = EpochMark(opened.term, opened.epoch, session=opened.session)
        self._write(replace(self._entry, phase=Phase.UNDO, pending=pending))
        opened.mode = _Mode.UNDO
        self._apply_staged_head(opened)

    def _apply_staged_head(self, opened: _OpenEpoch) -> None:
        """Apply the whole records in staging and move the incomplete one behind them to the start."""
        with memoryview(self._staged) as view:
            used = self._apply_early(opened, view[: opened.staged])
        self._staged.move(0, used, opened.staged - used)
        opened.staged -= used

    def _apply_early(self, opened: _OpenEpoch, view: memoryview) -> int:
        batches, used = opened.stream.take(view)
        for pfns, data in batches:
            if opened.mode is _Mode.UNDO:
                self._undo_log.save(pfns, self.ram)
            else:
                for pfn in pfns:
                    opened.covered[pfn] = 1
            self.ram.scatter(pfns, data)
        return used

    def finish(self, parts: int, bytes: int, digest: bytes) -> Committed:
        """Verify the open epoch against the sender's totals and commit it.

        On EpochError or StoreError the epoch is gone and the committed one whole.
        """
        opened = self._opened()
        if (parts, bytes) != (opened.parts, opened.bytes_in):
            raise self._refuse(
                f"{opened.parts} parts of {opened.bytes_in} bytes arrived, {parts} of {bytes} were sent"
            )
        if digest != opened.digest.digest():
            raise self._refuse("the digest does not match")
        try:
            self._verify_content(opened)
            pending = self._write_state(opened)
            if opened.mode is _Mode.STAGED:
                self._write(
                    replace(self._entry, phase=Phase.REDO, pending=pending, staged_bytes=opened.staged)
                )
        except (EpochError, StoreError):
            self.abort()
            raise
        try:
            if opened.mode is _Mode.STAGED:
                self._apply_staging(opened.epoch, opened.staged)
            self._flip(pending)
        except BaseException as error:
            self._fail(f"committing epoch {opened.epoch} failed: {error}")
            raise
        self._open = None
        if opened.mode is _Mode.UNDO:
            self._undo_log.clear()
        committed = self.committed
        require(committed is not None, "a finished epoch is committed")
        assert committed is not None
        return committed

    def _verify_content(self, opened: _OpenEpoch) -> None:
        if opened.mode is _Mode.STAGED:
            with memoryview(self._staged) as view:
                _, used = opened.stream.take(view[: opened.staged])
        else:
            used = 0
        if used != opened.staged or not opened.stream.complete:
            raise self._refuse("it ends inside a record or before CHECKPOINT_END")
        if opened.stream.device_state is None:
            raise self._refuse("it has no device state")
        missing = self._ram_bytes // PAGE_SIZE - opened.covered.count(1)
        if opened.mode is _Mode.IN_PLACE and missing:
            raise self._refuse(f"the initial synchronisation left out {missing} pages")

    def _write_state(self, opened: _OpenEpoch) -> EpochMark:
        """Put the new device state beside the committed one; return the mark that will make it count."""
        state = opened.stream.device_state or b""
        path = self._directory / _STATE_NAMES[1 - self._entry.state_slot]
        fd = files.open_private(path)
        try:
            os.ftruncate(fd, 0)
            files.write_at(fd, path, state, 0)
        finally:
            os.close(fd)
        return EpochMark(
            term=opened.term,
            epoch=opened.epoch,
            digest=opened.digest.digest(),
            session=opened.session,
            state_bytes=len(state),
            state_check=xxhash.xxh3_64_intdigest(state),
        )

    def _read_state(self, slot: int, mark: EpochMark) -> bytes:
        path = self._directory / _STATE_NAMES[slot]
        fd = files.open_private(path)
        try:
            state = files.read_at(fd, path, mark.state_bytes, 0)
        finally:
            os.close(fd)
        if len(state) != mark.state_bytes or xxhash.xxh3_64_intdigest(state) != mark.state_check:
            raise StoreError(
                f"{path} is not the device state of epoch {mark.epoch}",
                hint="the replica cannot be promoted; let it synchronise anew",
            )
        return state

    def _apply_staging(self, epoch: int, staged: int) -> None:
        stream = EpochStream(epoch, self._layout.pfn_limit, self._pfn_checker(epoch))
        with memoryview(self._staged) as view:
            batches, _ = stream.take(view[:staged])
            for pfns, data in batches:
                self.ram.scatter(pfns, data)
            del batches

    def _flip(self, mark: EpochMark) -> None:
        self._write(
            replace(
                self._entry,
                phase=Phase.COMMITTED,
                state_slot=1 - self._entry.state_slot,
                committed=mark,
                pending=EpochMark(),
                staged_bytes=0,
                reason="",
            )
        )

    def abort(self) -> None:
        """Drop the open epoch, if any; pages applied early are put back."""
        require(not self._failed, self._failed)
        opened, self._open = self._open, None
        if opened is None or opened.mode is not _Mode.UNDO:
            return
        try:
            self._roll_back()
            self._undo_log.clear()
        except BaseException as error:
            self._fail(f"taking back epoch {opened.epoch} failed: {error}")
            raise

    # Recovery of an interrupted epoch.

    def _redo(self) -> None:
        pending, staged = self._entry.pending, self._entry.staged_bytes
        if staged > len(self._staged):
            raise StoreError("staging is shorter than the journal says")
        with memoryview(self._staged) as view:
            digest = xxhash.xxh3_128_digest(view[:staged])
        if digest != pending.digest:
            raise StoreError("staging does not hold the epoch that was being applied")
        self._read_state(1 - self._entry.state_slot, pending)
        self._apply_staging(pending.epoch, staged)
        self._flip(pending)

    def _roll_back(self) -> int:
        pending = self._entry.pending
        pages = self._undo_log.roll_back(pending.term, pending.epoch, self.ram)
        self._write(replace(self._entry, phase=Phase.COMMITTED, pending=EpochMark()))
        self.device_state()
        return pages

    # Small helpers.

    def _empty_entry(self, reason: str) -> Entry:
        layout = array("Q")
        for part in self._layout.segments:
            layout.extend((part.first_pfn, part.file_page, part.pages))
        return Entry(
            ram_bytes=self._ram_bytes,
            layout_check=xxhash.xxh3_64_intdigest(layout.tobytes()),
            boot=files.boot_id(),
            reason=reason,
        )

    def _write(self, entry: Entry) -> None:
        require(self._journal is not None, "recover() comes first")
        assert self._journal is not None
        self._entry = self._journal.write(entry)

    @property
    def _undo_log(self) -> UndoLog:
        require(self._undo is not None, "recover() comes first")
        assert self._undo is not None
        return self._undo

    @property
    def _staged(self) -> mmap.mmap:
        require(self._staging is not None, "recover() comes first")
        assert self._staging is not None
        return self._staging

    def _opened(self) -> _OpenEpoch:
        require(not self._failed, self._failed)
        if self._open is None:
            raise EpochError("no epoch is open", epoch=0, hint="its beginning was lost or refused")
        return self._open

    def _refuse(self, what: str) -> EpochError:
        """Abort the open epoch and return the error to raise."""
        epoch = self._open.epoch if self._open else 0
        self.abort()
        return EpochError(
            f"epoch {epoch}: {what}", epoch=epoch, hint="the link resyncs from the last committed epoch"
        )

    def _fail(self, reason: str) -> None:
        """RAM may be torn and we cannot mend it here: refuse all use until the next `recover` or `discard`."""
        self._failed = reason
        self._open = None
