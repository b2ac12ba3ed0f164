#ifndef RP_TCP_SHIFT_H
#define RP_TCP_SHIFT_H
#include "tcp_segment.h"

/* Numbers of a connection of one copy of a guest made those of another copy. The rules are those of
 * replicator/engine/compare/shift.py, the oracle of the tests. */

/* The secondary's less the primary's, modulo 2^32. */
struct rp_shift {
    uint32_t seq;
    uint32_t ts;
};

/* A timestamp that may not be known. */
struct rp_stamp {
    bool is_known;
    uint32_t value;
};

/* A frame of the world for the shifted guest, written to `out`, of the same size. False when
 * nothing of it changes; then nothing is written. `newest` is the newest TSval that the guest said.
 */
bool rp_shift_input(const uint8_t *frame, uint32_t size, const struct rp_tcp_segment *segment,
                    const struct rp_tcp_options *options, struct rp_shift shift,
                    struct rp_stamp newest, uint8_t *out);
/* A frame of the shifted guest for the world, likewise. Its TSval is `floor` at least. */
bool rp_shift_output(const uint8_t *frame, uint32_t size, const struct rp_tcp_segment *segment,
                     const struct rp_tcp_options *options, struct rp_shift shift,
                     struct rp_stamp floor, uint8_t *out);

#endif
