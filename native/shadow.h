#ifndef RP_SHADOW_H
#define RP_SHADOW_H
#include "bitmap.h"
#include "ram.h"

#include <stdint.h>

/* A private copy of a guest's RAM, to find what changed by comparing. */
struct rp_shadow;

/* Takes as much memory as the guest has. The RAM must outlive it. The copy starts as zeros. */
int rp_shadow_create(struct rp_ram *ram, struct rp_shadow **shadow_ret);
void rp_shadow_destroy(struct rp_shadow *shadow);

/* Of `count` file pages from `first` on: set the frames whose page differs from the copy, and bring
 * the copy up to date. -ERANGE beyond the end of the file. */
int rp_shadow_scan(struct rp_shadow *shadow, uint64_t first, uint64_t count,
                   struct rp_bitmap *bitmap, uint64_t *pages_ret);

/* Bring the copy of these frames up to date. -ERANGE at the first one that is no RAM. */
int rp_shadow_absorb(struct rp_shadow *shadow, const struct rp_bitmap *bitmap);

#endif
