"""The secondary's replica files."""

from replicator.store.replica import ReplicaStore
from replicator.store.verdicts import Committed, Outcome, Promotable, Recovery

__all__ = ["Committed", "Outcome", "Promotable", "Recovery", "ReplicaStore"]
