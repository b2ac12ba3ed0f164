#include "layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENTS_MAX 4096
/* 1 TiB of frames, see replicator/limits.py. */
#define PFN_MAX (UINT64_C(1) << 28)

struct rp_layout {
    uint64_t count;
    struct rp_segment segments[];
};

static bool is_sane(const struct rp_segment *segment)
{
    return segment->pages > 0 && segment->pages <= PFN_MAX && segment->first_pfn <= PFN_MAX &&
           segment->file_page <= PFN_MAX && segment->first_pfn + segment->pages <= PFN_MAX;
}

static bool may_follow(const struct rp_segment *before, const struct rp_segment *segment)
{
    return before->first_pfn + before->pages <= segment->first_pfn &&
           before->file_page + before->pages <= segment->file_page;
}

int rp_layout_create(const struct rp_segment *segments, uint64_t count,
                     struct rp_layout **layout_ret)
{
    if (count == 0 || count > SEGMENTS_MAX)
        return -EINVAL;
    for (uint64_t i = 0; i < count; i++)
        if (!is_sane(&segments[i]) || (i > 0 && !may_follow(&segments[i - 1], &segments[i])))
            return -EINVAL;
    struct rp_layout *layout = calloc(1, sizeof(*layout) + count * sizeof(*segments));
    if (layout == NULL)
        return -ENOMEM;
    layout->count = count;
    memcpy(layout->segments, segments, count * sizeof(*segments));
    *layout_ret = layout;
    return 0;
}

void rp_layout_destroy(struct rp_layout *layout) { free(layout); }

uint64_t rp_layout_pfn_limit(const struct rp_layout *layout)
{
    const struct rp_segment *last = &layout->segments[layout->count - 1];
    return last->first_pfn + last->pages;
}

uint64_t rp_layout_file_pages(const struct rp_layout *layout)
{
    const struct rp_segment *last = &layout->segments[layout->count - 1];
    return last->file_page + last->pages;
}

const struct rp_segment *rp_layout_segment(const struct rp_layout *layout, uint64_t pfn)
{
    uint64_t low = 0, high = layout->count;
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        const struct rp_segment *segment = &layout->segments[middle];
        if (pfn < segment->first_pfn)
            high = middle;
        else if (pfn - segment->first_pfn < segment->pages)
            return segment;
        else
            low = middle + 1;
    }
    return NULL;
}

int rp_layout_find(const struct rp_layout *layout, uint64_t pfn, uint64_t *file_page_ret)
{
    const struct rp_segment *segment = rp_layout_segment(layout, pfn);
    if (segment == NULL)
        return -ERANGE;
    *file_page_ret = segment->file_page + (pfn - segment->first_pfn);
    return 0;
}

int rp_layout_mark(const struct rp_layout *layout, uint64_t file_page, uint64_t pages,
                   struct rp_bitmap *bitmap)
{
    if (pages > UINT64_MAX - file_page)
        return -ERANGE;
    uint64_t end = file_page + pages;
    for (uint64_t i = 0; i < layout->count; i++) {
        const struct rp_segment *segment = &layout->segments[i];
        uint64_t segment_end = segment->file_page + segment->pages;
        uint64_t low = file_page > segment->file_page ? file_page : segment->file_page;
        uint64_t high = end < segment_end ? end : segment_end;
        if (low >= high)
            continue;
        uint64_t first = segment->first_pfn + (low - segment->file_page);
        int code = rp_bitmap_set_range(bitmap, first, high - low);
        if (code != 0)
            return code;
    }
    return 0;
}
