#include "fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t fuzz_take(struct fuzz_input *input, unsigned int bytes)
{
    uint64_t value = 0;
    for (unsigned int at = 0; at < bytes && input->left > 0; at++) {
        value |= (uint64_t)*input->data++ << (8 * at);
        input->left--;
    }
    return value;
}

void *fuzz_room(size_t bytes, uint8_t filler)
{
    void *room = malloc(bytes);
    DEMAND(room != NULL || bytes == 0);
    if (bytes != 0)
        memset(room, filler, bytes);
    return room;
}

void *fuzz_copy(const void *from, size_t bytes)
{
    void *room = fuzz_room(bytes, 0);
    if (bytes != 0)
        memcpy(room, from, bytes);
    return room;
}

bool fuzz_is_filled(const void *room, size_t bytes, uint8_t filler)
{
    const uint8_t *at = room;
    for (size_t i = 0; i < bytes; i++)
        if (at[i] != filler)
            return false;
    return true;
}

void fuzz_fail(const char *what, const char *file, int line)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}
