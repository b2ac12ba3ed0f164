#ifndef RP_STEADY_FLOW_H
#define RP_STEADY_FLOW_H
#include "fifo.h"
#include "steady.h"
#include "tcp_segment.h"

/* One steady flow. A frame is weighed first, which changes nothing, and then taken. */

struct steady_flow {
    /* Its pointers and their counts are set only for whoever asks. */
    struct rp_steady_state state;
    /* Bytes of the side that is ahead; frames of the primary. */
    struct fifo pending;
    struct fifo held;
};

/* What a segment brings. */
struct steady_news {
    /* Place behind it. */
    int64_t end;
    /* Bytes that its side has not said before, of which so many the other side has said too. */
    const uint8_t *fresh;
    uint32_t fresh_bytes;
    uint32_t equal_bytes;
};

void steady_flow_init(struct steady_flow *flow, const struct rp_steady_state *state);
void steady_flow_free(struct steady_flow *flow);
bool steady_flow_waits(const struct steady_flow *flow);
/* False when it is more than the next bytes, or others than the other side's. */
bool steady_flow_weigh(const struct steady_flow *flow, uint32_t side, const uint8_t *frame,
                       const struct rp_tcp_segment *segment, uint32_t side_bytes_max,
                       struct steady_news *news_ret);
/* Room for what was weighed and a held frame. False without memory. */
bool steady_flow_reserve(struct steady_flow *flow, const struct steady_news *news);
void steady_flow_take(struct steady_flow *flow, uint32_t side, const struct rp_tcp_segment *segment,
                      const struct steady_news *news, int64_t now_ns);
/* Both sides go on behind all that the primary has said. */
void steady_flow_commit(struct steady_flow *flow);
void steady_flow_hold(struct steady_flow *flow, const struct rp_steady_held *held);
/* Write the numbers of the frames that may leave. How many; whether the next one waits for a
 * confirmation only. */
uint32_t steady_flow_release(struct steady_flow *flow, uint64_t inputs_upto, int64_t now_ns,
                             uint64_t *frame_ids_ret, bool *awaits_ret);

#endif
