"""A guest at one checkpoint as the items of a plain stream: what `xl save` would have written at that moment."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.errors import require
from replicator.stream.image import Batch, GuestImage
from replicator.stream.snapshot import GuestState
from replicator.wire import entries as tables
from replicator.wire import layout
from replicator.wire.layout import LibxlType
from replicator.wire.records import (
    End,
    ImageHeader,
    Item,
    LibxcContext,
    LibxlEnd,
    PageRun,
    PageTable,
    StaticDataEnd,
)

#: A receiver wants the keys before the state that refers to them.
_DEVICE_MODEL_ORDER = (LibxlType.EMULATOR_XENSTORE_DATA, LibxlType.EMULATOR_CONTEXT)


def plain_items(state: GuestState, image: GuestImage) -> Iterator[Item]:
    """The whole stream. A PageRun is valid until the next item."""
    require(state.domain is not None, "a state that has come to a checkpoint has a domain header")
    if state.xl_header is not None:
        yield state.xl_header
    yield state.libxl_header
    yield LibxcContext()
    yield ImageHeader()
    if state.domain is not None:
        yield state.domain
    yield from state.static.values()
    yield StaticDataEnd()
    if state.p2m is not None:
        yield state.p2m
    for batch in image.batches():
        yield from _page_items(batch)
    yield from state.ordered_tail()
    yield End()
    yield from (state.device_model[kind] for kind in _DEVICE_MODEL_ORDER if kind in state.device_model)
    yield LibxlEnd()


def _page_items(batch: Batch) -> Iterator[Item]:
    survey = tables.survey(layout.u64_bytes(batch.entries))
    count = len(batch.entries)
    body_bytes = layout.PAGE_DATA.size + count * layout.U64_BYTES + layout.pages_bytes(survey.data_pages)
    yield PageTable(batch.entries, survey, 0, count, body_bytes)
    if survey.data_pages:
        yield PageRun(tables.with_data(batch.entries), batch.cells)
