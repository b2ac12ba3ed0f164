/* Steady flows against lists of bytes: all that each side has said of each connection, from its
 * first byte on. A frame is taken when it is the next bytes of its side or some of them again, and
 * the same as the other side's; the primary's leave once, in order, when the other side has said
 * them and what they acknowledge is safe. A refused frame changes nothing, and a flow that is taken
 * out and put back is the same.
 *
 * Input: u8 room; then calls: u8 which, u8 flow. A frame is u8 flags, i8 how far from the position,
 * u8 acknowledgement, u8 how many bytes, these; a confirmation u8 input, u8 turn. */
#include "../steady.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FLOWS 3
#define CALLS_MAX 64
#define DATA_MAX 15
#define TEXT (CALLS_MAX * DATA_MAX)
#define SIDE_MAX 40
#define HEADERS 54
#define ACK 16
#define EVENTS 7

struct held {
    uint64_t frame_id, input_seq;
    int64_t end;
    uint8_t flags, ack;
};

/* The lists. */
struct model {
    bool is_here;
    uint8_t text[2][TEXT];
    int64_t said[2], end[2], position;
    int ack[2];
    /* Of place 0. */
    uint32_t seq[2];
    struct held held[CALLS_MAX];
    uint32_t first, count;
    uint64_t input_seq, waiting, unconfirmed;
    int64_t since_ns, side_since_ns[2];
    uint64_t used;
};

struct bench {
    struct rp_steady_flows *flows;
    struct model model[FLOWS];
    uint32_t room;
    uint64_t turn, inputs;
    int64_t now_ns;
    uint64_t released[CALLS_MAX];
    uint32_t released_count;
};

static uint32_t first_seq(unsigned int flow, int side) { return side ? 0xfffffff0 : 1000 + flow; }

static uint8_t *key_of(unsigned int flow)
{
    const uint8_t key[16] = {0, 0, 4, 6, 1, 1, 1, 1, 2, 2, 2, 2, 0, (uint8_t)flow, 0, 9};
    return fuzz_copy(key, sizeof(key));
}

static uint8_t *make_frame(unsigned int flow, bool from_guest, uint32_t seq, uint8_t ack,
                           uint8_t flags, const uint8_t *data, uint32_t bytes)
{
    uint8_t head[HEADERS] = {[12] = 8, [14] = 0x45, [23] = 6, [46] = 0x50};
    head[17] = (uint8_t)(40 + bytes);
    memset(head + 26, from_guest ? 1 : 2, 4);
    memset(head + 30, from_guest ? 2 : 1, 4);
    head[35] = from_guest ? (uint8_t)flow : 9;
    head[37] = from_guest ? 9 : (uint8_t)flow;
    for (int at = 0; at < 4; at++)
        head[38 + at] = (uint8_t)(seq >> (24 - 8 * at));
    head[45] = ack;
    head[47] = flags;
    uint8_t *frame = fuzz_room(HEADERS + bytes, 0);
    memcpy(frame, head, HEADERS);
    if (bytes != 0)
        memcpy(frame + HEADERS, data, bytes);
    return frame;
}

/* Byte by byte; false when the flow would not stay steady. The model changes only if it does. */
static bool hear(struct model *model, int side, int64_t place, const uint8_t *data, uint32_t bytes,
                 int64_t now_ns)
{
    struct model next = *model;
    for (uint32_t i = 0; i < bytes; i++) {
        int64_t at = place + i;
        if (at < model->position)
            continue;
        if (at > next.said[side] || at >= TEXT)
            return false;
        if (at < next.said[side] && next.text[side][at] != data[i])
            return false;
        if (at < next.said[!side] && next.text[!side][at] != data[i])
            return false;
        if (at == next.said[side])
            next.text[side][next.said[side]++] = data[i];
    }
    if (next.said[side] - model->position > SIDE_MAX)
        return false;
    next.position = next.said[0] < next.said[1] ? next.said[0] : next.said[1];
    if (next.position > model->position || next.waiting == 0)
        next.since_ns = now_ns;
    if (next.position > model->position)
        next.side_since_ns[0] = next.side_since_ns[1] = now_ns;
    else if (next.said[side] > model->said[side] && model->said[side] == model->position)
        next.side_since_ns[side] = now_ns;
    if (place + bytes > next.end[side])
        next.end[side] = place + bytes;
    *model = next;
    return true;
}

static void let_go(struct bench *bench, struct model *model, uint64_t inputs_upto, uint64_t turn)
{
    bool awaits = false;
    while (model->first < model->count && model->held[model->first].end <= model->position) {
        struct held *held = &model->held[model->first];
        bool is_said = model->ack[1] >= 0 && (int32_t)((uint32_t)model->ack[1] - held->ack) >= 0;
        awaits = (held->flags & ACK) && held->input_seq > inputs_upto && !is_said;
        if (awaits)
            break;
        bench->released[bench->released_count++] = held->frame_id;
        model->since_ns = bench->now_ns;
        model->first++;
    }
    bool waits = model->first < model->count || model->said[0] != model->said[1];
    model->unconfirmed = !awaits ? 0 : model->unconfirmed ? model->unconfirmed : turn;
    model->waiting = !waits ? 0 : model->waiting ? model->waiting : turn;
}

