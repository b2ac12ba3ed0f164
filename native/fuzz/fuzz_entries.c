/* Tables of page entries as the stream has them: what survey, mark, with_data, locate and find say
 * of them is what plain loops say.
 *
 * Input: u16 limit of the frames, u64 offset, u64 pfn to look for, u8 how, then u64 entries. */
#include "../entries.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LIMIT_MAX 4096
#define FRAME_BITS 52
#define FILLER 0xee
/* Bits of `how`. */
#define HOW_SHIFT 7
#define HOW_WIDE 8

struct table {
    /* As it lies in the stream, at no particular address, and as numbers. */
    uint8_t *room;
    uint8_t *bytes;
    uint64_t *entries;
    size_t count;
};

static uint64_t frame_of(uint64_t entry) { return entry % (UINT64_C(1) << FRAME_BITS); }
static unsigned int type_of(uint64_t entry) { return (unsigned int)(entry >> 60); }
static bool has_page(uint64_t entry) { return type_of(entry) < 13; }

static struct table read_table(struct fuzz_input *input, unsigned int how)
{
    struct table table = {.count = input->left / 8};
    size_t shift = how & HOW_SHIFT;
    table.entries = fuzz_room(table.count * 8, 0);
    table.room = fuzz_room(table.count * 8 + shift, 0);
    table.bytes = table.room + shift;
    for (size_t i = 0; i < table.count; i++) {
        uint64_t entry = fuzz_take(input, 8);
        /* Otherwise no frame would ever lie below the limit. */
        if (!(how & HOW_WIDE))
            entry &= UINT64_C(0xfff) << FRAME_BITS | (LIMIT_MAX - 1);
        table.entries[i] = entry;
        for (int byte = 0; byte < 8; byte++)
            table.bytes[8 * i + (size_t)byte] = (uint8_t)(entry >> (8 * byte));
    }
    return table;
}

static void check_survey(const struct table *table)
{
    struct rp_entry_survey survey;
    memset(&survey, FILLER, sizeof(survey));
    rp_entries_survey(table->bytes, table->count, &survey);
    uint64_t sum = 0, data = 0, highest = 0, reserved = 0, lowest_reserved_type = 0, ascends = 1;
    for (size_t i = 0; i < table->count; i++) {
        uint64_t entry = table->entries[i];
        unsigned int type = type_of(entry);
        data += has_page(entry);
        reserved |= (entry >> FRAME_BITS & 0xff) << FRAME_BITS;
        highest = frame_of(entry) > highest ? frame_of(entry) : highest;
        if (i > 0 && frame_of(entry) <= frame_of(table->entries[i - 1]))
            ascends = 0;
        if (type >= 5 && type <= 8 && (lowest_reserved_type == 0 || type < lowest_reserved_type))
            lowest_reserved_type = type;
    }
    for (unsigned int type = 0; type < 16; type++) {
        uint64_t count = 0;
        for (size_t i = 0; i < table->count; i++)
            count += type_of(table->entries[i]) == type;
        DEMAND(survey.counts[type] == count);
        sum += count;
    }
    DEMAND(sum == table->count);
    DEMAND(survey.data_pages == data);
    DEMAND(survey.pfn_max == highest);
    DEMAND(survey.reserved == reserved);
    DEMAND(survey.reserved_type == lowest_reserved_type);
    DEMAND(survey.ascends == ascends);
}

static bool all_below(const struct table *table, size_t limit)
{
    for (size_t i = 0; i < table->count; i++)
        if (frame_of(table->entries[i]) >= limit)
            return false;
    return true;
}

static void check_mark(const struct table *table, size_t limit)
{
    uint8_t *kinds = fuzz_room(limit, FILLER);
    uint8_t *wanted = fuzz_room(limit, FILLER);
    int code = rp_entries_mark(table->entries, table->count, kinds, limit);
    DEMAND(code == (all_below(table, limit) ? 0 : -ERANGE));
    for (size_t i = 0; i < table->count && code == 0; i++)
        wanted[frame_of(table->entries[i])] = (uint8_t)(type_of(table->entries[i]) + 1);
    DEMAND(limit == 0 || memcmp(kinds, wanted, limit) == 0);
    free(wanted);
    free(kinds);
}

static void check_locate(const struct table *table, size_t limit, uint64_t offset)
{
    uint64_t *offsets = fuzz_room(limit * 8, FILLER);
    uint64_t *wanted = fuzz_room(limit * 8, FILLER);
    int code = rp_entries_locate(table->entries, table->count, offset, offsets, limit);
    DEMAND(code == (all_below(table, limit) ? 0 : -ERANGE));
    uint64_t pages = 0;
    for (size_t i = 0; i < table->count && code == 0; i++)
        if (has_page(table->entries[i]))
            wanted[frame_of(table->entries[i])] = offset + 4096 * pages++;
    DEMAND(limit == 0 || memcmp(offsets, wanted, limit * 8) == 0);
    free(wanted);
    free(offsets);
}

static void check_with_data(const struct table *table)
{
    uint64_t *found = fuzz_room(table->count * 8, FILLER);
    size_t count = rp_entries_with_data(table->entries, table->count, found);
    size_t at = 0;
    DEMAND(count <= table->count);
    for (size_t i = 0; i < table->count; i++)
        if (has_page(table->entries[i]))
            DEMAND(at < count && found[at++] == table->entries[i]);
    DEMAND(at == count);
    DEMAND(fuzz_is_filled(found + count, (table->count - count) * 8, FILLER));
    free(found);
}

static void check_find(const struct table *table, uint64_t pfn)
{
    size_t found = rp_entries_find(table->entries, table->count, pfn);
    DEMAND(found <= table->count);
    for (size_t i = 0; i < found; i++)
        DEMAND(frame_of(table->entries[i]) != pfn);
    DEMAND(found == table->count || frame_of(table->entries[found]) == pfn);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    size_t limit = (size_t)fuzz_take(&input, 2) % (LIMIT_MAX + 1);
    uint64_t offset = fuzz_take(&input, 8);
    uint64_t pfn = fuzz_take(&input, 8);
    struct table table = read_table(&input, (unsigned int)fuzz_take(&input, 1));
    check_survey(&table);
    check_mark(&table, limit);
    check_locate(&table, limit, offset);
    check_with_data(&table);
    check_find(&table, pfn);
    if (table.count > 0)
        check_find(&table, frame_of(table.entries[pfn % table.count]));
    free(table.room);
    free(table.entries);
    return 0;
}
