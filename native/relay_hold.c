#include "relay_hold.h"
#include "relay_ring.h"

#include <errno.h>
#include <stdlib.h>

/* Of our own announcements that wait: those of more addresses than a guest has. */
#define INJECTED_BYTES_MAX (1 << 20)
#define FRAME_BYTES_MAX 65536

/* The guest's frames leave in the order in which they came, so one ring holds them all:
 *
 *     oldest | leaving ... | closed epochs ... | open epoch ... | newest
 *
 * and the borders are numbers of frames. Only frames of ours leave out of this order: each names
 * the border that it found. */
struct rp_hold {
    struct rp_ring frames;
    struct rp_ring injected;
    uint64_t bytes_max;
    /* Number of the newest frame, and of the newest that may leave. */
    uint64_t newest;
    uint64_t leaving_upto;
    /* The newest frame, if it is still here. */
    struct rp_frame *newest_frame;
    /* Last frames of the epochs that are closed and were not released, in order. */
    struct rp_frame *first_end;
    struct rp_frame *last_end;
    uint64_t closed_epoch;
    uint64_t open_frames;
    uint64_t open_bytes;
    struct rp_hold_counters counters;
};

int rp_hold_create(uint64_t bytes_max, enum rp_mode mode, struct rp_hold **hold_ret)
{
    struct rp_hold *hold = calloc(1, sizeof(*hold));
    if (hold == NULL)
        return -ENOMEM;
    hold->bytes_max = bytes_max;
    hold->counters.mode = mode;
    /* At its end a ring may leave room for one frame unused. */
    int code = rp_ring_init(&hold->frames, bytes_max + FRAME_BYTES_MAX + RP_FRAME_OVERHEAD_BYTES);
    if (code == 0)
        code = rp_ring_init(&hold->injected, INJECTED_BYTES_MAX);
    if (code != 0) {
        rp_hold_destroy(hold);
        return code;
    }
    *hold_ret = hold;
    return 0;
}

void rp_hold_destroy(struct rp_hold *hold)
{
    if (hold == NULL)
        return;
    rp_ring_deinit(&hold->frames);
    rp_ring_deinit(&hold->injected);
    free(hold);
}

static uint64_t cost(const struct rp_hold *hold)
{
    return hold->counters.held_bytes + hold->counters.held_frames * RP_FRAME_OVERHEAD_BYTES;
}

static void count_held(struct rp_hold *hold, struct rp_frame *frame, uint16_t nic, int64_t now_ns)
{
    frame->nic = nic;
    frame->at_ns = now_ns;
    hold->counters.held_frames++;
    hold->counters.held_bytes += frame->size;
}

bool rp_hold_add(struct rp_hold *hold, uint16_t nic, const void *data, uint32_t size,
                 int64_t now_ns)
{
    struct rp_frame *frame = NULL;
    if (cost(hold) + size + RP_FRAME_OVERHEAD_BYTES <= hold->bytes_max)
        frame = rp_ring_push_copy(&hold->frames, data, size);
    if (frame == NULL) {
        hold->counters.lost_frames++;
        return false;
    }
    count_held(hold, frame, nic, now_ns);
    frame->number = ++hold->newest;
    hold->newest_frame = frame;
    if (hold->counters.mode == RP_MODE_PASS) {
        hold->leaving_upto = hold->newest;
    } else {
        hold->open_frames++;
        hold->open_bytes += size;
    }
    return true;
}

void rp_hold_count_lost(struct rp_hold *hold, uint64_t frames)
{
    hold->counters.lost_frames += frames;
}

bool rp_hold_inject(struct rp_hold *hold, uint16_t nic, const void *data, uint32_t size,
                    int64_t now_ns)
{
    struct rp_frame *frame = rp_ring_push_copy(&hold->injected, data, size);
    if (frame == NULL) {
        hold->counters.lost_frames++;
        return false;
    }
    count_held(hold, frame, nic, now_ns);
    frame->number = hold->leaving_upto;
    return true;
}

