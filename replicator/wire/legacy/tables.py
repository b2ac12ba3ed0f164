"""Page batches as tables: the entries of a batch, judged, and the PAGE_DATA table that they become."""

from __future__ import annotations

from array import array

from replicator.wire import entries as tables
from replicator.wire import layout
from replicator.wire.entries import EntrySurvey
from replicator.wire.layout import Buffer
from replicator.wire.legacy.header import LegacyGuest
from replicator.wire.records import PageTable, Place


def read_entries(batch: Buffer, guest: LegacyGuest, place: Place) -> tuple[array[int], EntrySurvey]:
    """The PAGE_DATA entries of a batch, without its unmapped slots, and what they hold; raises BadRecord."""
    try:
        entries = tables.from_legacy(batch, layout.LEGACY_WORD[guest.bits].size)
    except ValueError as error:
        raise place.bad(str(error)) from None
    survey = tables.survey(layout.u64_bytes(entries))
    if survey.reserved_type:
        raise place.bad(f"reserved page type {survey.reserved_type:#x}, known are 0-4 and 9-f")
    if survey.pfn_max >= guest.p2m_size:
        raise place.bad(f"pfn {survey.pfn_max:#x}, the highest possible is {guest.p2m_size - 1:#x}")
    if not survey.ascends:
        _refuse_duplicates(entries, place)
    return entries, survey


def _refuse_duplicates(entries: array[int], place: Place) -> None:
    pfns = tables.pfns_of(entries)
    if len(set(pfns)) == len(pfns):
        return
    seen: set[int] = set()
    for pfn in pfns:
        if pfn in seen:
            raise place.bad(f"pfn {pfn:#x} twice in one batch")
        seen.add(pfn)


def make_table(entries: array[int], survey: EntrySurvey) -> PageTable:
    """The table of a PAGE_DATA record with these entries, of which there is at least one."""
    count = len(entries)
    body = layout.PAGE_DATA.size + count * layout.U64_BYTES + layout.pages_bytes(survey.data_pages)
    return PageTable(entries, survey, 0, count, body)
