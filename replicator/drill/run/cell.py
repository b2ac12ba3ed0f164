"""One cell: a client, a phase, a fault, its end, healing. What is seen on the way becomes an `Observed` (matrix/judge.py)."""

from __future__ import annotations

import random
import time
from dataclasses import replace

from replicator.demo.promises import Report, load_report
from replicator.demo.timeline import Event
from replicator.drill.harm.injuries import INJURIES
from replicator.drill.harm.injury import Injury
from replicator.drill.matrix.cells import Cell
from replicator.drill.matrix.faults import NATURES
from replicator.drill.matrix.judge import Observed, Verdict, judge
from replicator.drill.run.outcomes import await_outcome
from replicator.drill.stand.stand import SIDES, Stand
from replicator.errors import ReplicatorError

_NAMES = {host: name for name, host in SIDES.items()}
#: Before a phase is asked for: anything within an epoch or two.
_JITTER_S = 0.06


class CellRun:
    """Runs one cell on a stand; leaves a protected pair behind, or `is_sound` false."""

    def __init__(self, stand: Stand, cell: Cell, rng: random.Random) -> None:
        self._stand, self._cell, self._rng = stand, cell, rng
        self._seen = Observed(stand.primary, stand.other)
        self._client_mark = 0
        #: Events from the beginning to the end of the cell.
        self.events: list[Event] = []
        #: The stand can be used for the next cell.
        self.is_sound = False

    @property
    def fault_ns(self) -> int:
        return self._seen.fault_ns

    def run(self) -> Verdict:
        """Never fails for what the pair does: that is the verdict's."""
        stand = self._stand
        begin = stand.ear.mark
        try:
            stand.prepare(self._cell.setting)
            self._note(primary=stand.primary, other=stand.other)
            stand.voice.forget()
            stand.voice.lost()
            self._client_mark = stand.start_client()
            self._suffer()
        except (ReplicatorError, OSError) as error:
            self._miss(error)
        self._finish(begin)
        verdict = judge(NATURES[self._cell.fault], self._seen)
        self.is_sound = verdict.passed
        return verdict

    def _suffer(self) -> None:
        stand, phase = self._stand, self._cell.phase
        injury = INJURIES[self._cell.fault](stand, self._rng)
        stand.pass_time(self._rng.uniform(0, _JITTER_S))
        standing = stand.side_of(phase)
        if not stand.reach(phase):
            return
        mark, fault_ns = stand.ear.mark, time.monotonic_ns()
        self._note(hit=True, fault_ns=fault_ns)
        try:
            injury.strike()
        except (ReplicatorError, OSError):
            injury.mend()
            raise
        finally:
            stand.go_on(standing)
        self._recover(injury, mark)

    def _recover(self, injury: Injury, mark: int) -> None:
        """Also a fault that did not lead where it must is undone: what the pair makes of that is worth knowing."""
        stand = self._stand
        try:
            await_outcome(stand, NATURES[self._cell.fault].outcome, mark)
        except ReplicatorError as error:
            self._miss(error)
        heal_mark, mended_ns = stand.ear.mark, time.monotonic_ns()
        injury.mend()
        self._note(mended_ns=mended_ns)
        back = stand.heal(heal_mark)
        self._note(protected_ns=max(mended_ns, back.at_ns) if back is not None else mended_ns)
        stand.await_replies(self._client_mark)

    def _finish(self, begin: int) -> None:
        stand = self._stand
        self._note(runs_at=self._find_guest())
        stand.end_client()
        self.events = stand.ear.since(begin)
        notice = next((e for e in self.events if e.name == "notice" and e.at_ns >= self.fault_ns), None)
        running = next((e for e in self.events if e.name == "running" and e.at_ns >= self.fault_ns), None)
        self._note(
            noticed_ns=None if notice is None else notice.at_ns,
            noticed="" if notice is None else f"{notice.source}: {notice.fields['what']}",
            running_ns=None if running is None else running.at_ns,
            speakers=tuple(_NAMES[host] for host in stand.voice.speakers()),
            unheard=stand.voice.lost(),
            report=self._find_report(),
        )

    def _find_guest(self) -> str:
        having = [name for name in SIDES if self._stand.ear.state_of(name).startswith("primary: ")]
        return having[0] if len(having) == 1 else " and ".join(having)

    def _find_report(self) -> Report | None:
        reports = [event for event in self.events if event.source == "client" and event.name == "report"]
        return load_report(reports[-1].fields) if reports else None

    @property
    def seen(self) -> Observed:
        return self._seen

    def _miss(self, error: Exception) -> None:
        self._note(missed=(*self._seen.missed, str(error)))

    def _note(self, **changes: object) -> None:
        self._seen = replace(self._seen, **changes)  # type: ignore[arg-type]
