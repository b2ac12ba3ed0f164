"""Boots a copy of a running pair's replica in a network of its own, and says whether it answered."""
