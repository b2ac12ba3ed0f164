"""Ways in which the journals of a pair in COLO can be broken, and the rule that each of them breaks."""

from __future__ import annotations

from collections.abc import Callable

from colo_maker import ColoPairMaker

Breaking = Callable[[ColoPairMaker], None]


def _swap(pair: ColoPairMaker, first: tuple[str, int], second: tuple[str, int], *, of: str) -> None:
    """Two lines of one side in each other's place, with each other's time."""
    side = pair.a if of == "a" else pair.b
    one, other = side.find(*first), side.find(*second)
    here, there = side.lines.index(one), side.lines.index(other)
    side.lines[here], side.lines[there] = other, one
    one["at_ns"], other["at_ns"] = other["at_ns"], one["at_ns"]


def compare_before_the_vm_runs(pair: ColoPairMaker) -> None:
    _swap(pair, ("vm-resumed", 2), ("comparing", 2), of="a")


def compare_before_the_ack(pair: ColoPairMaker) -> None:
    _swap(pair, ("acked", 2), ("comparing", 2), of="a")


def compare_from_a_paced_epoch(pair: ColoPairMaker) -> None:
    pair.a.find("opened", 2)["runs_vm"] = False


def compare_when_the_next_epoch_has_begun(pair: ColoPairMaker) -> None:
    pair._say(pair.a, "pausing", epoch=pair.number + 1)
    pair._say(pair.a, "comparing", epoch=pair.number)


def compare_without_a_lease(pair: ColoPairMaker) -> None:
    pair.a.find("acked", 2).update(event="lapsed", reason="the arbiter is gone")


def go_alone_and_compare_on(pair: ColoPairMaker) -> None:
    pair.go_alone()
    pair.a.lines.remove(pair.a.find("not-comparing"))


def close_without_the_vm(pair: ColoPairMaker) -> None:
    pair.a.lines.remove(pair.a.find("vm-suspended", 1))


def begin_while_the_vm_runs(pair: ColoPairMaker) -> None:
    """It is not suspended, and nothing is answered."""
    for event in ("vm-suspending", "answering-suspend"):
        pair.b.lines.remove(pair.b.find(event, 1))


def answer_while_the_vm_runs(pair: ColoPairMaker) -> None:
    _swap(pair, ("vm-suspending", 1), ("answering-suspend", 1), of="b")


def load_an_older_epoch(pair: ColoPairMaker) -> None:
    pair.b.find("vm-loading", 2)["epoch"] = 1


def load_what_is_not_to_run(pair: ColoPairMaker) -> None:
    pair.b.find("begun", 2)["runs_vm"] = False


def start_without_loading(pair: ColoPairMaker) -> None:
    pair.b.lines.remove(pair.b.find("vm-loading", 2))


def take_over_with_a_stale_vm(pair: ColoPairMaker) -> None:
    """It has run from the epoch before the newest."""
    pair.paced_epoch()
    pair.fail_over(restart=False)
    pair.b.find("activating")["vm"] = True


def take_over_with_a_dead_vm(pair: ColoPairMaker) -> None:
    pair.fail_over(restart=False)
    pair.b.find("silent").update(event="vm-failed", reason="killed")


def promote_the_replica_of_a_vm(pair: ColoPairMaker) -> None:
    pair.fail_over(restart=False)
    pair.b.find("activating")["vm"] = False


def promote_what_was_compared(pair: ColoPairMaker) -> None:
    """The secondary says nothing of a VM that would contradict it."""
    promote_the_replica_of_a_vm(pair)
    pair.b.lines[:] = [line for line in pair.b.lines if not line["event"].startswith("vm-")]


def hold_what_a_vm_has_run_on(pair: ColoPairMaker) -> None:
    held = {"session": pair.session, "epoch": pair.number, "digest": pair.digest(pair.number)}
    pair._begin(pair.b)
    pair._say(pair.b, "secondary", term=pair.term, **held)


def hear_of_a_vm_that_never_ran(pair: ColoPairMaker) -> None:
    pair.b.lines.remove(pair.b.find("vm-running", 2))


def hear_of_a_suspension_that_was_not_said(pair: ColoPairMaker) -> None:
    pair.b.lines.remove(pair.b.find("answering-suspend", 1))


def run_from_an_epoch_that_was_not_opened_so(pair: ColoPairMaker) -> None:
    pair.a.find("opened", 2)["runs_vm"] = False


COLO_BREAKINGS: list[tuple[str, Breaking]] = [
    ("compared", compare_before_the_vm_runs),
    ("compared", compare_before_the_ack),
    ("compared", compare_from_a_paced_epoch),
    ("compared", compare_when_the_next_epoch_has_begun),
    ("compared", compare_without_a_lease),
    ("compared", go_alone_and_compare_on),
    ("compared", close_without_the_vm),
    ("vm", begin_while_the_vm_runs),
    ("vm", answer_while_the_vm_runs),
    ("vm", load_an_older_epoch),
    ("vm", load_what_is_not_to_run),
    ("vm", start_without_loading),
    ("vm", take_over_with_a_stale_vm),
    ("vm", take_over_with_a_dead_vm),
    ("vm", promote_the_replica_of_a_vm),
    ("vm", hold_what_a_vm_has_run_on),
    ("promotion", promote_what_was_compared),
    ("promises", hear_of_a_vm_that_never_ran),
    ("promises", hear_of_a_suspension_that_was_not_said),
    ("promises", run_from_an_epoch_that_was_not_opened_so),
]
