#ifndef RP_STEADY_TABLE_H
#define RP_STEADY_TABLE_H
#include "key_table.h"
#include "steady_flow.h"
#include "turn_queue.h"

/* Steady flows by key; who waits, and the report of the last call. */

struct rp_steady_flows {
    struct key_table keys;
    /* At the slots of their keys, as are those that are queued. */
    struct steady_flow *flow;
    struct turn_queue waiting;
    struct turn_queue unconfirmed;
    uint32_t side_bytes_max;
    /* Frames of all flows, and room for their numbers: a release never lacks it. */
    uint32_t held;
    uint32_t released_room;
    uint64_t *released;
    struct rp_steady_report report;
};

/* Room for so many more frames among those that may be released. False without memory. */
bool steady_reserve_release(struct rp_steady_flows *flows, uint32_t frames);

#endif
