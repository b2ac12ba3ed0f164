#include "steady_flow.h"

#include <string.h>

enum { PRIMARY, SECONDARY };

#define EVENTS ((uint32_t)RP_TCP_SYN | RP_TCP_FIN | RP_TCP_RST)

void steady_flow_init(struct steady_flow *flow, const struct rp_steady_state *state)
{
    *flow = (struct steady_flow){.state = *state,
                                 .pending = {.item_bytes = 1},
                                 .held = {.item_bytes = sizeof(struct rp_steady_held)}};
}

void steady_flow_free(struct steady_flow *flow)
{
    fifo_free(&flow->pending);
    fifo_free(&flow->held);
}

bool steady_flow_waits(const struct steady_flow *flow)
{
    return flow->pending.count != 0 || flow->held.count != 0;
}

static uint32_t smaller(uint32_t one, uint32_t other) { return one < other ? one : other; }

/* From one sequence number to the other the shorter way round. */
static int64_t distance(uint32_t start, uint32_t end) { return (int32_t)(end - start); }

/* Whether these bytes stand so far behind the position. */
static bool is_pending(const struct steady_flow *flow, uint32_t at, const uint8_t *data,
                       uint32_t count)
{
    return count == 0 || memcmp((uint8_t *)fifo_front(&flow->pending) + at, data, count) == 0;
}

bool steady_flow_weigh(const struct steady_flow *flow, uint32_t side, const uint8_t *frame,
                       const struct rp_tcp_segment *segment, uint32_t side_bytes_max,
                       struct steady_news *news_ret)
{
    const struct rp_steady_state *state = &flow->state;
    const uint8_t *data = frame + segment->payload_at;
    uint32_t bytes = segment->end - segment->payload_at;
    uint32_t known = state->ahead == side ? flow->pending.count : 0;
    int64_t ahead = distance(state->side[side].seq, segment->seq);
    if ((segment->flags & EVENTS) != 0)
        return false;
    *news_ret = (struct steady_news){.end = state->position + ahead + bytes, .fresh = data};
    /* What is said again before the position is let pass. */
    uint32_t passed = ahead < 0 ? (uint32_t)(-ahead < bytes ? -ahead : bytes) : 0;
    uint32_t at = ahead > 0 ? (uint32_t)ahead : 0;
    data += passed;
    bytes -= passed;
    if (bytes == 0)
        return true;
    if (at > known)
        return false;
    uint32_t again = smaller(bytes, known - at);
    if (!is_pending(flow, at, data, again))
        return false;
    data += again;
    bytes -= again;
    news_ret->fresh = data;
    news_ret->fresh_bytes = bytes;
    /* Only one side is ahead: either nothing of this side is pending, or nothing of the other. */
    news_ret->equal_bytes = smaller(bytes, flow->pending.count - known);
    return bytes <= side_bytes_max - known && is_pending(flow, 0, data, news_ret->equal_bytes);
}

bool steady_flow_reserve(struct steady_flow *flow, const struct steady_news *news)
{
    return fifo_reserve(&flow->pending, news->fresh_bytes - news->equal_bytes) &&
           fifo_reserve(&flow->held, 1);
}

/* Both sides have said the next bytes. */
static void advance(struct rp_steady_state *state, uint32_t bytes, int64_t now_ns)
{
    for (int side = PRIMARY; side <= SECONDARY; side++) {
        state->side[side].seq += bytes;
        state->side[side].since_ns = now_ns;
    }
    state->position += bytes;
    state->since_ns = now_ns;
}

static void take_bytes(struct steady_flow *flow, uint32_t side, const struct steady_news *news,
                       int64_t now_ns)
{
    uint32_t rest = news->fresh_bytes - news->equal_bytes;
    if (flow->state.ahead != side || flow->pending.count == 0)
        flow->state.side[side].since_ns = now_ns;
    if (news->equal_bytes != 0) {
        fifo_pop(&flow->pending, news->equal_bytes);
        advance(&flow->state, news->equal_bytes, now_ns);
    }
    if (rest != 0) {
        fifo_push(&flow->pending, news->fresh + news->equal_bytes, rest);
        flow->state.ahead = side;
    }
}

void steady_flow_take(struct steady_flow *flow, uint32_t side, const struct rp_tcp_segment *segment,
                      const struct steady_news *news, int64_t now_ns)
{
    struct rp_steady_side *said = &flow->state.side[side];
    if (!steady_flow_waits(flow))
        flow->state.since_ns = now_ns;
    if (news->end > said->end)
        said->end = news->end;
    if (news->fresh_bytes != 0)
        take_bytes(flow, side, news, now_ns);
    if ((segment->flags & RP_TCP_ACK) == 0)
        return;
    if (!said->has_acked || distance(said->ack, segment->ack) > 0)
        said->ack = segment->ack;
    said->has_acked = true;
}

void steady_flow_hold(struct steady_flow *flow, const struct rp_steady_held *held)
{
    fifo_push(&flow->held, held, 1);
}

void steady_flow_commit(struct steady_flow *flow)
{
    struct rp_steady_state *state = &flow->state;
    struct rp_steady_side *primary = &state->side[PRIMARY];
    primary->seq += (uint32_t)(primary->end - state->position);
    primary->end = primary->since_ns = state->position = 0;
    state->side[SECONDARY] = *primary;
    fifo_pop(&flow->pending, flow->pending.count);
    fifo_pop(&flow->held, flow->held.count);
    fifo_trim(&flow->pending);
    fifo_trim(&flow->held);
}

/* What the frame acknowledges is not lost with the primary. */
static bool is_safe(const struct rp_steady_state *state, const struct rp_steady_held *held,
                    uint64_t inputs_upto)
{
    const struct rp_steady_side *secondary = &state->side[SECONDARY];
    if ((held->flags & RP_TCP_ACK) == 0 || held->input_seq <= inputs_upto)
        return true;
    return secondary->has_acked && distance(held->ack, secondary->ack) >= 0;
}

uint32_t steady_flow_release(struct steady_flow *flow, uint64_t inputs_upto, int64_t now_ns,
                             uint64_t *frame_ids_ret, bool *awaits_ret)
{
    uint32_t count = 0;
    *awaits_ret = false;
    while (flow->held.count != 0) {
        const struct rp_steady_held *first = fifo_front(&flow->held);
        if (first->end > flow->state.position)
            break;
        if (!is_safe(&flow->state, first, inputs_upto)) {
            *awaits_ret = true;
            break;
        }
        frame_ids_ret[count++] = first->frame_id;
        fifo_pop(&flow->held, 1);
    }
    if (count != 0)
        flow->state.since_ns = now_ns;
    return count;
}
