#include "turn_queue.h"

#include <errno.h>
#include <stdlib.h>

int turn_queue_init(struct turn_queue *queue, uint32_t slots)
{
    *queue = (struct turn_queue){.oldest = QUEUE_END, .newest = QUEUE_END};
    queue->link = calloc(slots, sizeof(*queue->link));
    return queue->link == NULL ? -ENOMEM : 0;
}

void turn_queue_free(struct turn_queue *queue) { free(queue->link); }

/* What names the slot behind `slot`, and the one before it. */
static uint32_t *name_behind(struct turn_queue *queue, uint32_t slot)
{
    return slot == QUEUE_END ? &queue->oldest : &queue->link[slot].newer;
}

static uint32_t *name_before(struct turn_queue *queue, uint32_t slot)
{
    return slot == QUEUE_END ? &queue->newest : &queue->link[slot].older;
}

void turn_queue_join(struct turn_queue *queue, uint32_t slot, uint64_t turn)
{
    struct turn_link *link = &queue->link[slot];
    if (link->turn != 0)
        return;
    /* Nearly always the newest: an older one was elsewhere meanwhile. */
    uint32_t older = queue->newest;
    while (older != QUEUE_END && queue->link[older].turn > turn)
        older = queue->link[older].older;
    *link = (struct turn_link){turn, older, *name_behind(queue, older)};
    *name_before(queue, link->newer) = slot;
    *name_behind(queue, older) = slot;
    queue->count++;
}

void turn_queue_leave(struct turn_queue *queue, uint32_t slot)
{
    struct turn_link *link = &queue->link[slot];
    if (link->turn == 0)
        return;
    *name_behind(queue, link->older) = link->newer;
    *name_before(queue, link->newer) = link->older;
    *link = (struct turn_link){0};
    queue->count--;
}
