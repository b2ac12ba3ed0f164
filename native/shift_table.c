#include "shift_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "shift_entries.h"

/* See TS_LEAD_TICKS in shift_table.py. */
#define LEAD_TICKS 1000
#define CONNECTIONS_MAX (UINT32_C(1) << 20)

struct rp_shift_table {
    struct shift_entries entries;
    bool has_taken_over;
};

int rp_shift_table_create(uint32_t connections_max, uint64_t seed,
                          struct rp_shift_table **table_ret)
{
    if (connections_max == 0 || connections_max > CONNECTIONS_MAX)
        return -EINVAL;
    struct rp_shift_table *table = calloc(1, sizeof(*table));
    if (table == NULL)
        return -ENOMEM;
    int code = shift_entries_init(&table->entries, connections_max, seed);
    if (code != 0) {
        free(table);
        return code;
    }
    *table_ret = table;
    return 0;
}

void rp_shift_table_destroy(struct rp_shift_table *table)
{
    if (table == NULL)
        return;
    shift_entries_free(&table->entries);
    free(table);
}

uint32_t rp_shift_table_count(const struct rp_shift_table *table)
{
    return table->entries.keys.count;
}

/* The entry of a segment; a SYN with a number of its own opens another connection. NULL without
 * room. */
static struct shift_entry *hear(struct rp_shift_table *table, const struct rp_tcp_segment *segment)
{
    struct shift_entries *entries = &table->entries;
    bool opens = (segment->flags & (RP_TCP_SYN | RP_TCP_ACK)) == RP_TCP_SYN;
    if (opens) {
        struct shift_entry *former = shift_entries_find(entries, segment->key, segment->key_bytes);
        if (former != NULL && (!former->has_opened || former->opened_by != segment->seq))
            shift_entries_drop(entries, former);
    }
    struct shift_entry *entry = shift_entries_use(entries, segment->key, segment->key_bytes);
    if (entry != NULL && opens) {
        entry->has_opened = true;
        entry->opened_by = segment->seq;
    }
    return entry;
}

static void note_stamp(struct rp_stamp *newest, uint32_t value)
{
    if (!newest->is_known || (int32_t)(value - newest->value) > 0)
        *newest = (struct rp_stamp){true, value};
}

bool rp_shift_table_to_guest(struct rp_shift_table *table, const uint8_t *frame, uint32_t size,
                             uint32_t nic, uint8_t *out)
{
    struct rp_tcp_segment segment;
    struct rp_tcp_options options;
    if (!rp_tcp_read(frame, size, nic, false, &segment))
        return false;
    struct shift_entry *entry = hear(table, &segment);
    if (entry == NULL)
        return false;
    rp_tcp_read_options(frame, &segment, &options);
    if ((segment.flags & RP_TCP_ACK) != 0 && options.has_times && options.tsecr != 0)
        note_stamp(&entry->seen,
                   table->has_taken_over ? options.tsecr : options.tsecr - entry->lasting.ts);
    entry->peer_ended |= (segment.flags & (RP_TCP_FIN | RP_TCP_RST)) != 0;
    entry->guest_ended |= (segment.flags & RP_TCP_RST) != 0;
    /* Before a take-over, frames come in the numbers of the primary's guest. */
    struct rp_shift shift = table->has_taken_over ? entry->lasting : entry->recent;
    return rp_shift_input(frame, size, &segment, &options, shift, entry->said, out);
}

bool rp_shift_table_from_guest(struct rp_shift_table *table, const uint8_t *frame, uint32_t size,
                               uint32_t nic, uint8_t *out)
{
    struct rp_tcp_segment segment;
    struct rp_tcp_options options;
    if (!rp_tcp_read(frame, size, nic, true, &segment))
        return false;
    struct shift_entry *entry = hear(table, &segment);
    if (entry == NULL)
        return false;
    rp_tcp_read_options(frame, &segment, &options);
    if (options.has_times)
        note_stamp(&entry->said, options.tsval);
    entry->guest_ended |= (segment.flags & (RP_TCP_FIN | RP_TCP_RST)) != 0;
    entry->peer_ended |= (segment.flags & RP_TCP_RST) != 0;
    if (!table->has_taken_over)
        return false;
    bool has_changed =
        rp_shift_output(frame, size, &segment, &options, entry->lasting, entry->seen, out);
    if (options.has_times)
        note_stamp(&entry->seen, options.tsval - entry->lasting.ts);
    return has_changed;
}

bool rp_shift_table_learn(struct rp_shift_table *table, const uint8_t *key, uint32_t key_bytes,
                          uint32_t seq, uint32_t ts)
{
    struct shift_entry *entry = shift_entries_use(&table->entries, key, key_bytes);
    if (entry != NULL)
        entry->recent = (struct rp_shift){seq, ts};
    return entry != NULL;
}

bool rp_shift_table_adopt(struct rp_shift_table *table, const uint8_t *key, uint32_t key_bytes,
                          uint32_t seq, uint32_t ts)
{
    struct shift_entry *entry = shift_entries_use(&table->entries, key, key_bytes);
    if (entry != NULL)
        entry->lasting = (struct rp_shift){seq, ts};
    return entry != NULL;
}

struct rp_shift rp_shift_table_recent(const struct rp_shift_table *table, const uint8_t *key,
                                      uint32_t key_bytes)
{
    const struct shift_entry *entry = shift_entries_find(&table->entries, key, key_bytes);
    return entry == NULL ? (struct rp_shift){0, 0} : entry->recent;
}

bool rp_shift_table_next_lasting(const struct rp_shift_table *table, uint32_t *cursor,
                                 struct rp_lasting_shift *lasting_ret)
{
    const struct shift_entries *entries = &table->entries;
    /* One more than the place, so that 0 is before the first. */
    uint32_t at = *cursor == 0 ? entries->oldest : entries->entry[*cursor - 1].newer;
    for (; at != NO_ENTRY; at = entries->entry[at].newer) {
        const struct shift_entry *entry = &entries->entry[at];
        if (entry->lasting.seq == 0 && entry->lasting.ts == 0)
            continue;
        const struct key_slot *named = &entries->keys.slot[at];
        *lasting_ret =
            (struct rp_lasting_shift){.shift = entry->lasting, .key_bytes = named->key_bytes};
        memcpy(lasting_ret->key, named->key, named->key_bytes);
        *cursor = at + 1;
        return true;
    }
    return false;
}

void rp_shift_table_commit(struct rp_shift_table *table)
{
    struct shift_entries *entries = &table->entries;
    for (uint32_t at = entries->oldest; at != NO_ENTRY; at = entries->entry[at].newer) {
        entries->entry[at].recent = (struct rp_shift){0, 0};
        entries->entry[at].said = (struct rp_stamp){false, 0};
    }
}

void rp_shift_table_take_over(struct rp_shift_table *table)
{
    struct shift_entries *entries = &table->entries;
    for (uint32_t at = entries->oldest; at != NO_ENTRY; at = entries->entry[at].newer) {
        struct shift_entry *entry = &entries->entry[at];
        entry->lasting.seq += entry->recent.seq;
        entry->lasting.ts += entry->recent.ts - LEAD_TICKS;
        entry->recent = (struct rp_shift){0, 0};
    }
    table->has_taken_over = true;
}

void rp_shift_table_forget_lasting(struct rp_shift_table *table)
{
    struct shift_entries *entries = &table->entries;
    for (uint32_t at = entries->oldest; at != NO_ENTRY; at = entries->entry[at].newer)
        entries->entry[at].lasting = (struct rp_shift){0, 0};
}
