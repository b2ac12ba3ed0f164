"""A replica on which COLO's VM runs: epochs over what it wrote, and what remains when they come to nothing."""

from __future__ import annotations

import pytest
from store_tools import Shape, commit, make_epoch, page, send_parts
from test_replica import Fixture

from replicator.errors import EpochError, InvariantError
from replicator.store import Outcome


@pytest.fixture(params=["staged", "undo"])
def fixture(request, directory, shape) -> Fixture:
    """An epoch of all pages is staged, or applied early over an undo log."""
    return Fixture(directory, shape, 1 << 20 if request.param == "staged" else 3 * (80 + 8 * 4096))


def let_vm_write(fixture: Fixture) -> bytes:
    """What the VM has made of the RAM."""
    fixture.store.mark_vm()
    ram = bytearray(fixture.store.ram_path.read_bytes())
    for number in (0, 3):
        ram[number * 4096 : (number + 1) * 4096] = page(77, number)
    with fixture.store.ram_path.open("r+b") as file:
        file.write(ram)
    return bytes(ram)


def test_a_replica_with_a_running_vm_is_no_epoch(fixture: Fixture, shape: Shape) -> None:
    let_vm_write(fixture)
    assert not fixture.store.promotable.ready
    assert fixture.store.committed is None


def test_the_next_epoch_makes_it_whole_again(fixture: Fixture, shape: Shape) -> None:
    for epoch in (2, 3):
        let_vm_write(fixture)
        made = make_epoch(1, epoch, shape.full(epoch), b"state %d" % epoch)
        fixture.commit(made)
        assert fixture.store.promotable.ready


def test_an_epoch_that_comes_to_nothing_leaves_the_vm_its_pages(fixture: Fixture, shape: Shape) -> None:
    ram = let_vm_write(fixture)
    made = make_epoch(1, 2, shape.full(2), b"state 2")
    send_parts(fixture.store, made)
    fixture.store.abort()
    assert fixture.store.ram_path.read_bytes() == ram
    assert not fixture.store.promotable.ready
    fixture.commit(made)


def test_one_with_a_wrong_digest_too(fixture: Fixture, shape: Shape) -> None:
    ram = let_vm_write(fixture)
    made = make_epoch(1, 2, shape.full(2), b"state 2")
    send_parts(fixture.store, made)
    with pytest.raises(EpochError):
        fixture.store.finish(len(made.parts), len(made.stream), bytes(16))
    assert fixture.store.ram_path.read_bytes() == ram
    assert not fixture.store.promotable.ready


@pytest.mark.parametrize("in_epoch", [False, True])
def test_after_a_restart_it_is_unsynced(fixture: Fixture, shape: Shape, in_epoch: bool) -> None:
    let_vm_write(fixture)
    if in_epoch:
        send_parts(fixture.store, make_epoch(1, 2, shape.full(2), b"state 2"))
    fixture.store.forsake()
    store = shape.open(fixture.directory, 1 << 20)
    recovery = store.recover()
    assert recovery.outcome is Outcome.UNSYNCED
    assert "the guest ran on this RAM file" in recovery.reason
    assert not store.promotable.ready
    store.close()


def test_it_must_be_the_successor_all_the_same(fixture: Fixture, shape: Shape) -> None:
    let_vm_write(fixture)
    with pytest.raises(EpochError, match="does not follow"):
        fixture.store.begin(1, 1 + 5)


def test_a_guest_that_was_taken_over_gets_no_epochs(fixture: Fixture, shape: Shape) -> None:
    fixture.store.mark_active()
    with pytest.raises(InvariantError):
        commit(fixture.store, make_epoch(1, 2, shape.full(2), b"state 2"))


def test_discarded_it_is_synchronised_anew(fixture: Fixture, shape: Shape) -> None:
    let_vm_write(fixture)
    fixture.store.discard("the VM died")
    fixture.commit(make_epoch(1, 2, shape.full(5), b"state 5"), first_of_sync=True)


def test_it_tells_which_pages_epochs_have_written(fixture: Fixture, shape: Shape) -> None:
    ram = fixture.store.ram
    assert ram.take_written().count() == ram.layout.pages, "nobody has asked before"
    assert ram.take_written().count() == 0
    let_vm_write(fixture)
    fixture.commit(make_epoch(1, 2, shape.full(2), b"state"))
    assert ram.take_written().count() == ram.layout.pages
    assert ram.take_written().count() == 0
