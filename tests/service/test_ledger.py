"""No page leaves the ledger before an epoch that carries it was acked."""

from __future__ import annotations

from array import array

from hypothesis import given
from hypothesis import strategies as st

from replicator.memory.pages import GuestLayout
from replicator.service.ledger import HOT_EPOCHS, OwedLedger

PAGES = 8
steps = st.lists(
    st.one_of(
        st.tuples(st.just("dirty"), st.integers(0, PAGES - 1)),
        st.tuples(st.sampled_from(["take", "cold", "close", "abandon", "ack", "lose", "all"]), st.just(0)),
    ),
    max_size=40,
)


def owed_or_travelling(ledger: OwedLedger) -> set[int]:
    probe = ledger._layout.new_bitmap()
    for bitmap in (ledger.owed, ledger._open, *ledger._closed.values()):
        probe.merge(bitmap)
    return set(probe.pfns())


@given(steps)
def test_pages_are_owed_until_acked(chain):
    ledger, epoch = OwedLedger(GuestLayout.flat(PAGES)), 0
    #: page -> epoch whose ack settles its newest content; None while it is in none.
    truth: dict[int, int | None] = {}
    opened: set[int] = set()
    for step, page in chain:
        if step == "dirty":
            ledger.owed.set(page)
            truth[page] = None
            opened.discard(page)
        elif step == "take":
            opened |= set(ledger.take().pfns())
        elif step == "cold":
            opened |= set(ledger.take_cold().pfns())
        elif step == "close":
            epoch += 1
            ledger.close(epoch)
            truth.update(dict.fromkeys(opened, epoch))
            opened = set()
        elif step == "abandon":
            ledger.abandon()
            opened = set()
        elif step == "ack":
            ledger.settle(epoch)
            truth = {pfn: held for pfn, held in truth.items() if held is None or held > epoch}
        elif step == "lose":
            ledger.owe_again()
            truth, opened = dict.fromkeys(truth), set()
        else:
            ledger.owe_all()
            truth, opened = dict.fromkeys(range(PAGES)), set()
        assert set(truth) <= owed_or_travelling(ledger)


def test_reconnect_owes_what_was_not_acked_and_no_more():
    ledger = OwedLedger(GuestLayout.flat(PAGES))
    for epoch in (1, 2, 3):
        ledger.owed.set(epoch)
        ledger.take()
        ledger.close(epoch)
    ledger.settle(1)
    ledger.owe_again()
    assert list(ledger.owed.pfns()) == [2, 3]
    assert ledger.closed_epochs == ()


def dirty(ledger: OwedLedger, *pfns: int) -> None:
    ledger.owed.set_pfns(array("Q", pfns))


def test_pages_of_every_epoch_stay_for_the_pause():
    ledger = OwedLedger(GuestLayout.flat(64))
    for epoch in range(1, HOT_EPOCHS + 1):
        dirty(ledger, 1, 2, 10 + epoch)
        assert sorted(ledger.take_cold().pfns()) == [1, 2, 10 + epoch], "too few epochs to know what is hot"
        ledger.close(epoch)
    dirty(ledger, 1, 2, 11, 20)
    assert list(ledger.take_cold().pfns()) == [11, 20]
    assert list(ledger.owed.pfns()) == [1, 2]
    ledger.abandon()
    assert list(ledger.owed.pfns()) == [1, 2, 11, 20], "nothing is lost with the epoch"


def test_what_was_copied_early_and_written_again_is_copied_again():
    ledger = OwedLedger(GuestLayout.flat(64))
    dirty(ledger, 5, 6)
    ledger.take_cold()
    dirty(ledger, 5)
    assert list(ledger.take().pfns()) == [5]
    ledger.close(1)
    ledger.owe_again()
    assert list(ledger.owed.pfns()) == [5, 6]
