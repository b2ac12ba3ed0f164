#ifndef RP_RELAY_RING_H
#define RP_RELAY_RING_H
#include "relay_frame.h"

#include <stddef.h>

/* Frames in the order in which they came, each in one piece. Not locked. */
struct rp_ring {
    uint8_t *base;
    size_t capacity;
    /* Of the oldest frame, and of the room behind the newest. */
    size_t head;
    size_t tail;
    /* Where the frames end that come before the one at 0; 0 while they lie in one row. */
    size_t wrap_at;
    uint64_t count;
};

/* More than the header of a frame and its alignment: what a ring needs for a frame beside its
 * bytes. */
#define RP_FRAME_OVERHEAD_BYTES 128

/* The memory is reserved, and taken from the system where frames come to lie. -ENOMEM. */
int rp_ring_init(struct rp_ring *ring, size_t capacity);
void rp_ring_deinit(struct rp_ring *ring);

/* A new frame behind the newest, its data yet to be written; NULL without room. */
struct rp_frame *rp_ring_push(struct rp_ring *ring, uint32_t size);
/* The same with data. */
struct rp_frame *rp_ring_push_copy(struct rp_ring *ring, const void *data, uint32_t size);
/* The oldest frame; NULL when there is none. */
struct rp_frame *rp_ring_head(const struct rp_ring *ring);
/* The one that came after this; not of the newest. */
struct rp_frame *rp_ring_after(const struct rp_ring *ring, const struct rp_frame *frame);
/* The oldest frame goes. */
void rp_ring_pop(struct rp_ring *ring);
/* The frames that are done go, from the oldest to the first that is not. */
void rp_ring_pop_done(struct rp_ring *ring);
void rp_ring_clear(struct rp_ring *ring);

#endif
