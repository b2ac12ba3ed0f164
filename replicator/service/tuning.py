"""What `replicator tune` may change of a running primary: values as they are in the file, checked by the same rules.

An order is whole or nothing: the first value that cannot be is refused with its figures, and nothing changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from replicator.engine.events import TuneOrdered
from replicator.engine.measures import Measures
from replicator.engine.pacing import Mode, PacingSettings, parse_goal
from replicator.engine.pipeline import PipelineSettings
from replicator.engine.precopy import DowntimePolicy, OnBusy
from replicator.errors import ConfigError
from replicator.service.config_rules import TUNABLE_BOUNDS, check_bound, choose
from replicator.units import NS_PER_MS, NS_PER_S

#: Key of the file -> field of the settings and its unit.
_PACING = {
    "interval_ms": ("interval_ns", NS_PER_MS),
    "interval_min_ms": ("interval_min_ns", NS_PER_MS),
    "interval_max_ms": ("interval_max_ns", NS_PER_MS),
}
_SYNC = {
    "max_downtime_ms": ("max_downtime_ns", NS_PER_MS),
    "max_iterations": ("max_iterations", 1),
    "min_remaining_pages": ("min_remaining_pages", 1),
    "max_time_s": ("max_time_ns", NS_PER_S),
}
#: Everything that may be changed, as it is called in the file.
TUNABLE = (*_PACING, "pacing", "goal", "early_pages", *_SYNC, "on_busy")
_TEXTS = ("pacing", "goal", "on_busy")


def make_order(request: Mapping[str, Any], settings: PipelineSettings, measures: Measures) -> TuneOrdered:
    """The change that `request` wants of `settings`. ConfigError when it cannot be, or can never be kept here."""
    wanted = {key: request[key] for key in TUNABLE if request.get(key) is not None}
    for key, value in wanted.items():
        _check_value(key, value)
    pacing, sync = _change_pacing(wanted, settings.pacing), _change_sync(wanted, settings.sync)
    if pacing != settings.pacing:
        pacing.check_against(measures)
    if sync != settings.sync and measures.has_paused:
        sync.check_against(measures.fixed_ns)
    return TuneOrdered(
        pacing if pacing != settings.pacing else None,
        sync if any(key in wanted for key in (*_SYNC, "on_busy")) else None,
        wanted.get("early_pages"),
        retry=bool(request.get("retry")),
    )


def describe(settings: PipelineSettings) -> dict[str, Any]:
    """What is in force, with the keys of the file."""
    pacing, sync = settings.pacing, settings.sync
    return {
        **{key: getattr(pacing, field) // unit for key, (field, unit) in _PACING.items()},
        "pacing": pacing.mode.value,
        "goal": str(pacing.goal),
        "early_pages": settings.early_pages,
        **{key: getattr(sync, field) // unit for key, (field, unit) in _SYNC.items()},
        "on_busy": sync.on_busy.value,
    }


def _check_value(key: str, value: object) -> None:
    if key in _TEXTS:
        if not isinstance(value, str):
            raise ConfigError(f"{key} is {value!r}", hint="write a word")
    elif type(value) is not int:
        raise ConfigError(f"{key} is {value!r}", hint="write a whole number")
    else:
        check_bound(key, value, *TUNABLE_BOUNDS[key])


def _change_pacing(wanted: Mapping[str, Any], pacing: PacingSettings) -> PacingSettings:
    return replace(
        pacing,
        **{field: wanted[key] * unit for key, (field, unit) in _PACING.items() if key in wanted},
        mode=choose(Mode, "pacing", wanted["pacing"]) if "pacing" in wanted else pacing.mode,
        goal=parse_goal(wanted["goal"]) if "goal" in wanted else pacing.goal,
    )


def _change_sync(wanted: Mapping[str, Any], sync: DowntimePolicy) -> DowntimePolicy:
    return replace(
        sync,
        **{field: wanted[key] * unit for key, (field, unit) in _SYNC.items() if key in wanted},
        on_busy=choose(OnBusy, "on_busy", wanted["on_busy"]) if "on_busy" in wanted else sync.on_busy,
    )
