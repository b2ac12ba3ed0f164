"""Kills the daemon and the guest of this host, and watches the other side take over."""
