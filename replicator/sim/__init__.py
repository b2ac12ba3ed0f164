"""A deterministic simulator: two whole daemons, their network, arbiter, disks and guest, in one virtual time."""
