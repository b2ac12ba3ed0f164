#include "encode.h"

#include "delta.h"
#include "encoded.h"
#include "lz4_page.h"
#include "simd_kernels.h"

#include <errno.h>
#include <string.h>

_Static_assert(sizeof(((struct rp_page_stats *)0)->pages) == RP_PAGE_METHODS * sizeof(uint64_t),
               "one number a method");

/* LZ4 must save an eighth of a page to be worth what unpacking takes. */
#define LZ4_BYTES_MAX (RP_PAGE_BYTES - RP_PAGE_BYTES / 8)
/* A delta up to this size is taken without a look at LZ4: of a redis guest's pages that costs 1.3 %
 * more bytes and saves an eighth of the time. */
#define GOOD_DELTA_BYTES 512

uint64_t rp_encode_bound(uint64_t count)
{
    return RP_COUNT_BYTES + count * (RP_ENTRY_BYTES + RP_PAGE_BYTES);
}

/* How a page was encoded. */
struct encoded {
    enum rp_page_method method;
    uint32_t bytes;
};

static struct encoded encode_raw(const uint8_t *page, uint8_t *out)
{
    memcpy(out, page, RP_PAGE_BYTES);
    return (struct encoded){RP_PAGE_RAW, RP_PAGE_BYTES};
}

/* `delta_bytes` of delta are in `out` already, or 0 when there is none. */
static struct encoded encode_lz4(const uint8_t *page, uint32_t delta_bytes, uint8_t *out)
{
    uint8_t block[LZ4_BYTES_MAX];
    uint32_t room = LZ4_BYTES_MAX;
    if (delta_bytes != 0 && delta_bytes <= room)
        room = delta_bytes - 1;
    uint32_t bytes = rp_lz4_pack(page, block, room);
    if (bytes != 0) {
        memcpy(out, block, bytes);
        return (struct encoded){RP_PAGE_LZ4, bytes};
    }
    return delta_bytes != 0 ? (struct encoded){RP_PAGE_DELTA, delta_bytes} : encode_raw(page, out);
}

/* There is room for a whole page. The cheap tests come first. */
static struct encoded encode_page(const uint8_t *page, const uint8_t *base, bool compress,
                                  uint8_t *out)
{
    if (rp_page_is_zero(page))
        return (struct encoded){RP_PAGE_ZERO, 0};
    uint32_t delta_bytes = 0;
    if (base != NULL) {
        uint64_t masks[RP_MASKS];
        if (!rp_page_diff(page, base, masks))
            return (struct encoded){RP_PAGE_SAME, 0};
        delta_bytes = rp_delta_encode(page, masks, out, RP_PAGE_BYTES - 1);
        if (delta_bytes != 0 && delta_bytes <= GOOD_DELTA_BYTES)
            return (struct encoded){RP_PAGE_DELTA, delta_bytes};
    }
    if (compress)
        return encode_lz4(page, delta_bytes, out);
    return delta_bytes != 0 ? (struct encoded){RP_PAGE_DELTA, delta_bytes} : encode_raw(page, out);
}

static void put_entry(uint8_t *at, struct encoded encoded)
{
    uint16_t entry = (uint16_t)(encoded.method << RP_METHOD_SHIFT | encoded.bytes);
    memcpy(at, &entry, sizeof(entry));
}

int rp_encode_pages(const uint64_t *pfns, uint64_t count, const uint8_t *body,
                    const struct rp_bases *bases, bool compress, uint8_t *out, uint64_t room,
                    uint64_t *size_ret, struct rp_page_stats *stats_ret)
{
    if (count > RP_PAGES_MAX)
        return -E2BIG;
    if (room < rp_encode_bound(count))
        return -ENOSPC;
    struct rp_page_stats stats = {0};
    uint8_t *entries = out + RP_COUNT_BYTES;
    uint8_t *data = entries + count * RP_ENTRY_BYTES;
    memcpy(out, &(uint32_t){(uint32_t)count}, RP_COUNT_BYTES);
    for (uint64_t i = 0; i < count; i++) {
        const uint8_t *base = bases != NULL ? rp_bases_find(bases, pfns[i]) : NULL;
        struct encoded encoded = encode_page(body + i * RP_PAGE_BYTES, base, compress, data);
        put_entry(entries + i * RP_ENTRY_BYTES, encoded);
        data += encoded.bytes;
        stats.pages[encoded.method]++;
        stats.bytes[encoded.method] += encoded.bytes;
    }
    *size_ret = (uint64_t)(data - out);
    *stats_ret = stats;
    return 0;
}