static void close_open(struct rp_hold *hold)
{
    struct rp_frame *end = hold->newest_frame;
    end->epoch = hold->closed_epoch;
    end->next = NULL;
    if (hold->first_end == NULL)
        hold->first_end = end;
    else
        hold->last_end->next = end;
    hold->last_end = end;
}

int rp_hold_mark_barrier(struct rp_hold *hold, uint64_t epoch, uint64_t *frames_ret,
                         uint64_t *bytes_ret)
{
    if (epoch <= hold->closed_epoch)
        return -EINVAL;
    hold->closed_epoch = epoch;
    if (hold->open_frames > 0)
        close_open(hold);
    *frames_ret = hold->open_frames;
    *bytes_ret = hold->open_bytes;
    hold->open_frames = 0;
    hold->open_bytes = 0;
    return 0;
}

int rp_hold_release(struct rp_hold *hold, uint64_t epoch, uint64_t *frames_ret)
{
    if (epoch > hold->closed_epoch)
        return -EINVAL;
    uint64_t before = hold->leaving_upto;
    while (hold->first_end != NULL && hold->first_end->epoch <= epoch) {
        hold->leaving_upto = hold->first_end->number;
        hold->first_end = hold->first_end->next;
    }
    *frames_ret = hold->leaving_upto - before;
    return 0;
}

uint64_t rp_hold_set_mode(struct rp_hold *hold, enum rp_mode mode)
{
    hold->counters.mode = mode;
    if (mode == RP_MODE_HOLD)
        return 0;
    uint64_t let_go = hold->newest - hold->leaving_upto;
    hold->leaving_upto = hold->newest;
    hold->first_end = NULL;
    hold->open_frames = 0;
    hold->open_bytes = 0;
    return let_go;
}

uint64_t rp_hold_discard(struct rp_hold *hold)
{
    uint64_t discarded = hold->counters.held_frames;
    rp_ring_clear(&hold->frames);
    rp_ring_clear(&hold->injected);
    hold->leaving_upto = hold->newest;
    hold->newest_frame = NULL;
    hold->first_end = NULL;
    hold->open_frames = 0;
    hold->open_bytes = 0;
    hold->counters.held_frames = 0;
    hold->counters.held_bytes = 0;
    hold->counters.discarded_frames += discarded;
    hold->counters.mode = RP_MODE_HOLD;
    return discarded;
}

/* The ring whose oldest frame leaves next; NULL when none may. */
static const struct rp_ring *next_ring(const struct rp_hold *hold)
{
    const struct rp_frame *ours = rp_ring_head(&hold->injected);
    const struct rp_frame *guests = rp_ring_head(&hold->frames);
    if (ours != NULL && (guests == NULL || guests->number > ours->number))
        return &hold->injected;
    return guests != NULL && guests->number <= hold->leaving_upto ? &hold->frames : NULL;
}

const struct rp_frame *rp_hold_next_leaving(const struct rp_hold *hold)
{
    const struct rp_ring *ring = next_ring(hold);
    return ring == NULL ? NULL : rp_ring_head(ring);
}

void rp_hold_mark_left(struct rp_hold *hold, bool written)
{
    struct rp_ring *ring = next_ring(hold) == &hold->injected ? &hold->injected : &hold->frames;
    uint32_t size = rp_ring_head(ring)->size;
    rp_ring_pop(ring);
    hold->counters.held_frames--;
    hold->counters.held_bytes -= size;
    if (!written) {
        hold->counters.lost_frames++;
        return;
    }
    hold->counters.left_frames++;
    hold->counters.left_bytes += size;
}

bool rp_hold_is_full(const struct rp_hold *hold)
{
    return hold->open_frames > 0 && 2 * cost(hold) >= hold->bytes_max;
}

void rp_hold_count(const struct rp_hold *hold, struct rp_hold_counters *counters_ret)
{
    const struct rp_frame *oldest = rp_hold_next_leaving(hold);
    if (oldest == NULL)
        oldest = rp_ring_head(&hold->frames);
    *counters_ret = hold->counters;
    counters_ret->oldest_held_ns = oldest == NULL ? 0 : oldest->at_ns;
}
