"""What the store commits, what it refuses, and that a refusal leaves the last committed epoch whole."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from store_tools import MadeEpoch, Pages, Shape, commit, make_epoch, page, record, send_parts, tail

from replicator.errors import EpochError, InvariantError, StoreError
from replicator.store import Outcome, ReplicaStore

SMALL_STAGING = 3 * (8 + 8 + 8 * 8 + 8 * 4096)


class Fixture:
    """A store with epoch 1 committed, and what must be found in it."""

    def __init__(self, directory: Path, shape: Shape, staging: int) -> None:
        self.directory = directory
        self.shape = shape
        self.store = shape.open(directory, staging)
        assert self.store.recover().outcome is Outcome.FRESH
        self.ram: Pages = {}
        self.last = make_epoch(1, 1, shape.full(1), b"state 1")
        self.commit(self.last)

    def commit(self, made: MadeEpoch, **begin: bool) -> None:
        committed = commit(self.store, made, **begin)
        assert committed == (made.term, made.epoch, made.digest)
        self.ram.update(made.pages)
        self.last = made
        self.check()

    def check(self, store: ReplicaStore | None = None) -> None:
        store = store or self.store
        assert store.committed == (self.last.term, self.last.epoch, self.last.digest)
        assert store.device_state() == self.last.state
        assert store.ram_path.read_bytes() == self.shape.ram_image(self.ram)

    def check_still_usable(self) -> None:
        self.check()
        assert self.store.promotable.ready
        following = make_epoch(self.last.term, self.last.epoch + 1, {0: page(99, 0)}, b"after")
        self.commit(following)


@pytest.fixture(params=[1 << 20, SMALL_STAGING], ids=["staged", "undo"])
def fixture(request: pytest.FixtureRequest, directory: Path, shape: Shape) -> Fixture:
    """With the small staging, an epoch of more than 24 pages takes the undo path."""
    return Fixture(directory, shape, request.param)


def big_epoch(shape: Shape, epoch: int = 2, **cut: int) -> MadeEpoch:
    return make_epoch(1, epoch, shape.full(epoch), b"state %d" % epoch, **cut)


def test_files_are_private_and_preallocated(fixture: Fixture) -> None:
    assert stat.S_IMODE(fixture.directory.stat().st_mode) == 0o700
    for path in fixture.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    ram = fixture.store.ram_path.stat()
    assert ram.st_blocks * 512 >= ram.st_size == fixture.shape.ram_bytes


def test_commits_small_and_large_epochs_in_turn(fixture: Fixture) -> None:
    fixture.commit(make_epoch(1, 2, {3: page(2, 3), 101: page(2, 101)}, b"s" * 70_000))
    fixture.commit(big_epoch(fixture.shape, 3))
    fixture.commit(make_epoch(1, 4, {3: page(4, 3)}, b"short"))
    fixture.commit(make_epoch(1, 5, {}, b"no page changed"))


@pytest.mark.parametrize("part_bytes", [1, 777, 4096, 40_000, 90_000])
def test_parts_may_be_cut_anywhere(fixture: Fixture, part_bytes: int) -> None:
    pages = dict(list(fixture.shape.full(2).items())[: 4 if part_bytes == 1 else None])
    fixture.commit(make_epoch(1, 2, pages, b"state 2", part_bytes=part_bytes))


def test_of_a_page_sent_twice_the_later_copy_wins(fixture: Fixture) -> None:
    made = big_epoch(fixture.shape)
    made.parts.insert(-1, make_epoch(1, 2, {5: page(7, 5)}, b"").parts[0])
    made.pages[5] = page(7, 5)
    fixture.commit(made)


def test_reopened_store_holds_the_same_epoch(fixture: Fixture) -> None:
    fixture.commit(big_epoch(fixture.shape))
    fixture.store.close()
    with_other_staging = fixture.shape.open(fixture.directory, 1 << 16)
    recovery = with_other_staging.recover()
    assert recovery.outcome is Outcome.CLEAN and recovery.committed == with_other_staging.committed
    fixture.check(with_other_staging)
    with_other_staging.close()


def test_session_id_is_kept(fixture: Fixture) -> None:
    made = make_epoch(1, 2, {0: page(1)}, b"s")
    fixture.store.begin(1, 2, session=b"0123456789abcdef")
    for index, payload in enumerate(made.parts):
        fixture.store.add_part(index, memoryview(payload))
    fixture.store.finish(len(made.parts), len(made.stream), made.digest)
    fixture.store.close()
    again = fixture.shape.open(fixture.directory)
    again.recover()
    assert again.session == b"0123456789abcdef"
    again.close()


@pytest.mark.parametrize("at", [0, 1, 3])
def test_part_out_of_order_is_refused(fixture: Fixture, at: int) -> None:
    made = big_epoch(fixture.shape)
    fixture.store.begin(1, 2)
    for index in range(at):
        fixture.store.add_part(index, memoryview(made.parts[index]))
    with pytest.raises(EpochError, match="part"):
        fixture.store.add_part(at + 1, memoryview(made.parts[at + 1]))
    with pytest.raises(EpochError, match="no epoch is open"):
        fixture.store.add_part(at, memoryview(made.parts[at]))
    fixture.check_still_usable()


def test_repeated_part_is_refused(fixture: Fixture) -> None:
    made = big_epoch(fixture.shape)
    send_parts(fixture.store, made)
    with pytest.raises(EpochError):
        fixture.store.add_part(len(made.parts) - 1, memoryview(made.parts[-1]))
    fixture.check_still_usable()


@pytest.mark.parametrize("fault", ["parts", "bytes", "digest"])
def test_totals_must_match(fixture: Fixture, fault: str) -> None:
    made = big_epoch(fixture.shape)
    send_parts(fixture.store, made)
    parts, size, digest = len(made.parts), len(made.stream), made.digest
    with pytest.raises(EpochError):
        fixture.store.finish(
            parts + (fault == "parts"), size - (fault == "bytes"), bytes(16) if fault == "digest" else digest
        )
    fixture.check_still_usable()


def test_flipped_bit_is_refused(fixture: Fixture) -> None:
    made = big_epoch(fixture.shape)
    digest = made.digest
    spoiled = bytearray(made.parts[4])
    spoiled[1000] ^= 1
    made.parts[4] = bytes(spoiled)
    send_parts(fixture.store, made)
    with pytest.raises(EpochError, match="digest"):
        fixture.store.finish(len(made.parts), len(made.stream), digest)
    fixture.check_still_usable()


def spoilt_parts(shape: Shape) -> dict[str, list[bytes]]:
    pages = make_epoch(1, 2, shape.full(2), b"")
    body = pages.parts[:-1]
    first_pages = {pfn: page(3, pfn) for pfn in (1, 2)}
    return {
        "no checkpoint": body,
        "no end of checkpoint": [*body, tail(b"state")[:-8]],
        "cut inside a record": [*body, tail(b"state"), b""][:-2] + [tail(b"state")[:20]],
        "no device state": [*body, record(0x0E), record(4)],
        "empty device state": [*body, record(0x0E), record(3, bytes(8)), record(4)],
        "two device states": [*body, tail(b"state")[:-8], record(3, bytes(16)), record(4)],
        "bytes after the end": [*body, tail(b"state"), record(0x0E)],
        "frame in the hole": [*body, make_epoch(1, 2, {50: page(1)}, b"").parts[0], tail(b"state")],
        "frame beyond the guest": [*body, make_epoch(1, 2, {140: page(1)}, b"").parts[0], tail(b"state")],
        "page data too short": [*body, record(1, bytes(8)), tail(b"state")],
        "count contradicts length": [
            *body,
            record(1, b"\3" + make_epoch(1, 2, first_pages, b"").parts[0][9:]),
            tail(b"state"),
        ],
        "absurd length": [*body, b"\1\0\0\0\xff\xff\xff\xff", tail(b"state")],
    }


@pytest.mark.parametrize("fault", list(spoilt_parts(Shape())))
def test_bytes_that_are_no_epoch_are_refused(fixture: Fixture, fault: str) -> None:
    parts = spoilt_parts(fixture.shape)[fault]
    with pytest.raises(EpochError):
        commit(fixture.store, MadeEpoch(1, 2, parts, {}, b""))
    fixture.check_still_usable()


@pytest.mark.parametrize("term, epoch", [(1, 1), (1, 3), (1, 7), (0, 2), (2, 2), (2, 3), (1, 0)])
def test_only_the_successor_may_begin(fixture: Fixture, term: int, epoch: int) -> None:
    with pytest.raises(EpochError):
        fixture.store.begin(term, epoch)
    fixture.check_still_usable()


def test_committed_epoch_cannot_be_replayed(fixture: Fixture) -> None:
    made = big_epoch(fixture.shape)
    fixture.commit(made)
    with pytest.raises(EpochError, match="does not follow"):
        commit(fixture.store, made)
    with pytest.raises(EpochError, match="does not follow"):
        commit(fixture.store, made, first_of_sync=True)
    fixture.check_still_usable()


def test_resync_may_skip_epochs_and_a_new_term_starts_at_one(fixture: Fixture) -> None:
    fixture.commit(make_epoch(1, 9, fixture.shape.full(9), b"resync"), first_of_sync=True)
    fixture.commit(make_epoch(1, 10, {1: page(10)}, b"ordinary"))
    fixture.commit(make_epoch(2, 1, fixture.shape.full(21), b"new term"))
    fixture.commit(make_epoch(2, 2, {1: page(22)}, b"ordinary again"))


def test_abort_at_any_part(fixture: Fixture) -> None:
    made = big_epoch(fixture.shape)
    for count in range(len(made.parts) + 1):
        fixture.store.begin(1, 2)
        for index, payload in enumerate(made.parts[:count]):
            fixture.store.add_part(index, memoryview(payload))
        fixture.store.abort()
        fixture.check()
    fixture.check_still_usable()


def test_close_in_mid_epoch_leaves_the_committed_one(fixture: Fixture) -> None:
    made = big_epoch(fixture.shape)
    fixture.store.begin(1, 2)
    for index, payload in enumerate(made.parts[:-1]):
        fixture.store.add_part(index, memoryview(payload))
    fixture.store.close()
    again = fixture.shape.open(fixture.directory)
    assert again.recover().outcome is Outcome.CLEAN
    fixture.check(again)
    again.close()


def test_not_promotable_while_an_epoch_is_applied_early(directory: Path, shape: Shape) -> None:
    fixture = Fixture(directory, shape, SMALL_STAGING)
    made = big_epoch(shape)
    fixture.store.begin(1, 2)
    for index, payload in enumerate(made.parts):
        fixture.store.add_part(index, memoryview(payload))
    assert fixture.store.ram_path.read_bytes() != shape.ram_image(fixture.ram), "nothing was applied early"
    assert not fixture.store.promotable.ready
    fixture.store.abort()
    assert fixture.store.promotable.ready
    fixture.check_still_usable()


def test_record_larger_than_staging_is_a_clear_error(directory: Path, shape: Shape) -> None:
    fixture = Fixture(directory, shape, SMALL_STAGING)
    made = make_epoch(1, 2, shape.full(2), b"x" * 200_000, part_bytes=50_000)
    with pytest.raises(StoreError) as caught:
        commit(fixture.store, made)
    assert "staging_mib" in caught.value.hint
    fixture.check_still_usable()


class TestUnsynced:
    def test_ordinary_epoch_is_refused(self, directory: Path, shape: Shape) -> None:
        store = shape.open(directory)
        store.recover()
        assert store.committed is None and not store.promotable.ready
        with pytest.raises(EpochError, match="no base"):
            store.begin(1, 2)
        store.close()

    @pytest.mark.parametrize("staging", [1 << 20, SMALL_STAGING])
    def test_initial_sync_must_cover_every_page(self, directory: Path, shape: Shape, staging: int) -> None:
        store = shape.open(directory, staging)
        store.recover()
        pages = shape.full(1)
        del pages[17]
        with pytest.raises(EpochError, match="left out 1 page"):
            commit(store, make_epoch(1, 1, pages, b"state"))
        assert store.committed is None
        commit(store, make_epoch(1, 1, shape.full(1), b"state"))
        assert store.promotable.ready
        store.close()

    def test_interrupted_sync_stays_unsynced_after_restart(self, directory: Path, shape: Shape) -> None:
        store = shape.open(directory)
        store.recover()
        made = make_epoch(1, 1, shape.full(1), b"state")
        store.begin(1, 1)
        store.add_part(0, memoryview(made.stream))
        store.close()
        again = shape.open(directory)
        recovery = again.recover()
        assert recovery.outcome is Outcome.UNSYNCED and "not finished" in recovery.reason
        assert not again.promotable.ready
        again.close()


class TestActive:
    def test_files_a_guest_ran_on_are_never_trusted_again(self, fixture: Fixture) -> None:
        fixture.store.mark_active()
        assert fixture.store.committed is None and not fixture.store.promotable.ready
        with pytest.raises(InvariantError):
            fixture.store.begin(1, 2)
        fixture.store.close()
        again = fixture.shape.open(fixture.directory)
        recovery = again.recover()
        assert recovery.outcome is Outcome.UNSYNCED and "guest ran" in recovery.reason
        again.close()

    def test_open_epoch_is_taken_back_first(self, fixture: Fixture) -> None:
        fixture.store.begin(1, 2)
        fixture.store.add_part(0, memoryview(big_epoch(fixture.shape).parts[0]))
        fixture.store.mark_active()
        assert fixture.store.ram_path.read_bytes() == fixture.shape.ram_image(fixture.ram)

    def test_its_ram_is_left_to_the_guest_and_the_rest_is_freed(self, fixture: Fixture) -> None:
        with pytest.raises(InvariantError, match="active"):
            fixture.store.leave_ram_to_guest()
        fixture.store.mark_active()
        fixture.store.leave_ram_to_guest()
        assert {path.name for path in fixture.directory.iterdir()} == {"ram", "journal"}
        again = fixture.shape.open(fixture.directory)
        recovery = again.recover()
        assert recovery.outcome is Outcome.UNSYNCED and "guest ran" in recovery.reason
        again.close()

    def test_discard_makes_room_for_a_new_sync(self, fixture: Fixture) -> None:
        fixture.store.mark_active()
        fixture.store.discard("became secondary")
        assert fixture.store.promotable == (False, "became secondary")
        fixture.commit(make_epoch(3, 1, fixture.shape.full(31), b"resynced"))


class TestDistrust:
    def test_second_store_on_the_directory_is_refused(self, fixture: Fixture) -> None:
        with pytest.raises(StoreError, match="in use"):
            fixture.shape.open(fixture.directory).recover()
        fixture.check_still_usable()

    def reopen(self, fixture: Fixture) -> ReplicaStore:
        again = fixture.shape.open(fixture.directory)
        assert again.recover().outcome is Outcome.UNSYNCED
        assert again.committed is None and not again.promotable.ready
        commit(again, make_epoch(5, 1, fixture.shape.full(5), b"synced anew"))
        again.close()
        return again

    def test_other_shape(self, fixture: Fixture) -> None:
        fixture.store.close()
        fixture.shape = Shape(low=10, high=20, high_start=64)
        self.reopen(fixture)

    def test_same_size_other_layout(self, fixture: Fixture) -> None:
        fixture.store.close()
        fixture.shape = Shape(low=20, high=44, high_start=100)
        self.reopen(fixture)

    @pytest.mark.parametrize("name", ["ram", "state-0", "state-1"])
    def test_missing_file(self, fixture: Fixture, name: str) -> None:
        used = "state-1"  # epoch 1 flipped away from slot 0
        fixture.store.close()
        (fixture.directory / name).unlink()
        if name in ("ram", used):
            self.reopen(fixture)
        else:
            again = fixture.shape.open(fixture.directory)
            assert again.recover().outcome is Outcome.CLEAN
            fixture.check(again)

    def test_both_journal_slots_damaged(self, fixture: Fixture) -> None:
        fixture.store.close()
        journal = fixture.directory / "journal"
        journal.write_bytes(b"\xff" * journal.stat().st_size)
        self.reopen(fixture)

    def test_one_damaged_slot_falls_back_to_the_other(self, fixture: Fixture) -> None:
        """The older entry says that the sync had not finished, so the replica must not be trusted."""
        fixture.store.close()
        journal = fixture.directory / "journal"
        data = bytearray(journal.read_bytes())
        generations = [int.from_bytes(data[at + 8 : at + 16], "little") for at in (0, 4096)]
        newest = generations.index(max(generations)) * 4096
        data[newest + 20] ^= 0xFF
        journal.write_bytes(data)
        self.reopen(fixture)

    def test_reboot_of_the_host(self, fixture: Fixture, monkeypatch: pytest.MonkeyPatch) -> None:
        fixture.store.close()
        monkeypatch.setattr("replicator.store.files.boot_id", lambda: b"another boot id.")
        self.reopen(fixture)

    def test_link_instead_of_a_file_is_refused(self, directory: Path, shape: Shape, tmp_path: Path) -> None:
        directory.mkdir()
        target = tmp_path / "precious"
        target.write_bytes(b"do not touch")
        (directory / "ram").symlink_to(target)
        with pytest.raises(StoreError):
            shape.open(directory).recover()
        assert target.read_bytes() == b"do not touch"

    def test_destroy_removes_only_our_files(self, fixture: Fixture) -> None:
        (fixture.directory / "note").write_text("of the operator")
        fixture.store.destroy()
        assert [path.name for path in fixture.directory.iterdir()] == ["note"]
