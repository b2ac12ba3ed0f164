#include "shift_entries.h"

#include <errno.h>
#include <stdlib.h>

int shift_entries_init(struct shift_entries *entries, uint32_t most, uint64_t seed)
{
    *entries = (struct shift_entries){.oldest = NO_ENTRY, .newest = NO_ENTRY};
    int code = key_table_init(&entries->keys, most, seed);
    if (code != 0)
        return code;
    entries->entry = malloc(most * sizeof(*entries->entry));
    if (entries->entry == NULL) {
        key_table_free(&entries->keys);
        return -ENOMEM;
    }
    return 0;
}

void shift_entries_free(struct shift_entries *entries)
{
    key_table_free(&entries->keys);
    free(entries->entry);
}

struct shift_entry *shift_entries_find(const struct shift_entries *entries, const uint8_t *key,
                                       uint32_t key_bytes)
{
    uint32_t at = key_table_find(&entries->keys, key, key_bytes);
    return at == NO_ENTRY ? NULL : &entries->entry[at];
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
    unlink_use(entries, entry);
    key_table_drop(&entries->keys, (uint32_t)(entry - entries->entry));
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
    uint32_t most = entries->keys.most < 8 ? 1 : entries->keys.most / 8;
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
    uint32_t at = key_table_add(&entries->keys, key, key_bytes);
    if (at == NO_ENTRY && make_room(entries))
        at = key_table_add(&entries->keys, key, key_bytes);
    if (at == NO_ENTRY)
        return NULL;
    entry = &entries->entry[at];
    *entry = (struct shift_entry){0};
    link_as_newest(entries, entry);
    return entry;
}
