"""Dataclasses that nobody changes: the type checker sees to it, and nothing has to ask at run time.

One that is frozen at run time refuses every assignment, so that its own first ones take a way around that: to make it
takes four times as long. Of events, effects and messages dozens are made in each epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def frozen(cls: type[T]) -> type[T]:
    """With slots, compared and hashed by its fields. To whoever checks types it is frozen."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
