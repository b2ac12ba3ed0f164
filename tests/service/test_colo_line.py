"""What a primary makes of a secondary's words on checkpoints."""

from __future__ import annotations

from array import array
from typing import cast

from replicator.engine import events as ev
from replicator.output.colo_base import ComparingPort
from replicator.service.colo_line import ColoLine
from replicator.service.ledger import OwedLedger
from replicator.service.part_encoder import PartEncoder
from replicator.service.primary_parts import ColoParts
from replicator.wire import session as wire
from replicator.wire.back_channel import check_of, suspended_word

SESSION, PFN_END = bytes(16), 64


class _Owed:
    def __init__(self) -> None:
        self.pfns: list[int] = []

    def owe(self, pfns: array[int]) -> None:
        self.pfns.extend(pfns)

    def forget_pages(self, _: array[int]) -> None: ...


def hear(records: bytes, check: bytes) -> tuple[list[int], list[ev.Event]]:
    """What is owed and what is reported after one word."""
    owed, events = _Owed(), list[ev.Event]()
    parts = ColoParts(cast(ComparingPort, None), dial=lambda _: None, draw_name=lambda: SESSION)  # type: ignore[arg-type,return-value]
    line = ColoLine(
        parts,
        cast(OwedLedger, owed),
        cast(PartEncoder, owed),
        PFN_END,
        send=lambda _: None,
        post=events.append,
    )
    line.hear(wire.CheckpointWord(SESSION, 3, len(records), check), memoryview(records))
    return owed.pfns, events


def test_the_pages_of_a_suspended_vm_are_owed() -> None:
    (piece,) = suspended_word(array("Q", [5, 9]))
    assert hear(piece.records, check_of(piece.records)) == ([5, 9], [ev.SecondaryVmSuspended(SESSION, 3)])


def test_a_word_that_was_changed_on_its_way_is_refused_whatever_it_says() -> None:
    (piece,) = suspended_word(array("Q", [5, 9]))
    (other,) = suspended_word(array("Q", [5, 8]))
    owed, events = hear(other.records, check_of(piece.records))
    assert owed == []
    assert events == [ev.EpochRefused(3, "its word on a checkpoint was changed on its way")]
