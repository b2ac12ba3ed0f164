#ifndef RP_RAM_H
#define RP_RAM_H
#include "layout.h"

#include <stdbool.h>
#include <stdint.h>

/* A guest's RAM file, mapped shared. Pages are 4,096 bytes. While the guest runs a page may change
 * under a copy; it is then dirty again and is copied once more. */
struct rp_ram;

/* The layout must outlive it. -EINVAL when the file is shorter than the layout says. */
int rp_ram_create(int fd, const struct rp_layout *layout, bool writable, struct rp_ram **ram_ret);
void rp_ram_destroy(struct rp_ram *ram);

const struct rp_layout *rp_ram_layout(const struct rp_ram *ram);
uint8_t *rp_ram_base(struct rp_ram *ram);

/* The page of a frame; NULL when the frame is no RAM. */
const uint8_t *rp_ram_page(const struct rp_ram *ram, uint64_t pfn);

/* 0 when every frame is RAM, else -ERANGE and the index of the first that is not. */
int rp_ram_check(const struct rp_ram *ram, const uint64_t *pfns, uint64_t count,
                 uint64_t *bad_index_ret);

/* Copy pages, in the order of pfns, to or from one contiguous body of count * 4096 bytes. All
 * frames are checked before the first byte moves: -ERANGE means that nothing was copied. */
int rp_ram_gather(const struct rp_ram *ram, const uint64_t *pfns, uint64_t count, uint8_t *body);
int rp_ram_scatter(struct rp_ram *ram, const uint64_t *pfns, uint64_t count, const uint8_t *body);

/* One byte a page: 1 when the page holds only zeros. */
int rp_ram_zero_mask(const struct rp_ram *ram, const uint64_t *pfns, uint64_t count, uint8_t *mask);
/* The same of pages that were gathered already. */
void rp_zero_mask(const uint8_t *body, uint64_t count, uint8_t *mask);

#endif
