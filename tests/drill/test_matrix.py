"""The matrix is whole: no fault, phase or state of the machines is without a cell or a reason."""

from __future__ import annotations

import pytest

from replicator.drill.actors.daemon import EFFECT_AFTER
from replicator.drill.harm.injuries import INJURIES
from replicator.drill.matrix.cells import all_cells, choose_cells, order_cells, phases_of, quick_cells
from replicator.drill.matrix.coverage import COVERED_BY, SIMULATED, STATES, Covered
from replicator.drill.matrix.faults import NATURES, Fault, Outcome, Setting
from replicator.drill.matrix.phases import OF_PRIMARY, OF_SECONDARY, Phase, Role
from replicator.errors import ConfigError
from replicator.service.config import Mode
from replicator.sim.faults import Kind

#: Hit in the parts of actors/platform.py, or by a look into a step, and not before an effect.
HIT_ELSEWHERE = {Phase.JOINING, Phase.COPYING, Phase.SENDING, Phase.AWAITING, Phase.APPLYING, Phase.RECEIVING}


def test_every_fault_has_a_nature_and_a_way_to_be_made():
    assert set(NATURES) == set(INJURIES) == set(Fault)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
def test_every_fault_is_tried_or_says_why_not(fault, mode):
    cells = [cell for cell in all_cells(mode) if cell.fault is fault]
    if NATURES[fault].is_colo and mode is Mode.REMUS:
        assert not cells
        return
    assert [cell.phase for cell in cells] == phases_of(mode)
    assert any(not cell.reason for cell in cells)
    assert all(cell.reason for cell in cells if cell.phase not in NATURES[fault].phases)


def test_every_phase_is_hit_somewhere():
    assert set(EFFECT_AFTER.values()) | HIT_ELSEWHERE == set(Phase)
    for mode in Mode:
        assert {cell.phase for cell in all_cells(mode) if not cell.reason} == set(phases_of(mode))
    assert set(phases_of(Mode.COLO)) == set(Phase)
    assert set(OF_PRIMARY) | set(OF_SECONDARY) == set(Phase)
    assert {phase.role for phase in OF_PRIMARY} == {Role.PRIMARY}


@pytest.mark.parametrize("mode", Mode)
def test_the_quick_run_tries_each_fault_once_and_each_phase(mode):
    quick = quick_cells(mode)
    assert sorted(fault.value for fault, _ in quick) == sorted({cell.fault.value for cell in all_cells(mode)})
    assert {phase for _, phase in quick} == set(phases_of(mode))
    chosen = choose_cells(mode=mode, quick=True)
    assert [cell for cell in chosen if cell.reason] == []
    assert len(chosen) == len(quick)


@pytest.mark.parametrize("kind", STATES, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_state_of_the_machines_is_met(kind):
    """A new state needs a cell, or a reason in coverage.py."""
    for member in kind:
        assert member in COVERED_BY, f"no cell meets {member}"


def test_no_entry_is_left_of_a_state_that_is_gone():
    assert set(COVERED_BY) == {member for kind in STATES for member in kind}
    assert set(SIMULATED) == {kind.name for kind in Kind}


@pytest.mark.parametrize("covered", [*COVERED_BY.values(), *SIMULATED.values()], ids=str)
def test_who_covers_is_tried(covered: Covered):
    tried = {cell.fault for cell in all_cells(Mode.COLO) if not cell.reason} | set(Phase)
    assert bool(covered.by) != bool(covered.reason)
    assert set(covered.by) <= tried


def test_cells_are_chosen_by_name():
    cells = choose_cells(faults=["cut", "kill-host"], phases=["awaiting-the-ack", "running"])
    assert [cell.name for cell in cells] == [
        "kill-host @ running", "kill-host @ awaiting the ack", "cut @ running", "cut @ awaiting the ack",
    ]  # fmt: skip


@pytest.mark.parametrize("names", [{"faults": ["cutt"]}, {"phases": ["run"]}])
def test_an_unknown_name_is_answered_with_all_that_are_known(names):
    with pytest.raises(ConfigError, match="is no") as caught:
        choose_cells(**names)
    assert "kill-host" in caught.value.hint or "releasing" in caught.value.hint


def test_what_only_colo_has_is_no_cell_of_remus():
    for names in ({"faults": ["kill-vm"]}, {"phases": ["joining", "vm-loading"]}):
        with pytest.raises(ConfigError, match="no cell is left"):
            choose_cells(**names)
        assert choose_cells(mode=Mode.COLO, **names)


def test_both_hosts_may_die_in_colo_only_while_the_replica_is_an_epoch():
    cells = choose_cells(mode=Mode.COLO, faults=["kill-both"])
    tried = [cell.phase for cell in cells if not cell.reason]
    assert tried == [Phase.APPLYING, Phase.COMMITTED, Phase.ACKED, Phase.VM_LOADING]


def test_nothing_to_run_is_a_mistake():
    with pytest.raises(ConfigError, match="no cell is left"):
        choose_cells(faults=["freeze-secondary"], phases=["running"])


def test_the_order_is_the_seeds_and_keeps_settings_together():
    cells = choose_cells()
    order = order_cells(cells, 1)
    assert order == order_cells(cells, 1) != order_cells(cells, 2)
    assert sorted(order, key=str) == sorted((cell for cell in cells if not cell.reason), key=str)
    settings = [cell.setting for cell in order]
    assert settings == sorted(settings, key=list(Setting).index)


def test_what_kills_the_primary_must_lead_to_a_take_over():
    for fault in (Fault.KILL_HOST, Fault.KILL_DAEMON, Fault.KILL_GUEST, Fault.KILL_BOTH, Fault.FREEZE_LONG):
        assert NATURES[fault].outcome is Outcome.TAKE_OVER
