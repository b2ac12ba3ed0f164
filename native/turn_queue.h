#ifndef RP_TURN_QUEUE_H
#define RP_TURN_QUEUE_H
#include <stdbool.h>
#include <stdint.h>

/* Slots of a table in the order of the turn since which they are queued. */

#define QUEUE_END UINT32_MAX

struct turn_link {
    /* 0 of one that is not queued. */
    uint64_t turn;
    uint32_t older;
    uint32_t newer;
};

struct turn_queue {
    uint32_t oldest;
    uint32_t newest;
    uint32_t count;
    /* At the slots. */
    struct turn_link *link;
};

/* -ENOMEM. */
int turn_queue_init(struct turn_queue *queue, uint32_t slots);
void turn_queue_free(struct turn_queue *queue);
/* Since this turn, unless it is queued already. */
void turn_queue_join(struct turn_queue *queue, uint32_t slot, uint64_t turn);
void turn_queue_leave(struct turn_queue *queue, uint32_t slot);

#endif
