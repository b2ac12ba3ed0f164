"""Benchmarks: what protection costs, how fast it is, and whether a change made it better.

figures     values of repeats, their spread, results and their comparison; pure
output      results on the terminal, as JSON, CSV, plots and HTML
rig         the pairs that are measured, in network namespaces of their own, and what the kernel says of them
loads       clients outside the guest and work inside it
interval, pause, sync, failover, link, pages, scale: one benchmark each; a function that fills a Recorder

Imports go up this list. Candidates that are compared are measured in turns within one run, on one guest where that can
be: a machine that becomes slower meanwhile slows all of them.
"""
