"""The secondary's replica files."""

from replicator.store.replica import Committed, Outcome, Promotable, Recovery, ReplicaStore

__all__ = ["Committed", "Outcome", "Promotable", "Recovery", "ReplicaStore"]
