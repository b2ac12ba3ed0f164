"""Start of a store: bring RAM to a whole epoch, or declare the replica unsynced and say why.

    journal      what recovery does
    COMMITTED    nothing; looks that the device state is the right one
    REDO         checks that staging still holds the epoch whole, applies it again, commits it
    UNDO         puts the logged pages back
    ACTIVE       unsynced: a guest ran on the RAM; the same for UNDO_ACTIVE
    UNSYNCED     stays so

A killed recovery is repeated by the next one: each step may run any number of times. A crash here is the
death of a process: the page cache survives, nothing is synced, so a journal written before a reboot is not
believed.
"""

from __future__ import annotations

from pathlib import Path

from replicator.errors import EpochError, NativeError, StoreError
from replicator.memory.pages import GuestLayout
from replicator.store import files
from replicator.store.epoch_stream import EpochStream
from replicator.store.journal import Entry, Journal, Phase
from replicator.store.open_epoch import flip, roll_back
from replicator.store.replica_files import JOURNAL, RAM, ReplicaFiles, empty_entry
from replicator.store.verdicts import Outcome, Recovery, committed_of

FRESH = "no epoch was ever committed here"


def open_replica(
    directory: Path,
    layout: GuestLayout,
    staging_bytes_max: int,
    write_at: files.WriteAt = files.write_at,
) -> tuple[ReplicaFiles, Recovery]:
    """Open or create the files in `directory` and recover what they hold. StoreError when they cannot be
    opened."""
    files.make_directory(directory)
    journal = Journal(directory / JOURNAL, empty_entry(layout, FRESH), write_at)
    try:
        found = journal.read()
        distrust = _reason_to_distrust(directory, layout, found)
        if found is None or distrust:
            # Before the other files are made to fit: half of that must not look like a replica.
            journal.write(empty_entry(layout, distrust or FRESH))
        opened = ReplicaFiles(directory, layout, staging_bytes_max, journal, write_at)
    except BaseException:
        journal.close()
        raise
    try:
        if distrust:
            recovery = Recovery(Outcome.UNSYNCED, None, distrust)
        elif found is None:
            recovery = Recovery(Outcome.FRESH, None, FRESH)
        else:
            recovery = _recover(opened)
        opened.undo.clear()
    except BaseException:
        opened.close()
        raise
    return opened, recovery


def _reason_to_distrust(directory: Path, layout: GuestLayout, found: Entry | None) -> str:
    """Why the files cannot be what the journal says, "" when they can. Looks before anything is changed."""
    ram = directory / RAM
    if found is None:
        return "the journal is unreadable" if ram.exists() else ""
    expected = empty_entry(layout, "")
    if (found.ram_bytes, found.layout_check) != (expected.ram_bytes, expected.layout_check):
        return "the replica was made for another RAM size or layout"
    if found.phase is Phase.UNSYNCED:
        return found.reason
    if found.boot != expected.boot:
        return "the host restarted since the last commit"
    if found.phase in (Phase.ACTIVE, Phase.UNDO_ACTIVE):
        return "the guest ran on this RAM file"
    if not ram.exists() or ram.stat().st_size != expected.ram_bytes:
        return "the RAM file is missing or has another size"
    return ""


def _recover(opened: ReplicaFiles) -> Recovery:
    phase, pending = opened.entry.phase, opened.entry.pending
    outcome, reason = Outcome.CLEAN, ""
    try:
        if phase is Phase.REDO:
            _redo(opened)
            outcome, reason = Outcome.REDONE, f"finished applying epoch {pending.epoch}"
        elif phase is Phase.UNDO:
            pages = roll_back(opened)
            outcome = Outcome.ROLLED_BACK
            reason = f"took back {pages} pages of unfinished epoch {pending.epoch}"
        opened.read_state(opened.entry.state_slot, opened.entry.committed)
    except (StoreError, EpochError, NativeError) as error:
        reason = f"interrupted {phase.name} cannot be resolved: {error}"
        opened.journal.write(empty_entry(opened.layout, reason))
        return Recovery(Outcome.UNSYNCED, None, reason)
    return Recovery(outcome, committed_of(opened.entry), reason)


def _redo(opened: ReplicaFiles) -> None:
    pending, staged = opened.entry.pending, opened.entry.staged_bytes
    if staged > len(opened.staging):
        raise StoreError("staging is shorter than the journal says")
    view = memoryview(opened.staging)[:staged]
    stream = EpochStream(pending.epoch, opened.ram)
    batches, used = stream.take(view)
    if used != staged or stream.digest.digest() != pending.digest:
        raise StoreError("staging does not hold the epoch that was being applied")
    opened.read_state(1 - opened.entry.state_slot, pending)
    for pfns, data in batches:
        opened.ram.scatter(pfns, data)
    flip(opened, pending)
