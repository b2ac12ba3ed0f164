"""Journals that keep every promise are found clean; each rule finds the line that breaks it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))

from colo_breakings import COLO_BREAKINGS
from history_maker import MS, TTL_NS, PairMaker, Side, client_lines, dump

from replicator.drill.history.check import RULES, CheckReport, check_files, check_history
from replicator.drill.history.facts import read_history
from replicator.drill.history.report import render_report
from replicator.errors import ConfigError, FileAccessError
from replicator.observe.journal import FORMAT

STEPS = (
    "epoch",
    "blink",
    "alone_and_back",
    "fail_over_and_back",
    "renew",
    "switch_over_and_sync",
    "take_back",
)


def judge(files: dict[str, bytes]) -> CheckReport:
    return check_history(read_history(files))


def broken_rules(files: dict[str, bytes]) -> set[str]:
    return {violation.rule for violation in judge(files).violations}


def make(*steps: str, **options: bool) -> PairMaker:
    pair = PairMaker(**options)
    pair.sync()
    for step in steps:
        take_step(pair, step)
    return pair


def take_step(pair: PairMaker, step: str) -> None:
    if step == "alone_and_back":
        pair.go_alone()
        pair.sync()
    elif step == "fail_over_and_back":
        pair.fail_over()
        pair.sync()
    elif step == "switch_over_and_sync":
        pair.switch_over()
        pair.sync()
    else:
        getattr(pair, step)()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=12), st.booleans())
def test_whatever_a_sound_pair_goes_through_is_found_clean(steps: list[str], same_boot: bool) -> None:
    report = judge(make(*steps, same_boot=same_boot).files())
    assert report.violations == ()
    assert report.checked["acks"] == report.checked["released"] > 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(STEPS), max_size=5), st.data())
def test_a_lost_line_is_never_too_much_for_the_checker(steps: list[str], data: st.DataObject) -> None:
    """Without some line a history may be sound or not: what matters is that it is judged."""
    pair = make(*steps)
    side = data.draw(st.sampled_from([pair.a, pair.b]))
    del side.lines[data.draw(st.integers(1, len(side.lines) - 1))]
    render_report(judge(pair.files()))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_bytes_that_are_altered_are_named_or_judged(data: st.DataObject) -> None:
    pair = make("epoch", "fail_over_and_back")
    content = bytearray(pair.a.content())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        report = judge({"a.events": bytes(content), "b.events": pair.b.content()})
    except ConfigError as error:
        assert "format" in str(error)
    else:
        render_report(report)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_journal_may_end_anywhere(data: st.DataObject) -> None:
    """A daemon is killed at any byte. What it had said before stays sound with what the other side says."""
    pair = make("epoch", "epoch", "blink")
    content = pair.a.content()
    cut = data.draw(st.integers(content.index(b"\n") + 1, len(content)))
    report = judge({"a.events": content[:cut]})
    assert report.violations == ()
    assert report.cut_lines == (content[cut - 1 : cut] not in (b"\n", b"}"))


def test_a_cut_line_before_the_next_life_is_no_damage() -> None:
    pair = make("epoch", "fail_over_and_back")
    lines = pair.a.content().split(b"\n")
    (second,) = [n for n, line in enumerate(lines) if b'"journal"' in line and n]
    lines.insert(second, b'{"event": "pausi')
    report = judge({"a.events": b"\n".join(lines), "b.events": pair.b.content()})
    assert report.kept and report.cut_lines == 1


# Each rule can fail.


def release_before_the_ack(pair: PairMaker) -> None:
    side = pair.a
    acked, released = side.find("acked", 1), side.find("released", 1)
    here, there = side.lines.index(acked), side.lines.index(released)
    side.lines[here], side.lines[there] = released, acked
    released["at_ns"], acked["at_ns"] = acked["at_ns"], released["at_ns"]


def ack_another_digest(pair: PairMaker) -> None:
    pair.a.find("acked", 1)["digest"] = "other"


def pass_before_the_grant(pair: PairMaker) -> None:
    pair.go_alone()
    pair.a.lines.remove(pair.a.find("alone"))


def lift_without_an_ack(pair: PairMaker) -> None:
    pair.a.find("lifting")["epoch"] += 1


def pause_an_old_epoch(pair: PairMaker) -> None:
    pair.a.find("pausing", 2)["epoch"] = 1


def build_upon_nothing(pair: PairMaker) -> None:
    pair.a.find("opened", 1)["base"] = 77


def release_when_fenced(pair: PairMaker) -> None:
    pair.a.find("acked", 2).update(event="fenced", reason="another side has it")


def claim_protection_while_barred(pair: PairMaker) -> None:
    pair.a.lines.remove(pair.a.find("lifted"))


def claim_protection_without_a_link(pair: PairMaker) -> None:
    pair.blink()
    blinking = pair.a.lines.index(pair.a.find("link-down"))
    pair.a.lines.insert(
        blinking + 1,
        {"event": "state", "at_ns": pair.a.lines[blinking]["at_ns"], "word": "protected lag 0 ms"},
    )


def claim_to_be_alone(pair: PairMaker) -> None:
    pair.a.find("state")["word"] = "active-alone"


def claim_to_be_alone_and_hold(pair: PairMaker) -> None:
    pair.go_alone()
    pair.a.lines.remove(pair.a.find("passing"))


def ack_before_the_commit(pair: PairMaker) -> None:
    side = pair.b
    committed, acking = side.find("committed", 1), side.find("acking", 1)
    here, there = side.lines.index(committed), side.lines.index(acking)
    side.lines[here], side.lines[there] = acking, committed
    acking["at_ns"], committed["at_ns"] = committed["at_ns"], acking["at_ns"]


def commit_an_older_session(pair: PairMaker) -> None:
    pair.b.find("committed", 1)["session"] = "session-0"


def commit_an_older_term(pair: PairMaker) -> None:
    pair.fail_over()
    pair.sync()
    pair.a.find("committed")["term"] = 1
    pair.a.find("begun")["term"] = 1
    pair.a.find("accepting")["term"] = 1


def commit_backwards(pair: PairMaker) -> None:
    pair.b.find("committed", 2)["epoch"] = 1


def promise_more_than_held(pair: PairMaker) -> None:
    pair.blink()
    pair.b.find("accepting", 1)["epoch"] += 1


def start_another_epoch(pair: PairMaker) -> None:
    pair.fail_over()
    pair.b.find("running")["epoch"] -= 1


def ask_for_a_discarded_replica(pair: PairMaker) -> None:
    pair.fail_over()
    pair.b.find("silent").update(event="discarding", reason="a new synchronisation begins")


def claim_a_newer_standby(pair: PairMaker) -> None:
    pair.b.find("state")["word"] = "standby at epoch 9"


def give_a_term_twice(pair: PairMaker) -> None:
    pair.fail_over()
    for line in pair.b.lines:
        if line["event"] in ("granted", "activating", "primary", "running"):
            line["term"] = 1


def speak_before_the_lease_has_ended(pair: PairMaker) -> None:
    pair.fail_over()
    for line in pair.b.lines[pair.b.lines.index(pair.b.find("granted")) :]:
        line["at_ns"] -= TTL_NS - MS


def promote_an_old_epoch(pair: PairMaker) -> None:
    """The secondary forgets its last commit, and everything it says fits that."""
    pair.fail_over(restart=False)
    for event in ("begun", "committed", "acking"):
        pair.b.lines.remove(pair.b.find(event, 2))
    for line in pair.b.lines:
        if line["event"] in ("asking", "granted", "activating", "running"):
            line["epoch"] -= 1


def promote_after_going_alone(pair: PairMaker) -> None:
    pair.go_alone()
    pair.fail_over(restart=False)


def promote_another_replica(pair: PairMaker) -> None:
    pair.fail_over(restart=False)
    pair.a.find("lifting")["epoch"] = pair.a.find("lifting")["epoch"] + 50
    pair.a.find("acked")["epoch"] = 51


def forge_an_ack(pair: PairMaker) -> None:
    pair.b.lines.remove(pair.b.find("acking", 2))


def commit_what_was_not_sealed(pair: PairMaker) -> None:
    for event in ("committed", "acking"):
        pair.b.find(event, 1)["digest"] = "other"
    pair.a.find("acked", 1)["digest"] = "other"


def turn_back_time(pair: PairMaker) -> None:
    pair.a.lines[-1]["at_ns"] = 0


def release_in_a_hand_over(pair: PairMaker) -> None:
    pair.hand_over()
    pair._say(pair.a, "released", epoch=pair.number)


def go_on_after_a_take_over(pair: PairMaker) -> None:
    """The new primary runs, and the old one never fell silent."""
    pair.switch_over()
    for event in ("handing-over", "ended", "secondary"):
        pair.a.lines.remove(pair.a.find(event))


Breaking = Callable[[PairMaker], None]
BREAKINGS: list[tuple[str, Breaking]] = [
    ("released", release_before_the_ack),
    ("released", ack_another_digest),
    ("passing", pass_before_the_grant),
    ("bar", lift_without_an_ack),
    ("epochs", pause_an_old_epoch),
    ("epochs", build_upon_nothing),
    ("silence", release_when_fenced),
    ("silence", release_in_a_hand_over),
    ("speakers", go_on_after_a_take_over),
    ("words", claim_protection_while_barred),
    ("words", claim_protection_without_a_link),
    ("words", claim_to_be_alone),
    ("words", claim_to_be_alone_and_hold),
    ("acks", ack_before_the_commit),
    ("commits", commit_an_older_session),
    ("commits", commit_backwards),
    ("commits", promise_more_than_held),
    ("older", commit_an_older_term),
    ("take-over", start_another_epoch),
    ("take-over", ask_for_a_discarded_replica),
    ("standby", claim_a_newer_standby),
    ("terms", give_a_term_twice),
    ("speakers", speak_before_the_lease_has_ended),
    ("promotion", promote_an_old_epoch),
    ("promotion", promote_after_going_alone),
    ("promotion", promote_another_replica),
    ("promises", forge_an_ack),
    ("promises", commit_what_was_not_sealed),
    ("order", turn_back_time),
]


@pytest.mark.parametrize(("rule", "breaking"), BREAKINGS, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_promise_is_found(rule: str, breaking: Breaking) -> None:
    pair = make("epoch", "epoch")
    breaking(pair)
    report = judge(pair.files())
    assert rule in {violation.rule for violation in report.violations}
    text = "\n".join(render_report(report))
    assert "BROKEN" in text and ".events:" in text


def test_clocks_of_two_hosts_are_not_compared() -> None:
    pair = make("epoch", same_boot=False)
    speak_before_the_lease_has_ended(pair)
    report = judge(pair.files())
    assert report.kept and "speakers" not in report.checked


def test_an_operators_force_is_his_own_risk() -> None:
    pair = make("epoch")
    pair.go_alone()
    pair.fail_over(force=True)
    assert broken_rules(pair.files()) == set()


def forget_leases(pair: PairMaker) -> None:
    """Without an arbiter a lease never ends."""
    for line in (*pair.a.lines, *pair.b.lines):
        if "deadline_ns" in line:
            line["deadline_ns"] = (1 << 63) - 1


def test_without_leases_a_side_that_holds_its_output_is_mute() -> None:
    pair = make("epoch", arbiter=False)
    pair.fail_over(force=True, restart=False)
    forget_leases(pair)
    assert broken_rules(pair.files()) == set()
    later_ns = pair.now_ns + MS
    pair.a.lines.append({"event": "link-down", "at_ns": later_ns, "reason": "a cable"})
    assert broken_rules(pair.files()) == set()
    pair.a.lines.append({"event": "passing", "at_ns": later_ns})
    assert "speakers" in broken_rules(pair.files())


def test_one_sides_journal_is_judged_alone() -> None:
    pair = make("epoch", "fail_over_and_back", "epoch")
    for name, content in pair.files().items():
        assert broken_rules({name: content}) == set()


# Clients.


def client_with(**changes: Any) -> bytes:
    lines = client_lines()
    lines[-1].update(changes)
    return dump(lines)


def test_a_client_that_lost_nothing_is_believed() -> None:
    report = judge({"client.log": client_with()})
    assert report.kept and report.clients == 1 and report.checked["client"] > 5


@pytest.mark.parametrize(
    "changes",
    [
        {"increments_lost": 1},
        {"increments_repeated": 1},
        {"consecutive": False},
        {"last_value": 501},
        {"increments_acked": 499, "last_value": 499},
        {"sets_missing": 3},
        {"sets_acked": 80},
        {"broken": ["connection broken"]},
    ],
)
def test_a_client_that_lost_something_is_heard(changes: dict[str, Any]) -> None:
    assert broken_rules({"client.log": client_with(**changes)}) == {"client"}


def test_a_client_without_a_last_word_proves_nothing() -> None:
    assert broken_rules({"client.log": dump(client_lines()[:-1])}) == {"client"}


# Input that is no history.


def test_damaged_lines_are_named() -> None:
    pair = make("epoch")
    lines = pair.a.content().split(b"\n")
    lines[4] = b"\xff\xfe"
    lines[6] = b'{"event": "acked", "at_ns": 1}'
    lines[8] = b'{"event": "nonsense", "at_ns": 1}'
    report = judge({"a.events": b"\n".join(lines), "b.events": pair.b.content()})
    found = [violation for violation in report.violations if violation.rule == "readable"]
    assert [violation.facts[0].place for violation in found] == ["a.events:5", "a.events:7", "a.events:9"]
    assert "acked without a session" in found[1].text and "'nonsense'" in found[2].text


def test_what_is_no_journal_is_refused() -> None:
    with pytest.raises(ConfigError, match="readme is no journal"):
        judge({"readme": b"# replicator\n\nKeeps a machine alive\n"})
    with pytest.raises(ConfigError, match="is no journal"):
        judge({"empty": b""})


def test_a_newer_format_is_refused() -> None:
    side: Side = make().a
    side.lines[0]["format"] = FORMAT + 1
    with pytest.raises(ConfigError, match=f"format {FORMAT + 1}"):
        judge({"a.events": side.content()})


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="gone.events cannot be read"):
        check_files([tmp_path / "gone.events"])


def test_every_rule_is_broken_by_some_test() -> None:
    proven = {rule for rule, _ in (*BREAKINGS, *COLO_BREAKINGS)} | {"client", "readable"}
    assert proven == set(RULES)


def test_the_page_names_every_event_and_rule() -> None:
    from replicator.observe.journal import FIELDS

    page = (Path(__file__).parents[2] / "docs" / "journal.md").read_text()
    for name in (*FIELDS, *RULES):
        assert f"`{name}`" in page, f"docs/journal.md does not explain {name}"
    for fields in FIELDS.values():
        assert all(f"`{name}`" in page for name in fields), json.dumps(list(fields))
