#ifndef RP_ENTRIES_H
#define RP_ENTRIES_H

#include <stddef.h>
#include <stdint.h>

/* Entries of a PAGE_DATA record: u64s, bits 63-60 type, 59-52 reserved, 51-0 pfn. As bytes they lie
 * where the stream has them: little endian and not aligned. */

/* What a table of entries holds. */
struct rp_entry_survey {
    /* How many entries there are of each type. */
    uint64_t counts[16];
    /* How many entries come with a page. */
    uint64_t data_pages;
    /* The highest pfn; 0 of an empty table. */
    uint64_t pfn_max;
    /* All reserved bits that are set in some entry. */
    uint64_t reserved;
    /* The lowest reserved type (5 to 8) of an entry; 0 if none has one. */
    uint64_t reserved_type;
    /* 1 if each pfn is above the one before it, so that none comes twice; else 0. */
    uint64_t ascends;
};

void rp_entries_survey(const uint8_t *entries, size_t count, struct rp_entry_survey *survey_ret);

/* kinds[pfn] = type + 1 for each entry, in order. -ERANGE, and nothing is written, when a pfn is
 * not below kinds_count. */
int rp_entries_mark(const uint64_t *entries, size_t count, uint8_t *kinds, size_t kinds_count);

/* The entries whose type has a page in the record, in order; `data_ret` has room for all of them.
 * Returns how many there are. */
size_t rp_entries_with_data(const uint64_t *entries, size_t count, uint64_t *data_ret);

/* offsets[pfn] = where the page of each entry that has one lies, in order, when the first of them
 * lies at `offset` and the others behind it. -ERANGE, and nothing is written, when a pfn is not
 * below offsets_count. */
int rp_entries_locate(const uint64_t *entries, size_t count, uint64_t offset, uint64_t *offsets,
                      size_t offsets_count);

/* Index of the first entry with this pfn, whatever its type; `count` if there is none. */
size_t rp_entries_find(const uint64_t *entries, size_t count, uint64_t pfn);

/* Index of the first of `count` pages, from page `first` on, that starts with these bytes; `count`
 * if none does. */
size_t rp_pages_find(const uint8_t *pages, size_t count, size_t first, const uint8_t *start,
                     size_t start_bytes);

/* Entries of a legacy batch, u32 or u64 (`width` 4 or 8) with type in bits 31-28 and pfn in 27-0,
 * as PAGE_DATA entries. An unmapped slot (0xf0000000) is left out. Returns how many were written to
 * `entries_ret`, which has room for `count`; -EINVAL for another width; -ERANGE when a u64 has high
 * bits set. */
int64_t rp_entries_from_legacy(const uint8_t *legacy, size_t count, unsigned int width,
                               uint64_t *entries_ret);

#endif