static int64_t kept(const struct model *model)
{
    return model->said[0] + model->said[1] - 2 * model->position;
}

static void check_report(struct bench *bench, int64_t kept_change)
{
    const struct rp_steady_report *report = rp_steady_report(bench->flows);
    uint32_t waiting = 0, unconfirmed = 0;
    for (unsigned int flow = 0; flow < FLOWS; flow++) {
        waiting += bench->model[flow].is_here && bench->model[flow].waiting != 0;
        unconfirmed += bench->model[flow].is_here && bench->model[flow].unconfirmed != 0;
    }
    DEMAND(report->waiting == waiting && report->unconfirmed == unconfirmed);
    DEMAND(report->released_count == bench->released_count && report->kept_change == kept_change);
    for (uint32_t at = 0; at < bench->released_count; at++)
        DEMAND(report->released[at] == bench->released[at]);
    bench->released_count = 0;
}

static void play_frame(struct fuzz_input *input, struct bench *bench, unsigned int flow, int side)
{
    struct model *model = &bench->model[flow];
    uint8_t data[DATA_MAX], flags = (uint8_t)fuzz_take(input, 1);
    int64_t place = model->position + (int8_t)fuzz_take(input, 1);
    uint8_t ack = (uint8_t)fuzz_take(input, 1);
    uint32_t bytes = fuzz_take(input, 1) % (DATA_MAX + 1);
    for (uint32_t at = 0; at < bytes; at++)
        data[at] = (uint8_t)fuzz_take(input, 1);
    uint32_t seq = model->seq[side] + (uint32_t)place;
    uint8_t *frame = make_frame(flow, true, seq, ack, flags, data, bytes);
    int64_t before = kept(model), end = place + bytes;
    uint64_t upto = bench->inputs / 2, turn = ++bench->turn;
    bool is_taken = side ? rp_steady_say_secondary(bench->flows, frame, HEADERS + bytes, 0, upto,
                                                   turn, bench->now_ns)
                         : rp_steady_say_primary(bench->flows, frame, HEADERS + bytes, 0, turn,
                                                 bench->inputs, upto, turn, bench->now_ns);
    free(frame);
    if (!model->is_here || (flags & EVENTS) != 0 ||
        !hear(model, side, place, data, bytes, bench->now_ns)) {
        DEMAND(!is_taken);
        return;
    }
    DEMAND(is_taken);
    model->used = turn;
    if ((flags & ACK) && ack > model->ack[side])
        model->ack[side] = ack;
    if (side == 0)
        model->held[model->count++] = (struct held){
            turn, model->input_seq ? model->input_seq : bench->inputs, end, flags, ack};
    let_go(bench, model, upto, turn);
    check_report(bench, kept(model) - before);
}

static void play_input(struct fuzz_input *input, struct bench *bench, unsigned int flow)
{
    uint8_t flags = (uint8_t)fuzz_take(input, 1);
    uint8_t *frame = make_frame(flow, false, 7, 0, flags, NULL, 0);
    bool is_noted = rp_steady_note_input(bench->flows, frame, HEADERS, 0, ++bench->inputs);
    DEMAND(is_noted == (bench->model[flow].is_here && (flags & 5) == 0));
    if (is_noted)
        bench->model[flow].input_seq = bench->inputs;
    free(frame);
}

/* In the order in which they began to wait for it. */
static void play_confirm(struct fuzz_input *input, struct bench *bench)
{
    uint64_t upto = fuzz_take(input, 1), before = fuzz_take(input, 1);
    rp_steady_confirm(bench->flows, upto, before, bench->now_ns);
    for (uint64_t turn = 1; turn < before; turn++)
        for (unsigned int flow = 0; flow < FLOWS; flow++)
            if (bench->model[flow].is_here && bench->model[flow].unconfirmed == turn)
                let_go(bench, &bench->model[flow], upto, turn);
    check_report(bench, 0);
}

