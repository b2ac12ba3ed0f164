#include "prints.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE_BYTES UINT64_C(4096)
/* Words that are taken in at the same time: multiplying takes a processor some cycles, but it
 * begins one in each. */
#define LANES 8
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))
/* Odd, so that multiplying by it can be undone: no two words give the same product. */
#define FACTOR UINT64_C(0x9e3779b97f4a7c15)

struct rp_prints {
    struct rp_ram *ram;
    /* Of each page of the file, minus that of a page of zeros: so none has to be written at first.
     */
    uint64_t *prints;
    uint64_t zero_print;
};

static uint64_t take_print(const uint8_t *page)
{
    uint64_t lanes[LANES] = {1, 2, 3, 4, 5, 6, 7, 8};
    for (uint64_t word = 0; word < PAGE_WORDS; word += LANES) {
        uint64_t words[LANES];
        memcpy(words, page + word * sizeof(uint64_t), sizeof(words));
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] = (lanes[lane] ^ words[lane]) * FACTOR;
    }
    uint64_t print = 0;
    for (int lane = 0; lane < LANES; lane++)
        print = ((print << 23 | print >> 41) ^ lanes[lane]) * FACTOR;
    return print;
}

int rp_prints_create(struct rp_ram *ram, struct rp_prints **prints_ret)
{
    static const uint8_t zeros[PAGE_BYTES];
    struct rp_prints *prints = calloc(1, sizeof(*prints));
    if (prints == NULL)
        return -ENOMEM;
    prints->ram = ram;
    prints->zero_print = take_print(zeros);
    prints->prints = calloc(rp_layout_file_pages(rp_ram_layout(ram)), sizeof(uint64_t));
    if (prints->prints == NULL) {
        free(prints);
        return -ENOMEM;
    }
    *prints_ret = prints;
    return 0;
}

void rp_prints_destroy(struct rp_prints *prints)
{
    if (prints == NULL)
        return;
    free(prints->prints);
    free(prints);
}

/* Whether the page of the frame, which is RAM, has changed. */
static bool renew(struct rp_prints *prints, const uint8_t *page)
{
    uint64_t index = (uint64_t)(page - rp_ram_base(prints->ram)) / PAGE_BYTES;
    uint64_t print = take_print(page) - prints->zero_print;
    bool has_changed = print != prints->prints[index];
    prints->prints[index] = print;
    return has_changed;
}

static int scan_run(struct rp_prints *prints, uint64_t first, uint64_t pages,
                    struct rp_bitmap *changed, uint64_t *found)
{
    int code = 0;
    for (uint64_t pfn = first; pfn < first + pages && code == 0; pfn++) {
        const uint8_t *page = rp_ram_page(prints->ram, pfn);
        if (page == NULL)
            return -ERANGE;
        if (!renew(prints, page))
            continue;
        code = rp_bitmap_set_range(changed, pfn, 1);
        ++*found;
    }
    return code;
}

int rp_prints_scan(struct rp_prints *prints, const struct rp_bitmap *where,
                   struct rp_bitmap *changed, uint64_t *pages_ret)
{
    uint64_t first, pages;
    *pages_ret = 0;
    rp_bitmap_next_run(where, 0, &first, &pages);
    while (pages > 0) {
        int code = scan_run(prints, first, pages, changed, pages_ret);
        if (code != 0)
            return code;
        rp_bitmap_next_run(where, first + pages, &first, &pages);
    }
    return 0;
}
