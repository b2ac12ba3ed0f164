#include "steady_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FLOWS_MAX (UINT32_C(1) << 20)
#define HELD_MAX (UINT32_C(1) << 24)
/* Of a place, either way: far from where numbers end. */
#define PLACE_MAX (INT64_C(1) << 60)

int rp_steady_create(uint32_t flows_max, uint32_t side_bytes_max, uint64_t seed,
                     struct rp_steady_flows **flows_ret)
{
    if (flows_max == 0 || flows_max > FLOWS_MAX)
        return -EINVAL;
    struct rp_steady_flows *flows = calloc(1, sizeof(*flows));
    if (flows == NULL)
        return -ENOMEM;
    flows->side_bytes_max = side_bytes_max;
    flows->flow = malloc(flows_max * sizeof(*flows->flow));
    if (flows->flow == NULL || key_table_init(&flows->keys, flows_max, seed) != 0 ||
        turn_queue_init(&flows->waiting, flows_max) != 0 ||
        turn_queue_init(&flows->unconfirmed, flows_max) != 0) {
        rp_steady_destroy(flows);
        return -ENOMEM;
    }
    *flows_ret = flows;
    return 0;
}

void rp_steady_destroy(struct rp_steady_flows *flows)
{
    if (flows == NULL)
        return;
    for (uint32_t slot = 0; slot < flows->keys.fresh; slot++)
        steady_flow_free(&flows->flow[slot]);
    key_table_free(&flows->keys);
    turn_queue_free(&flows->waiting);
    turn_queue_free(&flows->unconfirmed);
    free(flows->flow);
    free(flows->released);
    free(flows);
}

const struct rp_steady_report *rp_steady_report(const struct rp_steady_flows *flows)
{
    return &flows->report;
}

bool steady_reserve_release(struct rp_steady_flows *flows, uint32_t frames)
{
    uint32_t room = flows->released_room == 0 ? 64 : flows->released_room;
    if (frames > HELD_MAX || flows->held > HELD_MAX - frames)
        return false;
    while (room < flows->held + frames)
        room *= 2;
    if (room == flows->released_room)
        return true;
    uint64_t *released = realloc(flows->released, room * sizeof(*released));
    if (released == NULL)
        return false;
    flows->released = released;
    flows->released_room = room;
    return true;
}

static bool is_place(int64_t place) { return place >= -PLACE_MAX && place <= PLACE_MAX; }

static bool is_in_order(const struct rp_steady_flows *flows, const struct rp_steady_state *state)
{
    if (state->ahead > 1 || state->key_bytes > KEY_BYTES_MAX ||
        state->pending_bytes > flows->side_bytes_max)
        return false;
    bool waits = state->pending_bytes != 0 || state->held_count != 0;
    return waits == (state->waiting_turn != 0) && is_place(state->position) &&
           is_place(state->side[0].end) && is_place(state->side[1].end);
}

/* A copy of what the state points at. */
static bool fill(struct steady_flow *flow, const struct rp_steady_state *state)
{
    steady_flow_init(flow, state);
    if (!fifo_reserve(&flow->pending, state->pending_bytes) ||
        !fifo_reserve(&flow->held, state->held_count)) {
        steady_flow_free(flow);
        return false;
    }
    fifo_push(&flow->pending, state->pending, state->pending_bytes);
    fifo_push(&flow->held, state->held, state->held_count);
    return true;
}

static void count_queues(struct rp_steady_flows *flows)
{
    flows->report.waiting = flows->waiting.count;
    flows->report.unconfirmed = flows->unconfirmed.count;
}

bool rp_steady_put(struct rp_steady_flows *flows, const struct rp_steady_state *state)
{
    struct steady_flow flow;
    if (!is_in_order(flows, state) || !steady_reserve_release(flows, state->held_count) ||
        key_table_find(&flows->keys, state->key, state->key_bytes) != NO_SLOT ||
        !fill(&flow, state))
        return false;
    uint32_t slot = key_table_add(&flows->keys, state->key, state->key_bytes);
    if (slot == NO_SLOT) {
        steady_flow_free(&flow);
        return false;
    }
    flows->flow[slot] = flow;
    flows->held += state->held_count;
    if (state->waiting_turn != 0)
        turn_queue_join(&flows->waiting, slot, state->waiting_turn);
    if (state->unconfirmed_turn != 0)
        turn_queue_join(&flows->unconfirmed, slot, state->unconfirmed_turn);
    count_queues(flows);
    return true;
}

static void describe(const struct rp_steady_flows *flows, uint32_t slot,
                     struct rp_steady_state *state_ret)
{
    const struct steady_flow *flow = &flows->flow[slot];
    *state_ret = flow->state;
    state_ret->waiting_turn = flows->waiting.link[slot].turn;
    state_ret->unconfirmed_turn = flows->unconfirmed.link[slot].turn;
    state_ret->pending_bytes = flow->pending.count;
    state_ret->pending = fifo_front(&flow->pending);
    state_ret->held_count = flow->held.count;
    state_ret->held = fifo_front(&flow->held);
}

bool rp_steady_find(const struct rp_steady_flows *flows, const uint8_t *key, uint32_t key_bytes,
                    struct rp_steady_state *state_ret)
{
    uint32_t slot = key_table_find(&flows->keys, key, key_bytes);
    if (slot == NO_SLOT)
        return false;
    describe(flows, slot, state_ret);
    return true;
}

bool rp_steady_find_late(const struct rp_steady_flows *flows, int64_t now_ns, int64_t bound_ns,
                         struct rp_steady_state *state_ret)
{
    uint32_t slot = flows->waiting.oldest;
    for (; slot != QUEUE_END; slot = flows->waiting.link[slot].newer) {
        if (now_ns - flows->flow[slot].state.since_ns <= bound_ns)
            continue;
        describe(flows, slot, state_ret);
        return true;
    }
    return false;
}

bool rp_steady_find_ahead(const struct rp_steady_flows *flows, struct rp_steady_state *state_ret)
{
    uint32_t slot = flows->waiting.oldest;
    for (; slot != QUEUE_END; slot = flows->waiting.link[slot].newer) {
        const struct steady_flow *flow = &flows->flow[slot];
        if (flow->pending.count == 0 || flow->state.ahead != 0)
            continue;
        describe(flows, slot, state_ret);
        return true;
    }
    return false;
}

void rp_steady_commit(struct rp_steady_flows *flows)
{
    /* Slots that no flow has have none of its memory either. */
    for (uint32_t slot = 0; slot < flows->keys.fresh; slot++)
        steady_flow_commit(&flows->flow[slot]);
    while (flows->waiting.oldest != QUEUE_END)
        turn_queue_leave(&flows->waiting, flows->waiting.oldest);
    while (flows->unconfirmed.oldest != QUEUE_END)
        turn_queue_leave(&flows->unconfirmed, flows->unconfirmed.oldest);
    flows->held = 0;
    count_queues(flows);
}

void rp_steady_drop(struct rp_steady_flows *flows, const uint8_t *key, uint32_t key_bytes)
{
    uint32_t slot = key_table_find(&flows->keys, key, key_bytes);
    if (slot == NO_SLOT)
        return;
    flows->held -= flows->flow[slot].held.count;
    steady_flow_free(&flows->flow[slot]);
    turn_queue_leave(&flows->waiting, slot);
    turn_queue_leave(&flows->unconfirmed, slot);
    key_table_drop(&flows->keys, slot);
    count_queues(flows);
}
