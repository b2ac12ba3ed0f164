#ifndef RP_ENCODE_H
#define RP_ENCODE_H
#include "bases.h"

#include <stdbool.h>
#include <stdint.h>

/* Pages as they travel between the daemons. An encoded body of n pages is
 *
 *     u32          n
 *     n x u16      of each page: method << 13 | bytes of its data
 *     data         of each page, one behind the other
 *
 * little endian, without padding. It does not name the frames: the far end has their list.
 * `SAME` and `DELTA` need the version of the page that was sent last, which the far end has in its
 * RAM. */
enum rp_page_method {
    RP_PAGE_ZERO,  /* no data */
    RP_PAGE_SAME,  /* no data */
    RP_PAGE_DELTA, /* 1 to 4,095 bytes, delta.h */
    RP_PAGE_LZ4,   /* 1 to 4,095 bytes, an LZ4 block */
    RP_PAGE_RAW,   /* 4,096 bytes */
    RP_PAGE_METHODS
};

/* Of each method: pages, and bytes of their data. */
struct rp_page_stats {
    uint64_t pages[5];
    uint64_t bytes[5];
};

/* Most bytes that an encoded body of so many pages has; count is below 1 << 28. */
uint64_t rp_encode_bound(uint64_t count);

/* Encodes a body of count pages, each by the method that makes it small; without `compress` none by
 * LZ4, which takes most of the time. Only reads the bases, of which there may be none (NULL).
 * -ENOSPC when room is below the bound, -E2BIG for too many pages.
 */
int rp_encode_pages(const uint64_t *pfns, uint64_t count, const uint8_t *body,
                    const struct rp_bases *bases, bool compress, uint8_t *out, uint64_t room,
                    uint64_t *size_ret, struct rp_page_stats *stats_ret);

#endif
