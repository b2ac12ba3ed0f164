#include "fifo.h"

#include <stdlib.h>
#include <string.h>

#define ROOM_MIN_BYTES 256
/* What an empty one may keep. */
#define KEEP_BYTES 4096

void fifo_free(struct fifo *fifo)
{
    free(fifo->bytes);
    fifo->bytes = NULL;
    fifo->start = fifo->count = fifo->room = 0;
}

static uint8_t *item_at(const struct fifo *fifo, uint32_t index)
{
    return fifo->bytes == NULL ? NULL : fifo->bytes + (size_t)index * fifo->item_bytes;
}

void *fifo_front(const struct fifo *fifo) { return item_at(fifo, fifo->start); }

/* What is in it moves to the front of the memory. */
static void close_up(struct fifo *fifo)
{
    if (fifo->start != 0)
        memmove(fifo->bytes, fifo_front(fifo), (size_t)fifo->count * fifo->item_bytes);
    fifo->start = 0;
}

bool fifo_reserve(struct fifo *fifo, uint32_t items)
{
    if (items <= fifo->room - fifo->start - fifo->count)
        return true;
    if (items > UINT32_MAX / 4 - fifo->count)
        return false;
    uint32_t needed = fifo->count + items;
    if (needed > fifo->room) {
        uint32_t room = ROOM_MIN_BYTES / fifo->item_bytes;
        while (room < needed)
            room *= 2;
        uint8_t *bytes = realloc(fifo->bytes, (size_t)room * fifo->item_bytes);
        if (bytes == NULL)
            return false;
        fifo->bytes = bytes;
        fifo->room = room;
    }
    close_up(fifo);
    return true;
}

void fifo_push(struct fifo *fifo, const void *items, uint32_t count)
{
    if (count == 0)
        return;
    memcpy(item_at(fifo, fifo->start + fifo->count), items, (size_t)count * fifo->item_bytes);
    fifo->count += count;
}

void fifo_pop(struct fifo *fifo, uint32_t count)
{
    fifo->start += count;
    fifo->count -= count;
    if (fifo->count == 0)
        fifo->start = 0;
}

void fifo_trim(struct fifo *fifo)
{
    if (fifo->count == 0 && (size_t)fifo->room * fifo->item_bytes > KEEP_BYTES)
        fifo_free(fifo);
}
