#ifndef RP_KEY_TABLE_H
#define RP_KEY_TABLE_H
#include <stdint.h>

/* Connections by key: each known key has a slot, a number below `most`, for as long as it is known.
 * What is kept of a connection lies in arrays of whoever owns the table, at that number. */

#define NO_SLOT UINT32_MAX
#define KEY_BYTES_MAX 64

struct key_slot {
    /* The next in its bucket, or of those that are free. */
    uint32_t next;
    uint32_t key_bytes;
    uint8_t key[KEY_BYTES_MAX];
};

struct key_table {
    uint32_t most;
    uint32_t count;
    /* Slots from here on have never been used. */
    uint32_t fresh;
    uint32_t first_free;
    uint64_t seed;
    /* A power of two of them, each its first slot. */
    uint32_t buckets;
    uint32_t *bucket;
    struct key_slot *slot;
};

/* `seed` is drawn, so that nobody knows which keys meet in one bucket. -ENOMEM. */
int key_table_init(struct key_table *table, uint32_t most, uint64_t seed);
void key_table_free(struct key_table *table);
/* NO_SLOT when the key is not known. A key has KEY_BYTES_MAX bytes at most. */
uint32_t key_table_find(const struct key_table *table, const uint8_t *key, uint32_t key_bytes);
/* A slot for a key that is not known yet. NO_SLOT without room. */
uint32_t key_table_add(struct key_table *table, const uint8_t *key, uint32_t key_bytes);
void key_table_drop(struct key_table *table, uint32_t slot);

#endif
