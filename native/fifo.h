#ifndef RP_FIFO_H
#define RP_FIFO_H
#include <stdbool.h>
#include <stdint.h>

/* Items of one size, first in, first out, in one piece of memory: at most twice what the most items
 * took that were in it together. */
struct fifo {
    uint8_t *bytes;
    uint32_t item_bytes;
    uint32_t start;
    uint32_t count;
    uint32_t room;
};

void fifo_free(struct fifo *fifo);
/* The first item; the others follow it. */
void *fifo_front(const struct fifo *fifo);
/* Room for so many more. False without memory; then nothing has changed. */
bool fifo_reserve(struct fifo *fifo, uint32_t items);
/* Into room that was reserved. */
void fifo_push(struct fifo *fifo, const void *items, uint32_t count);
void fifo_pop(struct fifo *fifo, uint32_t count);
/* Give memory back, but for a little, if nothing is in it. */
void fifo_trim(struct fifo *fifo);

#endif
