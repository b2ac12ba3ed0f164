#ifndef RP_SHIFT_ENTRIES_H
#define RP_SHIFT_ENTRIES_H
#include "key_table.h"
#include "shift_table.h"

/* The connections of a shift table, in the order of their last use. */

#define NO_ENTRY NO_SLOT

struct shift_entry {
    /* From the numbers the world knows to those of the primary's guest, since a take-over before.
     */
    struct rp_shift lasting;
    /* From the primary's guest to this one, since the last checkpoint. */
    struct rp_shift recent;
    /* Newest timestamp that the world has seen, in its numbers, and that this guest has said, in
     * its own. */
    struct rp_stamp seen;
    struct rp_stamp said;
    /* Number of the SYN that opened it, if that was seen here. */
    bool has_opened;
    uint32_t opened_by;
    bool guest_ended;
    bool peer_ended;
    uint32_t older;
    uint32_t newer;
};

struct shift_entries {
    struct key_table keys;
    uint32_t oldest;
    uint32_t newest;
    /* At the slots of their keys. */
    struct shift_entry *entry;
};

/* -ENOMEM. */
int shift_entries_init(struct shift_entries *entries, uint32_t most, uint64_t seed);
void shift_entries_free(struct shift_entries *entries);
/* NULL when it is not known. */
struct shift_entry *shift_entries_find(const struct shift_entries *entries, const uint8_t *key,
                                       uint32_t key_bytes);
/* The entry of this connection, made if need be, as the one used last. NULL when nobody gives way
 * to it. */
struct shift_entry *shift_entries_use(struct shift_entries *entries, const uint8_t *key,
                                      uint32_t key_bytes);
void shift_entries_drop(struct shift_entries *entries, struct shift_entry *entry);

#endif
