#ifndef RP_STEADY_H
#define RP_STEADY_H
#include <stdbool.h>
#include <stdint.h>

/* The comparison of TCP connections on which nothing happens but equal bytes and acknowledgements:
 * both sides' numbers are known, nothing is missing between their bytes, no SYN, FIN or RST is on
 * its way, and what one side has said beyond the other was said by that one alone. Such a flow is
 * steady. The rules are those of replicator/engine/compare/tcp_flow.py and stream.py, the oracles
 * of the tests; a frame that would make a flow another is refused and changes nothing here, and
 * the caller takes the flow back.
 *
 * Side 0 is the primary's, 1 the secondary's. Places count from an origin that both share. A turn
 * is a number that grows with each call that has one; 0 is none. Not locked. */
struct rp_steady_flows;

struct rp_steady_side {
    /* Behind the last byte said. */
    int64_t end;
    /* When the oldest byte beyond the position came, or when it last got on. */
    int64_t since_ns;
    /* Sequence number of the position. */
    uint32_t seq;
    /* Newest acknowledgement, if there was one. */
    uint32_t ack;
    bool has_acked;
};

/* A frame of the primary that has not left. */
struct rp_steady_held {
    uint64_t frame_id;
    /* Newest input of the connection when the guest said it. */
    uint64_t input_seq;
    /* Place behind what it contains. */
    int64_t end;
    uint32_t flags;
    uint32_t ack;
};

struct rp_steady_state {
    struct rp_steady_side side[2];
    /* How far both have said the same. */
    int64_t position;
    /* Last time that anything got on, or began to wait. */
    int64_t since_ns;
    uint64_t input_seq;
    /* Turns: of the last use, since which it waits, since which a frame waits for a confirmation
     * only. */
    uint64_t used_turn;
    uint64_t waiting_turn;
    uint64_t unconfirmed_turn;
    /* The side that has said more, and what, from the position on. */
    uint32_t ahead;
    uint32_t pending_bytes;
    const uint8_t *pending;
    uint32_t held_count;
    const struct rp_steady_held *held;
    uint32_t key_bytes;
    uint8_t key[64];
};

/* As of the last call that had a frame or a confirmation. */
struct rp_steady_report {
    /* Frames of the primary that leave, in this order; they lie there until the next call. */
    const uint64_t *released;
    uint32_t released_count;
    /* How often equal bytes were passed: once for 64 KiB or less. */
    uint32_t equal_count;
    /* By how much the bytes grew that are kept until the other side says them. */
    int64_t kept_change;
    /* Flows in which something waits, and in which a frame waits for a confirmation only. */
    uint32_t waiting;
    uint32_t unconfirmed;
};

/* Room for so many flows, of each side so many bytes beyond the other. -EINVAL for none or more
 * than 2^20 flows, -ENOMEM. */
int rp_steady_create(uint32_t flows_max, uint32_t side_bytes_max, uint64_t seed,
                     struct rp_steady_flows **flows_ret);
void rp_steady_destroy(struct rp_steady_flows *flows);
/* Where the reports stand, for as long as the flows do. */
const struct rp_steady_report *rp_steady_report(const struct rp_steady_flows *flows);

/* Take a steady flow, with a copy of what it points at. False without room, and for one that is
 * there already or cannot be one. */
bool rp_steady_put(struct rp_steady_flows *flows, const struct rp_steady_state *state);
/* What is kept of a flow. What it points at is valid until the next call. False when the flow is
 * not here. */
bool rp_steady_find(const struct rp_steady_flows *flows, const uint8_t *key, uint32_t key_bytes,
                    struct rp_steady_state *state_ret);
/* The flow that has waited longest of those that wait since before `bound_ns` ago. */
bool rp_steady_find_late(const struct rp_steady_flows *flows, int64_t now_ns, int64_t bound_ns,
                         struct rp_steady_state *state_ret);
/* A flow of which the primary has said more than the secondary. */
bool rp_steady_find_ahead(const struct rp_steady_flows *flows, struct rp_steady_state *state_ret);
void rp_steady_drop(struct rp_steady_flows *flows, const uint8_t *key, uint32_t key_bytes);

/* A frame of the primary's guest, held under this number, after inputs up to `newest_input`;
 * `inputs_upto` are confirmed. False when it is none of a flow that is here and stays steady. */
bool rp_steady_say_primary(struct rp_steady_flows *flows, const uint8_t *frame, uint32_t size,
                           uint32_t nic, uint64_t frame_id, uint64_t newest_input,
                           uint64_t inputs_upto, uint64_t turn, int64_t now_ns);
/* The same of the secondary's guest. */
bool rp_steady_say_secondary(struct rp_steady_flows *flows, const uint8_t *frame, uint32_t size,
                             uint32_t nic, uint64_t inputs_upto, uint64_t turn, int64_t now_ns);
/* A frame for both guests. False as above. */
bool rp_steady_note_input(struct rp_steady_flows *flows, const uint8_t *frame, uint32_t size,
                          uint32_t nic, uint64_t seq);
/* Inputs up to this one are confirmed: let go what waited for it alone, in flows that do so since
 * before this turn. */
void rp_steady_confirm(struct rp_steady_flows *flows, uint64_t inputs_upto, uint64_t before_turn,
                       int64_t now_ns);
/* Both guests are the primary's now, and all that it said has left: nothing waits, and both sides
 * of each flow go on with the primary's numbers, from place 0. */
void rp_steady_commit(struct rp_steady_flows *flows);

#endif
