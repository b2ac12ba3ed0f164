#include "shadow.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES UINT64_C(4096)

struct rp_shadow {
    struct rp_ram *ram;
    uint8_t *copy;
    uint64_t pages;
};

int rp_shadow_create(struct rp_ram *ram, struct rp_shadow **shadow_ret)
{
    struct rp_shadow *shadow = calloc(1, sizeof(*shadow));
    if (shadow == NULL)
        return -ENOMEM;
    shadow->ram = ram;
    shadow->pages = rp_layout_file_pages(rp_ram_layout(ram));
    /* Reserved, so that a host without the memory says so here and not by killing somebody later.
     */
    void *copy = mmap(NULL, shadow->pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED) {
        int code = -errno;
        free(shadow);
        return code;
    }
    shadow->copy = copy;
    *shadow_ret = shadow;
    return 0;
}

void rp_shadow_destroy(struct rp_shadow *shadow)
{
    if (shadow == NULL)
        return;
    munmap(shadow->copy, shadow->pages * PAGE_BYTES);
    free(shadow);
}

int rp_shadow_scan(struct rp_shadow *shadow, uint64_t first, uint64_t count,
                   struct rp_bitmap *bitmap, uint64_t *pages_ret)
{
    if (first > shadow->pages || count > shadow->pages - first)
        return -ERANGE;
    const struct rp_layout *layout = rp_ram_layout(shadow->ram);
    uint64_t found = 0;
    for (uint64_t page = first; page < first + count; page++) {
        const uint8_t *now = rp_ram_base(shadow->ram) + page * PAGE_BYTES;
        uint8_t *then = shadow->copy + page * PAGE_BYTES;
        if (memcmp(now, then, PAGE_BYTES) == 0)
            continue;
        int code = rp_layout_mark(layout, page, 1, bitmap);
        if (code != 0)
            return code;
        /* May be torn while the guest writes; then it differs again at the next scan. */
        memcpy(then, now, PAGE_BYTES);
        found++;
    }
    *pages_ret = found;
    return 0;
}

int rp_shadow_absorb(struct rp_shadow *shadow, const struct rp_bitmap *bitmap)
{
    const struct rp_layout *layout = rp_ram_layout(shadow->ram);
    uint64_t first, length;
    for (uint64_t start = 0;; start = first + length) {
        rp_bitmap_next_run(bitmap, start, &first, &length);
        if (length == 0)
            return 0;
        for (uint64_t pfn = first; pfn < first + length; pfn++) {
            uint64_t page;
            int code = rp_layout_find(layout, pfn, &page);
            if (code != 0)
                return code;
            memcpy(shadow->copy + page * PAGE_BYTES, rp_ram_base(shadow->ram) + page * PAGE_BYTES,
                   PAGE_BYTES);
        }
    }
}
