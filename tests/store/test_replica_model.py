"""Hypothesis drives a store with any sequence of calls and compares it with a dict."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from store_tools import MadeEpoch, Pages, Shape, commit, make_epoch, page, send_parts

from replicator.errors import EpochError
from replicator.store import Outcome

SHAPE = Shape(low=6, high=10, high_start=20)
PAGE_LISTS = st.lists(st.sampled_from(SHAPE.pfns), unique=True, max_size=16)
CUTS = st.sampled_from([0, 1000, 4096, 20_000])


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="replicator-store-", dir="/dev/shm"))
        self.staging = 24_000
        self.store = SHAPE.open(self.base / "replica", self.staging)
        assert self.store.recover().outcome is Outcome.FRESH
        self.ram: Pages | None = None
        self.last: MadeEpoch | None = None
        self.serial = 0

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.base)

    def make(self, pfns: list[int], cut: int, *, full: bool = False) -> MadeEpoch:
        self.serial += 1
        term, epoch = (self.last.term, self.last.epoch + 1) if self.last else (1, 1)
        chosen = SHAPE.pfns if full or not self.last else pfns
        pages = {pfn: page(self.serial, pfn) for pfn in chosen}
        return make_epoch(term, epoch, pages, b"state %d" % self.serial, batch=3, part_bytes=cut)

    @rule(pfns=PAGE_LISTS, cut=CUTS)
    def commit(self, pfns: list[int], cut: int) -> None:
        made = self.make(pfns, cut)
        commit(self.store, made)
        self.ram = {**(self.ram or {}), **made.pages}
        self.last = made

    @rule(pfns=PAGE_LISTS, cut=CUTS, share=st.floats(0, 1), finish=st.booleans())
    def leave_unfinished(self, pfns: list[int], cut: int, share: float, finish: bool) -> None:
        made = self.make(pfns, cut)
        self.store.begin(made.term, made.epoch)
        kept = int(share * (len(made.parts) - 1))
        for index, payload in enumerate(made.parts[:kept]):
            self.store.add_part(index, memoryview(payload))
        if finish:
            with pytest.raises(EpochError):
                self.store.finish(len(made.parts), len(made.stream), made.digest)
        else:
            self.store.abort()

    @rule(pfns=PAGE_LISTS, cut=CUTS, where=st.floats(0, 1, exclude_max=True), mask=st.integers(1, 255))
    def corrupt(self, pfns: list[int], cut: int, where: float, mask: int) -> None:
        made = self.make(pfns, cut)
        digest = made.digest
        stream = bytearray(made.stream)
        stream[int(where * len(stream))] ^= mask
        spoilt = MadeEpoch(made.term, made.epoch, [bytes(stream)], {}, b"")
        with pytest.raises(EpochError):
            send_parts(self.store, spoilt)
            self.store.finish(1, len(stream), digest)

    @precondition(lambda self: self.last is not None)
    @rule()
    def replay(self) -> None:
        assert self.last is not None
        with pytest.raises(EpochError):
            commit(self.store, self.last)

    @rule(staging=st.sampled_from([24_000, 200_000]))
    def reopen(self, staging: int) -> None:
        self.store.close()
        self.store = SHAPE.open(self.base / "replica", staging)
        outcome = self.store.recover().outcome
        assert outcome is (Outcome.CLEAN if self.last else Outcome.UNSYNCED)

    @rule()
    def discard(self) -> None:
        self.store.discard("the test says so")
        self.last = self.ram = None

    @invariant()
    def holds_the_last_epoch(self) -> None:
        if self.last is None or self.ram is None:
            assert self.store.committed is None and not self.store.promotable.ready
            return
        assert self.store.committed == (self.last.term, self.last.epoch, self.last.digest)
        assert self.store.device_state() == self.last.state
        assert self.store.ram_path.read_bytes() == SHAPE.ram_image(self.ram)
        assert self.store.promotable.ready


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(
    max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
