#include "decode.h"

#include "delta.h"
#include "encoded.h"
#include "lz4_page.h"
#include "simd_kernels.h"

#include <errno.h>
#include <string.h>

/* A page of an encoded body. */
struct entry {
    unsigned int method;
    uint32_t bytes;
};

static struct entry read_entry(const uint8_t *entries, uint64_t index)
{
    uint16_t entry;
    memcpy(&entry, entries + index * RP_ENTRY_BYTES, sizeof(entry));
    return (struct entry){entry >> RP_METHOD_SHIFT, entry & RP_DATA_BYTES_MASK};
}

static bool is_possible(struct entry entry)
{
    switch (entry.method) {
    case RP_PAGE_ZERO:
    case RP_PAGE_SAME:
        return entry.bytes == 0;
    case RP_PAGE_DELTA:
    case RP_PAGE_LZ4:
        return entry.bytes > 0 && entry.bytes < RP_PAGE_BYTES;
    case RP_PAGE_RAW:
        return entry.bytes == RP_PAGE_BYTES;
    default:
        return false;
    }
}

static int check_entry(struct entry entry, uint64_t pfn, const struct rp_ram *ram)
{
    if (!is_possible(entry))
        return -EINVAL;
    if (entry.method != RP_PAGE_SAME && entry.method != RP_PAGE_DELTA)
        return 0;
    if (ram == NULL)
        return -EPERM;
    return rp_ram_page(ram, pfn) == NULL ? -ERANGE : 0;
}

/* *index_ret is the page that is wrong. */
static int check_table(const uint64_t *pfns, uint64_t count, const uint8_t *entries,
                       uint64_t data_bytes, const struct rp_ram *ram, uint64_t *index_ret)
{
    for (*index_ret = 0; *index_ret < count; ++*index_ret) {
        struct entry entry = read_entry(entries, *index_ret);
        int code = check_entry(entry, pfns[*index_ret], ram);
        if (code != 0)
            return code;
        if (entry.bytes > data_bytes)
            return -EMSGSIZE;
        data_bytes -= entry.bytes;
    }
    return data_bytes == 0 ? 0 : -EMSGSIZE;
}

static bool holds_table(uint64_t count, const uint8_t *data, uint64_t bytes)
{
    uint32_t told;
    if (count > RP_PAGES_MAX || bytes < RP_COUNT_BYTES + count * RP_ENTRY_BYTES)
        return false;
    memcpy(&told, data, sizeof(told));
    return told == count;
}

static int decode_page(struct entry entry, const uint8_t *data, const uint8_t *base, uint8_t *page)
{
    switch (entry.method) {
    case RP_PAGE_ZERO:
        memset(page, 0, RP_PAGE_BYTES);
        return 0;
    case RP_PAGE_SAME:
        memcpy(page, base, RP_PAGE_BYTES);
        return 0;
    case RP_PAGE_DELTA:
        memcpy(page, base, RP_PAGE_BYTES);
        return rp_delta_apply(data, entry.bytes, page);
    case RP_PAGE_LZ4:
        return rp_lz4_unpack(data, entry.bytes, page);
    default:
        memcpy(page, data, RP_PAGE_BYTES);
        return 0;
    }
}

int rp_decode_pages(const uint64_t *pfns, uint64_t count, const uint8_t *data, uint64_t bytes,
                    const struct rp_ram *ram, uint8_t *body, uint64_t *bad_index_ret)
{
    *bad_index_ret = count;
    if (!holds_table(count, data, bytes))
        return -EMSGSIZE;
    const uint8_t *entries = data + RP_COUNT_BYTES;
    const uint8_t *at = entries + count * RP_ENTRY_BYTES;
    int code = check_table(pfns, count, entries, (uint64_t)(data + bytes - at), ram, bad_index_ret);
    for (uint64_t i = 0; i < count && code == 0; i++) {
        struct entry entry = read_entry(entries, i);
        const uint8_t *base = ram != NULL ? rp_ram_page(ram, pfns[i]) : NULL;
        code = decode_page(entry, at, base, body + i * RP_PAGE_BYTES);
        *bad_index_ret = i;
        at += entry.bytes;
    }
    return code;
}
