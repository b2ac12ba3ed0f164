#include "entries.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define PAGE_BYTES 4096
#define TYPE_SHIFT 60
#define PFN_MASK ((UINT64_C(1) << 52) - 1)
#define RESERVED_MASK (UINT64_C(0xff) << 52)
/* libxc stream specification, PAGE_DATA: types from here on come without a page. */
#define FIRST_TYPE_WITHOUT_DATA 0xd
#define FIRST_RESERVED_TYPE 0x5
#define LAST_RESERVED_TYPE 0x8
/* Legacy stream: type and pfn of a batch entry, and what stands for an unmapped slot. */
#define LEGACY_TYPE_SHIFT 28
#define LEGACY_PFN_MASK ((UINT32_C(1) << LEGACY_TYPE_SHIFT) - 1)
#define LEGACY_UNMAPPED UINT32_C(0xf0000000)

static uint64_t load_u64(const uint8_t *from)
{
    uint64_t value;
    memcpy(&value, from, sizeof(value));
    return le64toh(value);
}

static uint32_t load_u32(const uint8_t *from)
{
    uint32_t value;
    memcpy(&value, from, sizeof(value));
    return le32toh(value);
}

void rp_entries_survey(const uint8_t *entries, size_t count, struct rp_entry_survey *survey_ret)
{
    struct rp_entry_survey survey = {.ascends = 1};
    uint64_t next = 0;
    for (size_t index = 0; index < count; index++) {
        uint64_t entry = load_u64(entries + 8 * index);
        uint64_t pfn = entry & PFN_MASK;
        survey.counts[entry >> TYPE_SHIFT]++;
        survey.reserved |= entry & RESERVED_MASK;
        survey.ascends &= pfn >= next;
        next = pfn + 1;
        if (pfn > survey.pfn_max)
            survey.pfn_max = pfn;
    }
    for (unsigned int type = 0; type < FIRST_TYPE_WITHOUT_DATA; type++)
        survey.data_pages += survey.counts[type];
    for (unsigned int type = LAST_RESERVED_TYPE; type >= FIRST_RESERVED_TYPE; type--) {
        if (survey.counts[type] != 0)
            survey.reserved_type = type;
    }
    *survey_ret = survey;
}

static bool are_below(const uint64_t *entries, size_t count, uint64_t limit)
{
    for (size_t index = 0; index < count; index++) {
        if ((entries[index] & PFN_MASK) >= limit)
            return false;
    }
    return true;
}

int rp_entries_mark(const uint64_t *entries, size_t count, uint8_t *kinds, size_t kinds_count)
{
    if (!are_below(entries, count, kinds_count))
        return -ERANGE;
    for (size_t index = 0; index < count; index++) {
        kinds[entries[index] & PFN_MASK] = (uint8_t)((entries[index] >> TYPE_SHIFT) + 1);
    }
    return 0;
}

size_t rp_entries_with_data(const uint64_t *entries, size_t count, uint64_t *data_ret)
{
    size_t found = 0;
    for (size_t index = 0; index < count; index++) {
        if (entries[index] >> TYPE_SHIFT < FIRST_TYPE_WITHOUT_DATA)
            data_ret[found++] = entries[index];
    }
    return found;
}

int rp_entries_locate(const uint64_t *entries, size_t count, uint64_t offset, uint64_t *offsets,
                      size_t offsets_count)
{
    if (!are_below(entries, count, offsets_count))
        return -ERANGE;
    for (size_t index = 0; index < count; index++) {
        if (entries[index] >> TYPE_SHIFT >= FIRST_TYPE_WITHOUT_DATA)
            continue;
        offsets[entries[index] & PFN_MASK] = offset;
        offset += PAGE_BYTES;
    }
    return 0;
}

size_t rp_entries_find(const uint64_t *entries, size_t count, uint64_t pfn)
{
    size_t index = 0;
    while (index < count && (entries[index] & PFN_MASK) != pfn)
        index++;
    return index;
}

size_t rp_pages_find(const uint8_t *pages, size_t count, size_t first, const uint8_t *start,
                     size_t start_bytes)
{
    size_t index = first;
    while (index < count && memcmp(pages + index * PAGE_BYTES, start, start_bytes) != 0)
        index++;
    return index < count ? index : count;
}

int64_t rp_entries_from_legacy(const uint8_t *legacy, size_t count, unsigned int width,
                               uint64_t *entries_ret)
{
    if (width != sizeof(uint32_t) && width != sizeof(uint64_t))
        return -EINVAL;
    bool is_wide = width == sizeof(uint64_t);
    int64_t written = 0;
    for (size_t index = 0; index < count; index++) {
        uint64_t wide = is_wide ? load_u64(legacy + 8 * index) : load_u32(legacy + 4 * index);
        if (wide > UINT32_MAX)
            return -ERANGE;
        uint32_t entry = (uint32_t)wide;
        if (entry == LEGACY_UNMAPPED)
            continue;
        entries_ret[written++] =
            (uint64_t)(entry >> LEGACY_TYPE_SHIFT) << TYPE_SHIFT | (entry & LEGACY_PFN_MASK);
    }
    return written;
}
