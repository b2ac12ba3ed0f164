"""`python -m replicator.sim`."""

from replicator.sim.command import sim

if __name__ == "__main__":
    sim()
