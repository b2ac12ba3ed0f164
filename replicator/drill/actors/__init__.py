"""Processes that a drill starts: a daemon that stands still where it is told to, a relay that does harm, a client."""
