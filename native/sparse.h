#ifndef RP_SPARSE_H
#define RP_SPARSE_H
#include "bitmap.h"
#include "ram.h"

#include <stdint.h>

/* RAM files that do not hold all of their pages. More than half of a booted guest's RAM is zeros
 * that nobody ever wrote, which need be neither read nor written: both would give them memory. `fd`
 * is that of the RAM's own file. */

/* Set the frames whose pages the file does not hold: they read as zeros, and nothing was spent on
 * them. A page that is written meanwhile may be among them or not. -EINVAL when the file system
 * cannot tell. */
int rp_ram_find_absent(struct rp_ram *ram, int fd, struct rp_bitmap *absent);

/* As rp_ram_gather; pages of `absent` are zeros and are not looked at. */
int rp_ram_gather_present(struct rp_ram *ram, const uint64_t *pfns, uint64_t count,
                          const struct rp_bitmap *absent, uint8_t *body);

/* As rp_ram_scatter, for a file that is filled for the first time: pages of zeros are only written
 * where something else is, and not at all where the file holds nothing. Pages go to the file by
 * `pwrite`, for the first write through a mapping costs a fault. All frames are checked before the
 * first byte moves (-ERANGE); an error of the file leaves some pages written. */
int rp_ram_fill(struct rp_ram *ram, int fd, const uint64_t *pfns, uint64_t count,
                const uint8_t *body);

#endif
