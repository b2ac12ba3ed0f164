#ifndef RP_BITMAP_H
#define RP_BITMAP_H
#include <stdbool.h>
#include <stdint.h>

/* One bit a guest frame. Bits beyond the last are always 0. Not locked: one thread at a time. */
struct rp_bitmap;

/* -E2BIG beyond the largest guest, -ENOMEM. All bits are clear. */
int rp_bitmap_create(uint64_t bits, struct rp_bitmap **bitmap_ret);
void rp_bitmap_destroy(struct rp_bitmap *bitmap);

uint64_t *rp_bitmap_words(struct rp_bitmap *bitmap);
uint64_t rp_bitmap_count(const struct rp_bitmap *bitmap);

/* A range outside the bitmap is refused whole with -ERANGE. */
int rp_bitmap_set_range(struct rp_bitmap *bitmap, uint64_t first, uint64_t count);
int rp_bitmap_clear_range(struct rp_bitmap *bitmap, uint64_t first, uint64_t count);
int rp_bitmap_set_list(struct rp_bitmap *bitmap, const uint64_t *pfns, uint64_t count);
int rp_bitmap_test(const struct rp_bitmap *bitmap, uint64_t pfn, bool *set_ret);

/* Both need equal sizes, else -EINVAL. */
int rp_bitmap_merge(struct rp_bitmap *bitmap, const struct rp_bitmap *other);
int rp_bitmap_subtract(struct rp_bitmap *bitmap, const struct rp_bitmap *other);

/* The first run of set bits at or after start; length 0 when there is none. */
void rp_bitmap_next_run(const struct rp_bitmap *bitmap, uint64_t start, uint64_t *first_ret,
                        uint64_t *length_ret);

/* The set bits in ascending order; -ENOSPC (and nothing written) when there are more than capacity.
 */
int rp_bitmap_list(const struct rp_bitmap *bitmap, uint64_t *pfns, uint64_t capacity,
                   uint64_t *count_ret);
/* The same, then all bits are clear. */
int rp_bitmap_read_and_clear(struct rp_bitmap *bitmap, uint64_t *pfns, uint64_t capacity,
                             uint64_t *count_ret);
/* The first `capacity` set bits at or after start, in ascending order; these are clear then. */
void rp_bitmap_take(struct rp_bitmap *bitmap, uint64_t start, uint64_t *pfns, uint64_t capacity,
                    uint64_t *count_ret);

#endif
