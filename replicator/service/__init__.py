"""The daemon: configuration, wiring and the runners that execute what the machines decide."""
