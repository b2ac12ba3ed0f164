"""From a comparer's name to what makes it.

    exact, tcp-stream, http, ignore-ranges   built in
    NAME                                     an entry point of the group `replicator.comparers`
    MODULE:CLASS                             a class of a module that Python finds

The class is called with the options of the configuration, once here to see that it can be and once a connection.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from replicator.compare.api import ComparerFactory
from replicator.compare.guard import BUDGET_NS, Guard
from replicator.compare.http import HttpComparer
from replicator.compare.plain import ExactComparer, TcpStreamComparer
from replicator.compare.ranges import IgnoreRangesComparer
from replicator.errors import ConfigError

ENTRY_POINTS: Final = "replicator.comparers"
DEFAULT_COMPARER: Final = "tcp-stream"
BUILT_IN: Final[Mapping[str, Callable[..., Any]]] = {
    "exact": ExactComparer,
    "tcp-stream": TcpStreamComparer,
    "http": HttpComparer,
    "ignore-ranges": IgnoreRangesComparer,
}


@dataclass(frozen=True, slots=True)
class LoadedComparer:
    name: str
    make: ComparerFactory
    #: What it lets differ, in words.
    ignores: tuple[str, ...] = field(default=())
    #: It need not be asked about equal bytes of a stream.
    passes_equal: bool = False

    def guarded(self, clock: Callable[[], int], *, budget_ns: int = BUDGET_NS) -> Guard:
        """What the engine asks."""
        return Guard(
            self.name,
            self.make,
            clock,
            ignores=self.ignores,
            passes_equal=self.passes_equal,
            budget_ns=budget_ns,
        )


def load_comparer(name: str = DEFAULT_COMPARER, options: Mapping[str, Any] | None = None) -> LoadedComparer:
    """The comparer of this name with these options. ConfigError says what of it cannot work."""
    kind = BUILT_IN.get(name) or (_load_class(name) if ":" in name else _load_entry_point(name))
    make = partial(kind, **(options or {}))
    one = _try_to_make(name, make)
    for method in ("compare", "skip"):
        if not callable(getattr(one, method, None)):
            raise ConfigError(
                f"comparer {name!r} has no method {method}",
                hint="derive it from replicator.compare.Comparer; docs/comparers.md shows one",
            )
    # Said by the class itself: one that is derived from it may follow what is said.
    passes_equal = type(one).__dict__.get("passes_equal") is True
    return LoadedComparer(name, make, _ignores_of(name, one), passes_equal)


def _try_to_make(name: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"comparer {name!r}: {error}", hint=error.hint) from error
    except TypeError as error:
        raise ConfigError(
            f"comparer {name!r} does not take these options: {error}",
            hint="docs/comparers.md has the options of each",
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"comparer {name!r} cannot be made: {type(error).__name__}: {error}",
            hint="correct its options or its code",
        ) from error


def _ignores_of(name: str, comparer: Any) -> tuple[str, ...]:
    ignores = getattr(comparer, "ignores", ())
    if not isinstance(ignores, tuple) or not all(isinstance(one, str) for one in ignores):
        raise ConfigError(
            f"comparer {name!r}: ignores = {ignores!r} is no tuple of texts",
            hint="name in it, for status, what may differ",
        )
    return ignores


def _load_class(name: str) -> Callable[..., Any]:
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name or module_name.startswith("."):
        raise ConfigError(
            f"comparer {name!r} is not of the form MODULE:CLASS", hint="as in my_package.compare:MyComparer"
        )
    return _import(name, EntryPoint(name, name, ENTRY_POINTS))


def _load_entry_point(name: str) -> Callable[..., Any]:
    found = list(entry_points(group=ENTRY_POINTS))
    named = [one for one in found if one.name == name]
    if not named:
        known = ", ".join(sorted({*BUILT_IN, *(one.name for one in found)}))
        raise ConfigError(
            f"comparer {name!r} is not known", hint=f"there are {known}; others as MODULE:CLASS"
        )
    if len({one.value for one in named}) > 1:
        both = ", ".join(sorted({one.value for one in named}))
        raise ConfigError(
            f"comparer {name!r} is offered twice: {both}", hint="name the one you mean as MODULE:CLASS"
        )
    return _import(name, named[0])


def _import(name: str, point: EntryPoint) -> Callable[..., Any]:
    """The class. Code of others runs here, and may do anything."""
    try:
        module = importlib.import_module(point.module)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"comparer {name!r}: module {point.module} cannot be imported: {type(error).__name__}: {error}",
            hint="install it beside replicator, or put its folder into PYTHONPATH",
        ) from error
    try:
        kind = getattr(module, point.attr)
    except AttributeError:
        raise ConfigError(
            f"comparer {name!r}: module {point.module} has no {point.attr}",
            hint=f"it is the file {module.__file__}",
        ) from None
    if not callable(kind):
        raise ConfigError(
            f"comparer {name!r}: {point.attr} is no class", hint="name a class with a method compare"
        )
    made: Callable[..., Any] = kind
    return made
