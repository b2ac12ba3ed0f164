"""COLO's comparison of outputs, without I/O and clocks.

`machine` decides what leaves; `table` finds the flow of a packet, `tcp_flow` (over `stream`), `datagram_flow` and
`upkeep_flow` say when the two sides have said the same; `steady` lends quiet TCP flows to the native core. `packet` and
`tcp_options` read frames. `shift` and `shift_table` are for the secondary's side: numbers of connections that were born
after a checkpoint. What "the same" is, a comparer decides: `replicator.compare`."""
