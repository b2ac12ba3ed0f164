"""Load on a guest: from clients outside, and work inside."""
