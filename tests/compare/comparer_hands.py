"""Comparers for tests of loading and guarding, and a way to feed one."""

from __future__ import annotations

from replicator.compare import Ages, Comparer, Connection, OutputComparer, Same, Verdict
from replicator.compare.plain import TcpStreamComparer

TCP = Connection("tcp", "10.0.0.1", 80, "10.0.0.2", 40000)
UDP = Connection("udp", "10.0.0.1", 53, "10.0.0.2", 40000)
YOUNG, OLD = Ages(0, 0), Ages(10**9, 10**9)


def feed(
    comparer: OutputComparer,
    primary: bytes,
    secondary: bytes,
    connection: Connection = TCP,
    ages: Ages = YOUNG,
) -> tuple[int, int, Verdict | None]:
    """Ask until it has no more to say: bytes found the same, bytes ignored, and the last verdict if not Same."""
    done = ignored = 0
    while size := min(len(primary), len(secondary)) - done:
        verdict = comparer.compare(
            connection, primary[done : done + size], secondary[done : done + size], ages
        )
        if not isinstance(verdict, Same):
            return done, ignored, verdict
        done += verdict.size
        ignored += verdict.ignored_bytes
    return done, ignored, None


class Plain(Comparer):
    """A good one, with an option."""

    ignores = ("nothing",)

    def __init__(self, size: int = 1) -> None:
        self.size = size

    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        return Same(self.size)


class Counting(TcpStreamComparer):
    """Follows what is said, with the help of one that does not."""

    def __init__(self) -> None:
        self.seen = 0

    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        self.seen += len(primary)
        return super().compare(connection, primary, secondary, ages)


class Answers:
    """Answers, raises or computes whatever it is given."""

    def __init__(self, answer: object = None) -> None:
        self.answer = answer

    def compare(self, connection: Connection, primary: bytes, secondary: bytes, ages: Ages) -> Verdict:
        return self._act()  # type: ignore[return-value]

    def skip(self, connection: Connection, primary: bytes) -> None:
        self._act()

    def _act(self) -> object:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer() if callable(self.answer) else self.answer


class NoCompare:
    pass


class NoSkip:
    compare = Plain.compare


class BadIgnores(Plain):
    ignores = "no tuple"  # type: ignore[assignment]


class Exits:
    def __init__(self) -> None:
        raise SystemExit(3)


NOT_A_CLASS = 5
