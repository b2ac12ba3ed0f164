#include "ram.h"

#include "simd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE_BYTES UINT64_C(4096)

struct rp_ram {
    const struct rp_layout *layout;
    uint8_t *base;
    uint64_t bytes;
};

static int map_file(int fd, bool writable, struct rp_ram *ram)
{
    struct stat status;
    if (fstat(fd, &status) != 0)
        return -errno;
    if (status.st_size < 0 || (uint64_t)status.st_size < ram->bytes)
        return -EINVAL;
    int access = writable ? PROT_READ | PROT_WRITE : PROT_READ;
    void *base = mmap(NULL, ram->bytes, access, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    ram->base = base;
    return 0;
}

int rp_ram_create(int fd, const struct rp_layout *layout, bool writable, struct rp_ram **ram_ret)
{
    struct rp_ram *ram = calloc(1, sizeof(*ram));
    if (ram == NULL)
        return -ENOMEM;
    ram->layout = layout;
    ram->bytes = rp_layout_file_pages(layout) * PAGE_BYTES;
    int code = map_file(fd, writable, ram);
    if (code != 0) {
        free(ram);
        return code;
    }
    *ram_ret = ram;
    return 0;
}

void rp_ram_destroy(struct rp_ram *ram)
{
    if (ram == NULL)
        return;
    munmap(ram->base, ram->bytes);
    free(ram);
}

const struct rp_layout *rp_ram_layout(const struct rp_ram *ram) { return ram->layout; }

uint8_t *rp_ram_base(struct rp_ram *ram) { return ram->base; }

/* The segment of the frame, NULL when it is no RAM. `near` is tried first, for most frames of a
 * list lie in the segment of the one before; it may be NULL. */
static const struct rp_segment *segment_of(const struct rp_ram *ram, uint64_t pfn,
                                           const struct rp_segment *near)
{
    if (near != NULL && pfn - near->first_pfn < near->pages)
        return near;
    return rp_layout_segment(ram->layout, pfn);
}

static uint8_t *page_in(const struct rp_ram *ram, const struct rp_segment *segment, uint64_t pfn)
{
    return ram->base + (segment->file_page + (pfn - segment->first_pfn)) * PAGE_BYTES;
}

const uint8_t *rp_ram_page(const struct rp_ram *ram, uint64_t pfn)
{
    const struct rp_segment *segment = rp_layout_segment(ram->layout, pfn);
    return segment != NULL ? page_in(ram, segment, pfn) : NULL;
}

int rp_ram_check(const struct rp_ram *ram, const uint64_t *pfns, uint64_t count,
                 uint64_t *bad_index_ret)
{
    const struct rp_segment *segment = NULL;
    for (uint64_t i = 0; i < count; i++) {
        segment = segment_of(ram, pfns[i], segment);
        if (segment == NULL) {
            *bad_index_ret = i;
            return -ERANGE;
        }
    }
    return 0;
}

/* Walks a list of checked frames in spans: pages that follow each other in the list and lie one
 * behind the other in the file. */
struct span {
    const struct rp_segment *segment;
    uint8_t *first;
    uint64_t pages;
};

static struct span next_span(const struct rp_ram *ram, const uint64_t *pfns, uint64_t left,
                             const struct rp_segment *near)
{
    if (left == 0)
        return (struct span){.segment = near};
    struct span span = {.segment = segment_of(ram, pfns[0], near), .pages = 1};
    span.first = page_in(ram, span.segment, pfns[0]);
    uint64_t rest = span.segment->pages - (pfns[0] - span.segment->first_pfn);
    uint64_t most = left < rest ? left : rest;
    while (span.pages < most && pfns[span.pages] == pfns[0] + span.pages)
        span.pages++;
    return span;
}

int rp_ram_gather(const struct rp_ram *ram, const uint64_t *pfns, uint64_t count, uint8_t *body)
{
    uint64_t bad_index;
    int code = rp_ram_check(ram, pfns, count, &bad_index);
    if (code != 0)
        return code;
    struct span span = next_span(ram, pfns, count, NULL);
    for (uint64_t done = 0; done < count;) {
        uint64_t after = done + span.pages;
        struct span next = next_span(ram, pfns + after, count - after, span.segment);
        /* Its page tables are walked while these are copied; the processor finds the rest by
         * itself. */
        __builtin_prefetch(next.first);
        memcpy(body + done * PAGE_BYTES, span.first, span.pages * PAGE_BYTES);
        span = next;
        done = after;
    }
    return 0;
}

int rp_ram_scatter(struct rp_ram *ram, const uint64_t *pfns, uint64_t count, const uint8_t *body)
{
    uint64_t bad_index;
    int code = rp_ram_check(ram, pfns, count, &bad_index);
    if (code != 0)
        return code;
    struct span span = {.segment = NULL};
    for (uint64_t done = 0; done < count; done += span.pages) {
        span = next_span(ram, pfns + done, count - done, span.segment);
        memcpy(span.first, body + done * PAGE_BYTES, span.pages * PAGE_BYTES);
    }
    return 0;
}

int rp_ram_zero_mask(const struct rp_ram *ram, const uint64_t *pfns, uint64_t count, uint8_t *mask)
{
    uint64_t bad_index;
    int code = rp_ram_check(ram, pfns, count, &bad_index);
    if (code != 0)
        return code;
    const struct rp_segment *segment = NULL;
    for (uint64_t i = 0; i < count; i++) {
        segment = segment_of(ram, pfns[i], segment);
        mask[i] = rp_page_is_zero(page_in(ram, segment, pfns[i]));
    }
    return 0;
}

void rp_zero_mask(const uint8_t *body, uint64_t count, uint8_t *mask)
{
    for (uint64_t i = 0; i < count; i++)
        mask[i] = rp_page_is_zero(body + i * PAGE_BYTES);
}
