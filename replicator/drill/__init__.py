"""Drills: faults on real parts, and proof that a pair kept its promises."""
