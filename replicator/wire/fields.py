"""Checks of the fields of our own messages, and how a checked map becomes a frozen dataclass.

A field is annotated with its type and its check: `epoch: Annotated[int, integer(1, INT_MAX)]`. A check returns the
value in the form that the field keeps (arrays become tuples) or raises `Unfit`, whose text the codec turns into a
WireError that names the message. A dataclass may add `problem() -> str` for what concerns several fields.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, NamedTuple, get_origin, get_type_hints

from replicator.errors import InvariantError


class Unfit(Exception):
    """A value that its field does not allow; becomes a WireError that names the message."""


Check = Callable[[object], object]


class _Form(NamedTuple):
    """What is known of a dataclass once its annotations were read."""

    #: The check of each field, in order.
    checks: dict[str, Check]
    #: The fields that hold another dataclass.
    nested: tuple[str, ...]
    #: Its `problem`.
    check_together: Callable[[Any], str] | None


_FORMS: dict[type[Any], _Form] = {}


def integer(low: int, high: int) -> Check:
    def check(value: object) -> int:
        if type(value) is not int:
            raise Unfit(f"must be an integer, not {type(value).__name__}")
        if not low <= value <= high:
            raise Unfit(f"{value} is not in {low}..{high}")
        return value

    return check


def text(chars_max: int, pattern: str = "") -> Check:
    matches = re.compile(pattern).fullmatch if pattern else None

    def check(value: object) -> str:
        if type(value) is not str:
            raise Unfit(f"must be text, not {type(value).__name__}")
        if len(value) > chars_max:
            raise Unfit(f"{len(value)} characters are more than {chars_max}")
        if matches is not None and not matches(value):
            raise Unfit(f"{value!r} does not match {pattern}")
        return value

    return check


def one_of(*words: str) -> Check:
    def check(value: object) -> str:
        if type(value) is not str or value not in words:
            raise Unfit(f"must be one of {', '.join(words)}, not {brief(value)}")
        return value

    return check


def prose(chars_max: int) -> Check:
    """Text for people, such as an error's: cut and made printable instead of refused, in both directions."""

    def check(value: object) -> str:
        if type(value) is not str:
            raise Unfit(f"must be text, not {type(value).__name__}")
        return "".join(one if one.isprintable() else " " for one in value[:chars_max])

    return check


def octets(size: int) -> Check:
    def check(value: object) -> bytes:
        if type(value) is not bytes:
            raise Unfit(f"must be bytes, not {type(value).__name__}")
        if len(value) != size:
            raise Unfit(f"{len(value)} bytes instead of {size}")
        return value

    return check


def flag(value: object) -> bool:
    if type(value) is not bool:
        raise Unfit(f"must be a boolean, not {type(value).__name__}")
    return value


def sequence(item: Check, count_max: int) -> Check:
    def check(value: object) -> tuple[object, ...]:
        if not isinstance(value, (list, tuple)):
            raise Unfit(f"must be an array, not {type(value).__name__}")
        if len(value) > count_max:
            raise Unfit(f"{len(value)} items are more than {count_max}")
        return tuple(item(one) for one in value)

    return check


def row(*items: Check) -> Check:
    """An array of exactly these items."""

    def check(value: object) -> tuple[object, ...]:
        if not isinstance(value, (list, tuple)) or len(value) != len(items):
            raise Unfit(f"must be an array of {len(items)}")
        return tuple(item(one) for item, one in zip(items, value, strict=True))

    return check


def nested(cls: type[Any]) -> Check:
    """A map with the fields of another dataclass, which the field then holds."""

    def check(value: object) -> object:
        if not isinstance(value, dict):
            raise Unfit(f"must be a map, not {type(value).__name__}")
        return build(cls, value)

    return check


def build(cls: type[Any], found: dict[str, Any]) -> Any:
    """The dataclass made of exactly these fields, each checked; Unfit names the first that is not in order."""
    checks, _, check_together = _FORMS.get(cls) or _form_of(cls)
    if len(found) != len(checks):
        raise _explain(checks, found)
    try:
        message = cls(*[check(found[name]) for name, check in checks.items()])
    except (KeyError, Unfit):
        raise _explain(checks, found) from None
    if check_together is not None and (problem := check_together(message)):
        raise Unfit(problem)
    return message


def checked_map(record: Any) -> dict[str, Any]:
    """The fields of a dataclass by name in the form that its checks give them; nested dataclasses become maps too."""
    cls = type(record)
    checks, nested_names, check_together = _FORMS.get(cls) or _form_of(cls)
    if nested_names:
        return as_map(build(cls, as_map(record)))
    try:
        found = {name: check(getattr(record, name)) for name, check in checks.items()}
    except Unfit:
        raise _explain(checks, as_map(record)) from None
    if check_together is not None and (problem := check_together(record)):
        raise Unfit(problem)
    return found


def _explain(checks: dict[str, Check], found: dict[str, Any]) -> Unfit:
    """What is wrong with these fields. Apart, because nothing is wrong with most of them."""
    if found.keys() != checks.keys():
        foreign = sorted(map(brief, found.keys() - checks.keys()))
        missing = sorted(map(brief, checks.keys() - found.keys()))
        return Unfit(
            f"fields foreign: {', '.join(foreign) or 'none'}; missing: {', '.join(missing) or 'none'}"
        )
    for name, check in checks.items():
        try:
            check(found[name])
        except Unfit as unfit:
            return Unfit(f"field {name}: {unfit}")
    raise InvariantError("fields that were refused are all in order")


def checks_of(cls: type[Any]) -> dict[str, Check]:
    """The check of each field of a dataclass, in order."""
    return _form_of(cls).checks


def _form_of(cls: type[Any]) -> _Form:
    if cls not in _FORMS:
        hints = get_type_hints(cls, include_extras=True)
        checks = {one.name: _check_in(hints[one.name]) for one in fields(cls)}
        nested_names = tuple(name for name in checks if is_dataclass(hints[name].__origin__))
        _FORMS[cls] = _Form(checks, nested_names, getattr(cls, "problem", None))
    return _FORMS[cls]


def _check_in(hint: Any) -> Check:
    if get_origin(hint) is not Annotated:
        raise TypeError(f"a field of type {hint} has no check")
    check: Check = hint.__metadata__[0]
    return check


def as_map(record: Any) -> dict[str, Any]:
    """The fields of a dataclass by name; nested dataclasses become maps too."""
    cls = type(record)
    found = {name: getattr(record, name) for name in checks_of(cls)}
    for name in _form_of(cls).nested:
        if is_dataclass(found[name]):
            found[name] = as_map(found[name])
    return found


def map_once(pairs: Sequence[tuple[object, object]]) -> dict[object, object]:
    """A msgpack map without repeated keys (for `object_pairs_hook`)."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise Unfit(f"key {brief(twice)} stands twice")
    return found


def brief(value: object) -> str:
    """A foreign value for a message to the operator: printable and short, whatever the peer sent."""
    if isinstance(value, str | bytes):
        value = value[:60]
    elif not isinstance(value, int | None):
        return type(value).__name__
    return ascii(value)[:80]
