#ifndef RP_PRINTS_H
#define RP_PRINTS_H
#include "bitmap.h"
#include "ram.h"

#include <stdint.h>

/* Fingerprints of a guest's pages, to find what changed without a copy: 8 bytes a page. A page of
 * which a single word of 8 bytes has changed has another one for certain, any other change is
 * overlooked once in 2^64. Not against somebody who looks for two pages with the same one. */
struct rp_prints;

/* At first all are those of zeros. The RAM must outlive them. */
int rp_prints_create(struct rp_ram *ram, struct rp_prints **prints_ret);
void rp_prints_destroy(struct rp_prints *prints);

/* Look at the frames of `where`: set those in `changed` whose page differs from its fingerprint,
 * and bring that up to date. -ERANGE when one is no RAM. */
int rp_prints_scan(struct rp_prints *prints, const struct rp_bitmap *where,
                   struct rp_bitmap *changed, uint64_t *pages_ret);

#endif
