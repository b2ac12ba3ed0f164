#include "shift_entries.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static uint32_t bucket_of(const struct shift_entries *entries, const uint8_t *key,
                          uint32_t key_bytes)
{
    uint64_t hash = entries->seed ^ key_bytes;
    for (uint32_t at = 0; at < key_bytes; at += 8) {
        uint64_t word = 0;
        memcpy(&word, key + at, key_bytes - at < 8 ? key_bytes - at : 8);
        hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    return (uint32_t)hash & (entries->buckets - 1);
}

int shift_entries_init(struct shift_entries *entries, uint32_t most, uint64_t seed)
{
    *entries = (struct shift_entries){.most = most,
                                      .oldest = NO_ENTRY,
                                      .newest = NO_ENTRY,
                                      .first_free = NO_ENTRY,
                                      .seed = seed,
                                      .buckets = 1};
    while (entries->buckets < most)
        entries->buckets *= 2;
    entries->bucket = malloc(entries->buckets * sizeof(*entries->bucket));
    entries->entry = malloc(most * sizeof(*entries->entry));
    if (entries->bucket == NULL || entries->entry == NULL) {
        shift_entries_free(entries);
        return -ENOMEM;
    }
    memset(entries->bucket, 0xff, entries->buckets * sizeof(*entries->bucket));
    for (uint32_t at = most; at-- > 0;) {
        entries->entry[at].next = entries->first_free;
        entries->first_free = at;
    }
    return 0;
}

void shift_entries_free(struct shift_entries *entries)
{
    free(entries->bucket);
    free(entries->entry);
}

struct shift_entry *shift_entries_find(const struct shift_entries *entries, const uint8_t *key,
                                       uint32_t key_bytes)
{
    uint32_t at = entries->bucket[bucket_of(entries, key, key_bytes)];
    for (; at != NO_ENTRY; at = entries->entry[at].next) {
        struct shift_entry *entry = &entries->entry[at];
        if (entry->key_bytes == key_bytes && memcmp(entry->key, key, key_bytes) == 0)
            return entry;
    }
    return NULL;
}

static void unlink_use(struct shift_entries *entries, const struct shift_entry *entry)
{
    uint32_t *before =
        entry->older == NO_ENTRY ? &entries->oldest : &entries->entry[entry->older].newer;
    uint32_t *behind =
        entry->newer == NO_ENTRY ? &entries->newest : &entries->entry[entry->newer].older;
    *before = entry->newer;
    *behind = entry->older;
}

static void link_as_newest(struct shift_entries *entries, struct shift_entry *entry)
{
    uint32_t at = (uint32_t)(entry - entries->entry);
    entry->older = entries->newest;
    entry->newer = NO_ENTRY;
    if (entries->newest == NO_ENTRY)
        entries->oldest = at;
    else
        entries->entry[entries->newest].newer = at;
    entries->newest = at;
}

void shift_entries_drop(struct shift_entries *entries, struct shift_entry *entry)
{
    uint32_t at = (uint32_t)(entry - entries->entry);
    uint32_t *link = &entries->bucket[bucket_of(entries, entry->key, entry->key_bytes)];
    while (*link != at)
        link = &entries->entry[*link].next;
    *link = entry->next;
    unlink_use(entries, entry);
    entry->next = entries->first_free;
    entries->first_free = at;
    entries->count--;
}

static bool is_closed(const struct shift_entry *entry)
{
    return entry->guest_ended && entry->peer_ended;
}

static bool is_shifted(const struct shift_entry *entry)
{
    return entry->lasting.seq != 0 || entry->lasting.ts != 0 || entry->recent.seq != 0 ||
           entry->recent.ts != 0;
}

/* Closed ones, or those that are neither closed nor shifted; `most` of them, those used longest ago
 * first. How many. */
static uint32_t drop_some(struct shift_entries *entries, bool closed, uint32_t most)
{
    uint32_t dropped = 0, at = entries->oldest;
    while (at != NO_ENTRY && dropped < most) {
        struct shift_entry *entry = &entries->entry[at];
        at = entry->newer;
        if (closed ? is_closed(entry) : !is_closed(entry) && !is_shifted(entry)) {
            shift_entries_drop(entries, entry);
            dropped++;
        }
    }
    return dropped;
}

static bool make_room(struct shift_entries *entries)
{
    uint32_t most = entries->most < 8 ? 1 : entries->most / 8;
    uint32_t dropped = drop_some(entries, true, most);
    return dropped + drop_some(entries, false, most - dropped) > 0;
}

struct shift_entry *shift_entries_use(struct shift_entries *entries, const uint8_t *key,
                                      uint32_t key_bytes)
{
    struct shift_entry *entry = shift_entries_find(entries, key, key_bytes);
    if (entry != NULL) {
        unlink_use(entries, entry);
        link_as_newest(entries, entry);
        return entry;
    }
    if (entries->first_free == NO_ENTRY && !make_room(entries))
        return NULL;
    uint32_t at = entries->first_free;
    uint32_t *first = &entries->bucket[bucket_of(entries, key, key_bytes)];
    entry = &entries->entry[at];
    entries->first_free = entry->next;
    *entry = (struct shift_entry){.next = *first, .key_bytes = key_bytes};
    memcpy(entry->key, key, key_bytes);
    *first = at;
    link_as_newest(entries, entry);
    entries->count++;
    return entry;
}
