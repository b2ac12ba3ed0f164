#ifndef RP_BASES_H
#define RP_BASES_H
#include <stdint.h>

/* The versions of pages that were sent last, up to a number of them: what deltas are made against.
 * All memory is taken at the start. Any number of threads may look pages up at the same time, as
 * long as nobody changes the cache meanwhile. */
struct rp_bases;

struct rp_bases_counts {
    uint64_t capacity;
    uint64_t held;
    /* Pages given to `update` of which an older version was held, and of which none was. */
    uint64_t hits;
    uint64_t misses;
    /* Versions that gave way to one of another frame. */
    uint64_t evictions;
};

/* For frames below pfn_limit. -EINVAL when a number is 0 or beyond any guest; more pages than
 * frames are not held. */
int rp_bases_create(uint64_t capacity, uint64_t pfn_limit, struct rp_bases **bases_ret);
void rp_bases_destroy(struct rp_bases *bases);

/* The page, until the cache is changed; NULL when no version of the frame is held. */
const uint8_t *rp_bases_find(const struct rp_bases *bases, uint64_t pfn);

/* Hold these versions from now on. When the cache is full a version gives way that was not updated
 * since the clock's hand passed it last. -ERANGE and nothing is held when a frame is beyond the
 * limit. */
int rp_bases_update(struct rp_bases *bases, const uint64_t *pfns, uint64_t count,
                    const uint8_t *body);

/* Forget the versions of these frames, or all: the latter takes no longer for a large cache. */
void rp_bases_drop(struct rp_bases *bases, const uint64_t *pfns, uint64_t count);
void rp_bases_drop_all(struct rp_bases *bases);

void rp_bases_count(const struct rp_bases *bases, struct rp_bases_counts *counts_ret);

#endif
