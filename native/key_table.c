#include "key_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t bucket_of(const struct key_table *table, const uint8_t *key, uint32_t key_bytes)
{
    uint64_t hash = table->seed ^ key_bytes;
    for (uint32_t at = 0; at < key_bytes; at += 8) {
        uint64_t word = 0;
        memcpy(&word, key + at, key_bytes - at < 8 ? key_bytes - at : 8);
        hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    return (uint32_t)hash & (table->buckets - 1);
}

int key_table_init(struct key_table *table, uint32_t most, uint64_t seed)
{
    *table = (struct key_table){.most = most, .first_free = NO_SLOT, .seed = seed, .buckets = 1};
    while (table->buckets < most)
        table->buckets *= 2;
    table->bucket = malloc(table->buckets * sizeof(*table->bucket));
    table->slot = malloc(most * sizeof(*table->slot));
    if (table->bucket == NULL || table->slot == NULL) {
        key_table_free(table);
        return -ENOMEM;
    }
    memset(table->bucket, 0xff, table->buckets * sizeof(*table->bucket));
    return 0;
}

void key_table_free(struct key_table *table)
{
    free(table->bucket);
    free(table->slot);
    table->bucket = NULL;
    table->slot = NULL;
}

uint32_t key_table_find(const struct key_table *table, const uint8_t *key, uint32_t key_bytes)
{
    uint32_t at = table->bucket[bucket_of(table, key, key_bytes)];
    while (at != NO_SLOT) {
        const struct key_slot *slot = &table->slot[at];
        if (slot->key_bytes == key_bytes && memcmp(slot->key, key, key_bytes) == 0)
            break;
        at = slot->next;
    }
    return at;
}

static uint32_t take_slot(struct key_table *table)
{
    uint32_t at = table->first_free;
    if (at != NO_SLOT)
        table->first_free = table->slot[at].next;
    else if (table->fresh < table->most)
        at = table->fresh++;
    return at;
}

uint32_t key_table_add(struct key_table *table, const uint8_t *key, uint32_t key_bytes)
{
    uint32_t at = take_slot(table);
    if (at == NO_SLOT)
        return NO_SLOT;
    uint32_t *first = &table->bucket[bucket_of(table, key, key_bytes)];
    struct key_slot *slot = &table->slot[at];
    *slot = (struct key_slot){.next = *first, .key_bytes = key_bytes};
    memcpy(slot->key, key, key_bytes);
    *first = at;
    table->count++;
    return at;
}

void key_table_drop(struct key_table *table, uint32_t slot)
{
    struct key_slot *gone = &table->slot[slot];
    uint32_t *link = &table->bucket[bucket_of(table, gone->key, gone->key_bytes)];
    while (*link != slot)
        link = &table->slot[*link].next;
    *link = gone->next;
    gone->next = table->first_free;
    table->first_free = slot;
    table->count--;
}
