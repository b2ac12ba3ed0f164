#ifndef RP_LAYOUT_H
#define RP_LAYOUT_H
#include "bitmap.h"

#include <stdint.h>

/* Frames [first_pfn, first_pfn + pages) live in the RAM file from page file_page on. */
struct rp_segment {
    uint64_t first_pfn;
    uint64_t file_page;
    uint64_t pages;
};

/* Where each guest frame lives in the RAM file. Never changes after it is made. */
struct rp_layout;

/* Segments ascend and do not overlap, by frame and by file page alike; else -EINVAL. */
int rp_layout_create(const struct rp_segment *segments, uint64_t count,
                     struct rp_layout **layout_ret);
void rp_layout_destroy(struct rp_layout *layout);

uint64_t rp_layout_pfn_limit(const struct rp_layout *layout);
uint64_t rp_layout_file_pages(const struct rp_layout *layout);

/* The segment that the frame lies in, as long as the layout lives; NULL for a frame that is no RAM.
 */
const struct rp_segment *rp_layout_segment(const struct rp_layout *layout, uint64_t pfn);
/* -ERANGE for a frame that is no RAM. */
int rp_layout_find(const struct rp_layout *layout, uint64_t pfn, uint64_t *file_page_ret);

/* Set the frames that live in these file pages; file pages that hold no frame are passed over.
 * -ERANGE when the bitmap is too small or the range wraps around. */
int rp_layout_mark(const struct rp_layout *layout, uint64_t file_page, uint64_t pages,
                   struct rp_bitmap *bitmap);

#endif
