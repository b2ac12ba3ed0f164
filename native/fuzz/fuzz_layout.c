/* Layouts of a guest's memory: which are refused, and where each frame and each file page lies.
 *
 * Input: u8 how, then segments; then, of a layout that was made, frames and ranges to ask for. A
 * narrow layout is small enough to try all of its frames; a wide one has any numbers. */
#include "../bitmap.h"
#include "../layout.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HOW_WIDE 128
#define HOW_COUNT 127
#define NARROW_BITS 4096
#define QUESTIONS_MAX 16
#define FRAMES_MAX (UINT64_C(1) << 28)
#define NONE UINT64_MAX

typedef unsigned __int128 wide;

struct segments {
    struct rp_segment *each;
    uint64_t count;
};

static struct segments read_segments(struct fuzz_input *input, unsigned int how)
{
    struct segments segments = {.count = how & HOW_COUNT};
    segments.each = fuzz_room(segments.count * sizeof(*segments.each), 0);
    uint64_t frame = 0, page = 0;
    for (uint64_t i = 0; i < segments.count; i++) {
        struct rp_segment *segment = &segments.each[i];
        if (how & HOW_WIDE) {
            segment->first_pfn = fuzz_take(input, 8);
            segment->file_page = fuzz_take(input, 8);
            segment->pages = fuzz_take(input, 8);
            continue;
        }
        /* Most follow each other: signed gaps, of which few are below 0. */
        segment->first_pfn = (uint64_t)((int64_t)frame + (int8_t)fuzz_take(input, 1) % 16 + 2);
        segment->file_page = (uint64_t)((int64_t)page + (int8_t)fuzz_take(input, 1) % 16 + 2);
        segment->pages = fuzz_take(input, 1) % 32;
        frame = segment->first_pfn + segment->pages;
        page = segment->file_page + segment->pages;
    }
    return segments;
}

static bool is_fine(const struct segments *segments)
{
    for (uint64_t i = 0; i < segments->count; i++) {
        const struct rp_segment *one = &segments->each[i];
        if (one->pages == 0 || (wide)one->first_pfn + one->pages > FRAMES_MAX)
            return false;
        if (one->file_page > FRAMES_MAX)
            return false;
        for (uint64_t j = 0; j < i; j++) {
            const struct rp_segment *before = &segments->each[j];
            if ((wide)before->first_pfn + before->pages > one->first_pfn ||
                (wide)before->file_page + before->pages > one->file_page)
                return false;
        }
    }
    return segments->count > 0;
}

static uint64_t page_of(const struct segments *segments, uint64_t frame)
{
    for (uint64_t i = segments->count; i-- > 0;) {
        const struct rp_segment *one = &segments->each[i];
        if (frame >= one->first_pfn && frame < (wide)one->first_pfn + one->pages)
            return frame - one->first_pfn + one->file_page;
    }
    return NONE;
}

static void check_find(const struct segments *segments, const struct rp_layout *layout,
                       uint64_t frame)
{
    uint64_t wanted = page_of(segments, frame), found = NONE;
    DEMAND(rp_layout_find(layout, frame, &found) == (wanted == NONE ? -ERANGE : 0));
    DEMAND(found == wanted);
    DEMAND(found == NONE || found < rp_layout_file_pages(layout));
    DEMAND(found == NONE || frame < rp_layout_pfn_limit(layout));
    const struct rp_segment *segment = rp_layout_segment(layout, frame);
    DEMAND((segment == NULL) == (wanted == NONE));
    DEMAND(segment == NULL || segment->file_page + (frame - segment->first_pfn) == wanted);
}

static void check_mark(const struct segments *segments, const struct rp_layout *layout,
                       uint64_t first, uint64_t pages, uint64_t bits)
{
    struct rp_bitmap *bitmap = NULL;
    DEMAND(rp_bitmap_create(bits, &bitmap) == 0);
    int code = rp_layout_mark(layout, first, pages, bitmap);
    bool fits = (wide)first + pages <= UINT64_MAX;
    for (uint64_t frame = 0; frame < rp_layout_pfn_limit(layout) && fits; frame++) {
        uint64_t page = page_of(segments, frame);
        bool marked = page != NONE && page >= first && page - first < pages, is_set = false;
        if (frame >= bits)
            fits = !marked;
        else if (code == 0)
            DEMAND(rp_bitmap_test(bitmap, frame, &is_set) == 0 && is_set == marked);
    }
    DEMAND(code == (fits ? 0 : -ERANGE));
    rp_bitmap_destroy(bitmap);
}

static void ask_narrow(struct fuzz_input *input, const struct segments *segments,
                       const struct rp_layout *layout)
{
    uint64_t limit = rp_layout_pfn_limit(layout);
    for (uint64_t frame = 0; frame <= limit; frame++)
        check_find(segments, layout, frame);
    check_mark(segments, layout, 0, rp_layout_file_pages(layout), limit);
    for (int i = 0; i < QUESTIONS_MAX && input->left > 0; i++) {
        uint64_t first = fuzz_take(input, 2), pages = fuzz_take(input, 1);
        /* Numbers around the highest one as well. */
        if (first >= 0xff00)
            first -= 0x10000;
        if (pages >= 0xf0)
            pages -= 0x100;
        check_mark(segments, layout, first, pages, limit - limit * fuzz_take(input, 1) / 1024);
    }
}

static void ask_wide(struct fuzz_input *input, const struct segments *segments,
                     const struct rp_layout *layout)
{
    for (uint64_t i = 0; i < segments->count; i++) {
        uint64_t first = segments->each[i].first_pfn, end = first + segments->each[i].pages;
        check_find(segments, layout, first - 1);
        check_find(segments, layout, first);
        check_find(segments, layout, end - 1);
        check_find(segments, layout, end);
    }
    while (input->left > 0)
        check_find(segments, layout, fuzz_take(input, 8));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct segments segments = read_segments(&input, (unsigned int)fuzz_take(&input, 1));
    struct rp_layout *layout = NULL;
    int code = rp_layout_create(segments.each, segments.count, &layout);
    DEMAND(code == (is_fine(&segments) ? 0 : -EINVAL));
    if (code == 0) {
        const struct rp_segment *last = &segments.each[segments.count - 1];
        DEMAND(rp_layout_pfn_limit(layout) == last->first_pfn + last->pages);
        DEMAND(rp_layout_file_pages(layout) == last->file_page + last->pages);
        if (rp_layout_pfn_limit(layout) <= NARROW_BITS)
            ask_narrow(&input, &segments, layout);
        else
            ask_wide(&input, &segments, layout);
    } else {
        DEMAND(layout == NULL);
    }
    rp_layout_destroy(layout);
    free(segments.each);
    return 0;
}
