#include "steady_table.h"

enum { PRIMARY, SECONDARY };

/* COMPARE_CALL_BYTES_MAX of limits.py: so much is passed as equal at once. */
#define EQUAL_BYTES_MAX (UINT32_C(64) << 10)

/* A frame of a flow that is here. */
struct said {
    uint32_t slot;
    uint32_t side;
    struct rp_tcp_segment segment;
    struct steady_news news;
};

static bool find_flow(const struct rp_steady_flows *flows, const uint8_t *frame, uint32_t size,
                      uint32_t nic, bool from_guest, struct said *said_ret)
{
    struct rp_tcp_segment *segment = &said_ret->segment;
    if (flows->keys.count == 0 || !rp_tcp_read(frame, size, nic, from_guest, segment))
        return false;
    said_ret->slot = key_table_find(&flows->keys, segment->key, segment->key_bytes);
    return said_ret->slot != NO_SLOT;
}

/* Whether the flow stays steady with this frame, and all memory that it needs is there. */
static bool may_take(struct rp_steady_flows *flows, const uint8_t *frame, uint32_t size,
                     uint32_t nic, struct said *said)
{
    if (!find_flow(flows, frame, size, nic, true, said))
        return false;
    struct steady_flow *flow = &flows->flow[said->slot];
    return steady_flow_weigh(flow, said->side, frame, &said->segment, flows->side_bytes_max,
                             &said->news) &&
           steady_flow_reserve(flow, &said->news) && steady_reserve_release(flows, 1);
}

static void begin_report(struct rp_steady_flows *flows)
{
    flows->report.released = flows->released;
    flows->report.released_count = 0;
    flows->report.equal_count = 0;
    flows->report.kept_change = 0;
}

static void queue_if(bool belongs, struct turn_queue *queue, uint32_t slot, uint64_t turn)
{
    if (belongs)
        turn_queue_join(queue, slot, turn);
    else
        turn_queue_leave(queue, slot);
}

/* Let go what may leave of this flow. */
static void release(struct rp_steady_flows *flows, uint32_t slot, uint64_t inputs_upto,
                    uint64_t turn, int64_t now_ns)
{
    struct rp_steady_report *report = &flows->report;
    struct steady_flow *flow = &flows->flow[slot];
    bool awaits = false;
    uint32_t count = steady_flow_release(flow, inputs_upto, now_ns,
                                         flows->released + report->released_count, &awaits);
    report->released_count += count;
    flows->held -= count;
    queue_if(awaits, &flows->unconfirmed, slot, turn);
    queue_if(steady_flow_waits(flow), &flows->waiting, slot, turn);
    report->waiting = flows->waiting.count;
    report->unconfirmed = flows->unconfirmed.count;
    fifo_trim(&flow->held);
}

static void take(struct rp_steady_flows *flows, const struct said *said, uint64_t turn,
                 int64_t now_ns)
{
    struct steady_flow *flow = &flows->flow[said->slot];
    const struct steady_news *news = &said->news;
    int64_t kept = flow->pending.count;
    begin_report(flows);
    flow->state.used_turn = turn;
    steady_flow_take(flow, said->side, &said->segment, news, now_ns);
    fifo_trim(&flow->pending);
    flows->report.kept_change = flow->pending.count - kept;
    flows->report.equal_count = (news->equal_bytes + EQUAL_BYTES_MAX - 1) / EQUAL_BYTES_MAX;
}

bool rp_steady_say_primary(struct rp_steady_flows *flows, const uint8_t *frame, uint32_t size,
                           uint32_t nic, uint64_t frame_id, uint64_t newest_input,
                           uint64_t inputs_upto, uint64_t turn, int64_t now_ns)
{
    struct said said = {.side = PRIMARY};
    if (!may_take(flows, frame, size, nic, &said))
        return false;
    struct steady_flow *flow = &flows->flow[said.slot];
    /* Of a connection whose inputs were not followed, it may be any. */
    uint64_t input_seq = flow->state.input_seq != 0 ? flow->state.input_seq : newest_input;
    const struct rp_steady_held held = {frame_id, input_seq, said.news.end, said.segment.flags,
                                        said.segment.ack};
    take(flows, &said, turn, now_ns);
    steady_flow_hold(flow, &held);
    flows->held++;
    release(flows, said.slot, inputs_upto, turn, now_ns);
    return true;
}

bool rp_steady_say_secondary(struct rp_steady_flows *flows, const uint8_t *frame, uint32_t size,
                             uint32_t nic, uint64_t inputs_upto, uint64_t turn, int64_t now_ns)
{
    struct said said = {.side = SECONDARY};
    if (!may_take(flows, frame, size, nic, &said))
        return false;
    take(flows, &said, turn, now_ns);
    release(flows, said.slot, inputs_upto, turn, now_ns);
    return true;
}

bool rp_steady_note_input(struct rp_steady_flows *flows, const uint8_t *frame, uint32_t size,
                          uint32_t nic, uint64_t seq)
{
    struct said said;
    if (!find_flow(flows, frame, size, nic, false, &said) ||
        (said.segment.flags & (RP_TCP_FIN | RP_TCP_RST)) != 0)
        return false;
    flows->flow[said.slot].state.input_seq = seq;
    return true;
}

void rp_steady_confirm(struct rp_steady_flows *flows, uint64_t inputs_upto, uint64_t before_turn,
                       int64_t now_ns)
{
    const struct turn_link *link = flows->unconfirmed.link;
    uint32_t slot = flows->unconfirmed.oldest;
    begin_report(flows);
    while (slot != QUEUE_END && link[slot].turn < before_turn) {
        uint32_t next = link[slot].newer;
        release(flows, slot, inputs_upto, link[slot].turn, now_ns);
        slot = next;
    }
}
