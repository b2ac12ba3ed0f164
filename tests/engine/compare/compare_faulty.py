"""Comparers that misbehave, loaded by name."""

from __future__ import annotations

from replicator.compare import Ages, Comparer, Connection, Verdict, Wait


class Raises(Comparer):
    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        raise RuntimeError("no idea")


class Waits(Comparer):
    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        return Wait()
