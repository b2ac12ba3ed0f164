#include "relay_inputs.h"
#include "relay_ring.h"

#include <errno.h>
#include <stdlib.h>

/* Waiting frames of one NIC while the guest takes none; more are dropped, as a NIC would. */
#define WAITING_BYTES_MAX (UINT64_C(4) << 20)
#define WAITING_FRAMES_MAX 4096
/* After so many frames given it is asked which of them the guest has taken. */
#define GIVEN_FRAMES_MAX 64
/* The log of a take-over (16 MiB with its overhead), what may wait beside it, and what lies in the
 * guest's socket. Reserved, not used. */
#define RING_BYTES (UINT64_C(48) << 20)

struct list {
    struct rp_frame *first;
    struct rp_frame *last;
    uint64_t count;
};

/* The ring has the frames in the order of their numbers; each is in one of the lists, or done. So
 * the oldest of the ring is the oldest that the guest may not have. */
struct rp_inputs {
    struct rp_ring frames;
    /* Accepted and not given. */
    struct list waiting;
    /* Given; the newest of them may be unread. */
    struct list given;
    /* While held and stopped: unread at the last look and no longer in the socket. */
    struct list doubtful;
    /* What the given frames count in the socket. */
    int64_t given_cost;
    bool held;
    struct rp_input_counters counters;
};

static void append(struct list *list, struct rp_frame *frame)
{
    frame->next = NULL;
    if (list->first == NULL)
        list->first = frame;
    else
        list->last->next = frame;
    list->last = frame;
    list->count++;
}

static struct rp_frame *take_first(struct list *list)
{
    struct rp_frame *frame = list->first;
    list->first = frame->next;
    list->count--;
    return frame;
}

/* All of `more` come before those of `list`, in their order; `more` is empty then. */
static void prepend_all(struct list *list, struct list *more)
{
    if (more->first == NULL)
        return;
    more->last->next = list->first;
    if (list->first == NULL)
        list->last = more->last;
    list->first = more->first;
    list->count += more->count;
    *more = (struct list){0};
}

static void finish_all(struct list *list)
{
    while (list->first != NULL)
        take_first(list)->is_done = true;
}

int rp_inputs_create(struct rp_inputs **inputs_ret)
{
    struct rp_inputs *inputs = calloc(1, sizeof(*inputs));
    if (inputs == NULL)
        return -ENOMEM;
    int code = rp_ring_init(&inputs->frames, RING_BYTES);
    if (code != 0) {
        free(inputs);
        return code;
    }
    *inputs_ret = inputs;
    return 0;
}

void rp_inputs_destroy(struct rp_inputs *inputs)
{
    if (inputs == NULL)
        return;
    rp_ring_deinit(&inputs->frames);
    free(inputs);
}

bool rp_inputs_has_room(const struct rp_inputs *inputs, uint32_t size)
{
    return inputs->waiting.count < WAITING_FRAMES_MAX &&
           inputs->counters.waiting_bytes + size <= WAITING_BYTES_MAX;
}

int rp_inputs_accept(struct rp_inputs *inputs, uint64_t number, const void *data, uint32_t size)
{
    struct rp_frame *frame = rp_ring_push_copy(&inputs->frames, data, size);
    if (frame == NULL)
        return -ENOSPC;
    frame->number = number;
    append(&inputs->waiting, frame);
    inputs->counters.waiting_bytes += size;
    return 0;
}

static uint32_t list_frames(const struct list *list, const struct rp_frame **frames, uint32_t most)
{
    uint32_t count = 0;
    for (const struct rp_frame *frame = list->first; frame != NULL && count < most;
         frame = frame->next)
        frames[count++] = frame;
    return count;
}

uint32_t rp_inputs_peek(const struct rp_inputs *inputs, const struct rp_frame **frames,
                        uint32_t most)
{
    return inputs->held ? 0 : list_frames(&inputs->waiting, frames, most);
}

static struct rp_frame *take_waiting(struct rp_inputs *inputs)
{
    struct rp_frame *frame = take_first(&inputs->waiting);
    inputs->counters.waiting_bytes -= frame->size;
    return frame;
}

void rp_inputs_mark_given(struct rp_inputs *inputs, uint32_t cost)
{
    struct rp_frame *frame = take_waiting(inputs);
    frame->cost = cost;
    inputs->given_cost += cost;
    inputs->counters.given_frames++;
    append(&inputs->given, frame);
}

void rp_inputs_mark_refused(struct rp_inputs *inputs)
{
    take_waiting(inputs)->is_done = true;
    inputs->counters.refused_frames++;
    rp_ring_pop_done(&inputs->frames);
}

bool rp_inputs_wants_look(const struct rp_inputs *inputs)
{
    return inputs->given.count >= GIVEN_FRAMES_MAX;
}

/* The oldest given frame that is not among the unread; NULL when all are. */
static struct rp_frame *take_read(struct rp_inputs *inputs, int64_t unread_bytes)
{
    const struct rp_frame *oldest = inputs->given.first;
    if (oldest == NULL || inputs->given_cost - oldest->cost < unread_bytes)
        return NULL;
    inputs->given_cost -= oldest->cost;
    return take_first(&inputs->given);
}

void rp_inputs_prune(struct rp_inputs *inputs, int64_t unread_bytes)
{
    for (struct rp_frame *frame; (frame = take_read(inputs, unread_bytes)) != NULL;)
        frame->is_done = true;
    rp_ring_pop_done(&inputs->frames);
}

void rp_inputs_hold(struct rp_inputs *inputs) { inputs->held = true; }

int rp_inputs_note_unread(struct rp_inputs *inputs, int64_t unread_bytes, uint64_t *frames_ret)
{
    if (!inputs->held)
        return -EINVAL;
    rp_inputs_prune(inputs, unread_bytes);
    *frames_ret = inputs->given.count;
    return 0;
}

int rp_inputs_note_stop(struct rp_inputs *inputs, int64_t unread_bytes, uint64_t *oldest_ret)
{
    if (!inputs->held)
        return -EINVAL;
    for (struct rp_frame *frame; (frame = take_read(inputs, unread_bytes)) != NULL;)
        append(&inputs->doubtful, frame);
    const struct rp_frame *oldest = rp_ring_head(&inputs->frames);
    *oldest_ret = oldest == NULL ? 0 : oldest->number;
    return 0;
}

uint32_t rp_inputs_doubtful(const struct rp_inputs *inputs, const struct rp_frame **frames,
                            uint32_t most)
{
    return list_frames(&inputs->doubtful, frames, most);
}

void rp_inputs_resume(struct rp_inputs *inputs)
{
    inputs->held = false;
    inputs->counters.repeated_frames += inputs->doubtful.count;
    for (const struct rp_frame *frame = inputs->doubtful.first; frame != NULL; frame = frame->next)
        inputs->counters.waiting_bytes += frame->size;
    prepend_all(&inputs->waiting, &inputs->doubtful);
}

void rp_inputs_forget_given(struct rp_inputs *inputs)
{
    finish_all(&inputs->given);
    finish_all(&inputs->doubtful);
    inputs->given_cost = 0;
    rp_ring_pop_done(&inputs->frames);
}

void rp_inputs_count(const struct rp_inputs *inputs, struct rp_input_counters *counters_ret)
{
    *counters_ret = inputs->counters;
    counters_ret->waiting_frames = inputs->waiting.count;
}
