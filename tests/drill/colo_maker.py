"""Writes the journals of a pair in COLO that keeps every promise, line by line, for tests to break."""

from __future__ import annotations

from history_maker import PairMaker


class ColoPairMaker(PairMaker):
    """Each epoch is one that the secondary's VM runs from, but for the last one before the guest moves."""

    def __init__(self, *, same_boot: bool = True, arbiter: bool = True) -> None:
        self.vm = "none"
        self.runs_vm = True
        super().__init__(same_boot=same_boot, arbiter=arbiter)

    @property
    def _name(self) -> dict[str, object]:
        return {"session": self.session, "epoch": self.number}

    def _of_vm(self, field: str) -> dict[str, bool]:
        return {field: self.runs_vm}

    def _suspend_vm(self) -> None:
        if not self.base:
            return
        self._say(self.primary, "suspending-vm", **self._name)
        self._say(self.secondary, "suspend-ordered", **self._name)
        if self.vm == "running":
            self._say(self.secondary, "vm-suspending")
            self.vm = "suspended"
        self._say(self.secondary, "answering-suspend", **self._name)

    def _join_vm(self) -> None:
        if self.base:
            self._say(self.primary, "vm-suspended", **self._name)

    def _run_vm(self, *, heard: bool) -> None:
        if not self.runs_vm:
            self.vm = "parked"
            return
        self._say(self.secondary, "vm-loading", epoch=self.number)
        self._say(self.secondary, "vm-ready", **self._name)
        self._say(self.secondary, "vm-starting", epoch=self.number)
        self._say(self.secondary, "vm-running", **self._name)
        self.vm = "running"
        if not heard:
            return
        self._say(self.primary, "vm-resumed", **self._name)
        self._say(self.primary, "comparing", epoch=self.number)
        self._say(self.primary, "checkpoint-asked", epoch=self.number + 1, difference=True)

    def _stop_comparing(self) -> None:
        self._say(self.primary, "not-comparing")

    def _end_vm(self) -> None:
        if self.vm != "none":
            self._say(self.secondary, "vm-ending")
        self.vm = "none"

    def last_epoch(self) -> None:
        self.paced_epoch()

    def paced_epoch(self) -> None:
        """One that the VM does not run from: it stands still, and the replica is whole again."""
        self.runs_vm = False
        self.epoch()
        self.runs_vm = True

    def fail_over(self, *, force: bool = False, restart: bool = True) -> None:
        self.runs_vm = self.vm in ("running", "suspended")
        super().fail_over(force=force, restart=restart)
        self.vm, self.runs_vm = "none", True

    def lose_vm(self) -> None:
        """The VM dies, and takes the replica with it; the primary begins anew."""
        self._say(self.secondary, "vm-failed", reason="killed")
        self._end_vm()
        self._say(self.secondary, "discarding", reason="killed")
        self._say(self.secondary, "aborting", **self._name, detail="killed")
        self._say(self.primary, "not-committed", epoch=self.number, detail="killed")
        self._stop_comparing()
        self._say(self.primary, "asking-alone")
        self._say(self.primary, "alone")
        self._say(self.primary, "passing")
        self.sync()