static void check_flow(const struct bench *bench, unsigned int flow)
{
    const struct model *model = &bench->model[flow];
    struct rp_steady_state state;
    uint8_t *key = key_of(flow);
    bool is_here = rp_steady_find(bench->flows, key, 16, &state);
    free(key);
    DEMAND(is_here == model->is_here);
    if (!is_here)
        return;
    DEMAND(state.position == model->position && state.since_ns == model->since_ns);
    DEMAND(state.waiting_turn == model->waiting && state.unconfirmed_turn == model->unconfirmed);
    DEMAND(state.input_seq == model->input_seq && state.pending_bytes == kept(model));
    if (state.pending_bytes != 0)
        DEMAND(state.ahead == (model->said[1] > model->said[0]) &&
               memcmp(state.pending, model->text[state.ahead] + model->position,
                      state.pending_bytes) == 0);
    for (int side = 0; side < 2; side++) {
        DEMAND(state.side[side].seq == model->seq[side] + (uint32_t)model->position);
        DEMAND(state.side[side].end == model->end[side]);
        DEMAND(state.side[side].since_ns == model->side_since_ns[side]);
        DEMAND(state.side[side].has_acked ? (int)state.side[side].ack == model->ack[side]
                                          : model->ack[side] < 0);
    }
    DEMAND(state.used_turn == model->used);
    DEMAND(state.held_count == model->count - model->first);
    for (uint32_t at = 0; at < state.held_count; at++)
        DEMAND(state.held[at].frame_id == model->held[model->first + at].frame_id);
}

/* Out and in again, or for the first time. */
static void play_put(struct bench *bench, unsigned int flow)
{
    struct model *model = &bench->model[flow];
    struct rp_steady_state state = {.key_bytes = 16};
    uint8_t *key = key_of(flow), *pending = NULL;
    struct rp_steady_held *held = NULL;
    unsigned int here = 0;
    for (unsigned int at = 0; at < FLOWS; at++)
        here += bench->model[at].is_here;
    memcpy(state.key, key, 16);
    state.side[0].seq = first_seq(flow, 0);
    state.side[1].seq = first_seq(flow, 1);
    if (rp_steady_find(bench->flows, key, 16, &state)) {
        DEMAND(!rp_steady_put(bench->flows, &state));
        state.pending = pending = fuzz_copy(state.pending, state.pending_bytes);
        state.held = held = fuzz_copy(state.held, state.held_count * sizeof(*held));
        rp_steady_drop(bench->flows, key, 16);
        here--;
    } else {
        *model = (struct model){.ack = {-1, -1}, .seq = {state.side[0].seq, state.side[1].seq}};
    }
    model->is_here = rp_steady_put(bench->flows, &state);
    DEMAND(model->is_here == (here < bench->room));
    free(key);
    free(pending);
    free(held);
}

static void play_late(const struct bench *bench)
{
    struct rp_steady_state state;
    bool is_any = false;
    for (unsigned int flow = 0; flow < FLOWS; flow++) {
        const struct model *model = &bench->model[flow];
        is_any |= model->is_here && model->waiting && bench->now_ns - model->since_ns > 5;
    }
    DEMAND(rp_steady_find_late(bench->flows, bench->now_ns, 5, &state) == is_any);
    DEMAND(!is_any || bench->now_ns - bench->model[state.key[13]].since_ns > 5);
}

/* The model goes on with a text of its own from place 0. */
static void play_commit(struct bench *bench)
{
    struct rp_steady_state state;
    bool is_ahead = false;
    for (unsigned int flow = 0; flow < FLOWS; flow++)
        is_ahead |=
            bench->model[flow].is_here && bench->model[flow].said[0] > bench->model[flow].said[1];
    DEMAND(rp_steady_find_ahead(bench->flows, &state) == is_ahead);
    rp_steady_commit(bench->flows);
    for (unsigned int flow = 0; flow < FLOWS; flow++) {
        struct model *model = &bench->model[flow];
        uint32_t seq = model->seq[0] + (uint32_t)model->end[0];
        *model = (struct model){.is_here = model->is_here,
                                .seq = {seq, seq},
                                .ack = {model->ack[0], model->ack[0]},
                                .input_seq = model->input_seq,
                                .since_ns = model->since_ns,
                                .used = model->used};
    }
}

static void play(struct fuzz_input *input, struct bench *bench)
{
    unsigned int which = (unsigned int)fuzz_take(input, 1) % 8;
    unsigned int flow = (unsigned int)fuzz_take(input, 1) % FLOWS;
    if (which < 3)
        play_frame(input, bench, flow, which == 2);
    else if (which == 3)
        play_input(input, bench, flow);
    else if (which == 4)
        play_confirm(input, bench);
    else if (which == 5)
        play_put(bench, flow);
    else if (which == 6)
        play_late(bench);
    else
        play_commit(bench);
    bench->now_ns += which;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct bench *bench = fuzz_room(sizeof(*bench), 0);
    bench->room = (uint32_t)fuzz_take(&input, 1) % 5;
    int code = rp_steady_create(bench->room, SIDE_MAX, size, &bench->flows);
    DEMAND(code == (bench->room == 0 ? -EINVAL : 0));
    for (unsigned int flow = 0; code == 0 && flow < 2; flow++)
        play_put(bench, flow);
    for (int calls = 0; code == 0 && calls < CALLS_MAX && input.left > 0; calls++) {
        play(&input, bench);
        for (unsigned int flow = 0; flow < FLOWS; flow++)
            check_flow(bench, flow);
    }
    rp_steady_destroy(bench->flows);
    free(bench);
    return 0;
}
