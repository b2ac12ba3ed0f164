"""Adapters for the machines that are protected. `base` is the contract; every other file is one kind of guest."""
