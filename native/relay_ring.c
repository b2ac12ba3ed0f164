#include "relay_ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#define ALIGNMENT sizeof(uint64_t)

static size_t footprint(uint32_t size)
{
    return (offsetof(struct rp_frame, data) + size + ALIGNMENT - 1) & ~(ALIGNMENT - 1);
}

static struct rp_frame *frame_at(const struct rp_ring *ring, size_t place)
{
    return (struct rp_frame *)(void *)(ring->base + place);
}

int rp_ring_init(struct rp_ring *ring, size_t capacity)
{
    void *base = mmap(NULL, capacity, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return -errno;
    *ring = (struct rp_ring){.base = base, .capacity = capacity};
    return 0;
}

void rp_ring_deinit(struct rp_ring *ring)
{
    if (ring->base != NULL)
        munmap(ring->base, ring->capacity);
    ring->base = NULL;
}

/* Where a frame of this footprint finds room; false when nowhere. */
static bool find_room(struct rp_ring *ring, size_t bytes)
{
    if (ring->wrap_at != 0)
        return ring->head - ring->tail >= bytes;
    if (ring->capacity - ring->tail >= bytes)
        return true;
    if (ring->head < bytes)
        return false;
    ring->wrap_at = ring->tail;
    ring->tail = 0;
    return true;
}

struct rp_frame *rp_ring_push(struct rp_ring *ring, uint32_t size)
{
    /* A ring that was empty begins anew, so that little traffic uses little memory. */
    if (ring->count == 0)
        rp_ring_clear(ring);
    if (!find_room(ring, footprint(size)))
        return NULL;
    struct rp_frame *frame = frame_at(ring, ring->tail);
    *frame = (struct rp_frame){.size = size};
    ring->tail += footprint(size);
    ring->count++;
    return frame;
}

struct rp_frame *rp_ring_push_copy(struct rp_ring *ring, const void *data, uint32_t size)
{
    struct rp_frame *frame = rp_ring_push(ring, size);
    if (frame != NULL && size > 0)
        memcpy(frame->data, data, size);
    return frame;
}

struct rp_frame *rp_ring_head(const struct rp_ring *ring)
{
    return ring->count == 0 ? NULL : frame_at(ring, ring->head);
}

struct rp_frame *rp_ring_after(const struct rp_ring *ring, const struct rp_frame *frame)
{
    size_t place = (size_t)((const uint8_t *)frame - ring->base) + footprint(frame->size);
    return frame_at(ring, place == ring->wrap_at ? 0 : place);
}

void rp_ring_pop(struct rp_ring *ring)
{
    ring->head += footprint(frame_at(ring, ring->head)->size);
    ring->count--;
    if (ring->head == ring->wrap_at) {
        ring->head = 0;
        ring->wrap_at = 0;
    }
}

void rp_ring_pop_done(struct rp_ring *ring)
{
    while (ring->count > 0 && frame_at(ring, ring->head)->is_done)
        rp_ring_pop(ring);
}

void rp_ring_clear(struct rp_ring *ring)
{
    ring->head = 0;
    ring->tail = 0;
    ring->wrap_at = 0;
    ring->count = 0;
}
