"""How outputs are compared, and how to bring a comparer of one's own. docs/comparers.md is its manual.

Everything exported here is public: a comparer needs nothing else of this program."""

from replicator.compare.api import (
    Ages,
    Comparer,
    ComparerFactory,
    Connection,
    Differs,
    OutputComparer,
    Same,
    Verdict,
    Wait,
    compare_stream,
    count_equal,
)
from replicator.compare.guard import BUDGET_NS, ComparerStatus, Guard, Judgement
from replicator.compare.http import HttpComparer
from replicator.compare.loading import (
    BUILT_IN,
    DEFAULT_COMPARER,
    ENTRY_POINTS,
    LoadedComparer,
    load_comparer,
)
from replicator.compare.plain import ExactComparer, TcpStreamComparer, compare_whole
from replicator.compare.ranges import IgnoreRangesComparer

__all__ = [
    "BUDGET_NS",
    "BUILT_IN",
    "DEFAULT_COMPARER",
    "ENTRY_POINTS",
    "Ages",
    "Comparer",
    "ComparerFactory",
    "ComparerStatus",
    "Connection",
    "Differs",
    "ExactComparer",
    "Guard",
    "HttpComparer",
    "IgnoreRangesComparer",
    "Judgement",
    "LoadedComparer",
    "OutputComparer",
    "Same",
    "TcpStreamComparer",
    "Verdict",
    "Wait",
    "compare_stream",
    "compare_whole",
    "count_equal",
    "load_comparer",
]
