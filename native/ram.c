#include "ram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define PAGE_BYTES UINT64_C(4096)
/* Zero test: bytes looked at between two decisions. */
#define STRIDE_BYTES 256

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

int rp_ram_check(const struct rp_ram *ram, const uint64_t *pfns, uint64_t count,
                 uint64_t *bad_index_ret)
{
    uint64_t file_page;
    for (uint64_t i = 0; i < count; i++)
        if (rp_layout_find(ram->layout, pfns[i], &file_page) != 0) {
            *bad_index_ret = i;
            return -ERANGE;
        }
    return 0;
}

/* Only for frames that were checked. */
static uint8_t *page_of(const struct rp_ram *ram, uint64_t pfn)
{
    uint64_t file_page = 0;
    (void)rp_layout_find(ram->layout, pfn, &file_page);
    return ram->base + file_page * PAGE_BYTES;
}

int rp_ram_gather(const struct rp_ram *ram, const uint64_t *pfns, uint64_t count, uint8_t *body)
{
    uint64_t bad_index;
    int code = rp_ram_check(ram, pfns, count, &bad_index);
    if (code != 0)
        return code;
    for (uint64_t i = 0; i < count; i++)
        memcpy(body + i * PAGE_BYTES, page_of(ram, pfns[i]), PAGE_BYTES);
    return 0;
}

int rp_ram_scatter(struct rp_ram *ram, const uint64_t *pfns, uint64_t count, const uint8_t *body)
{
    uint64_t bad_index;
    int code = rp_ram_check(ram, pfns, count, &bad_index);
    if (code != 0)
        return code;
    for (uint64_t i = 0; i < count; i++)
        memcpy(page_of(ram, pfns[i]), body + i * PAGE_BYTES, PAGE_BYTES);
    return 0;
}

static bool is_zero(const uint8_t *page)
{
    for (uint64_t offset = 0; offset < PAGE_BYTES; offset += STRIDE_BYTES) {
        uint64_t words[STRIDE_BYTES / sizeof(uint64_t)];
        uint64_t seen = 0;
        memcpy(words, page + offset, sizeof(words));
        for (unsigned i = 0; i < STRIDE_BYTES / sizeof(uint64_t); i++)
            seen |= words[i];
        if (seen != 0)
            return false;
    }
    return true;
}

int rp_ram_zero_mask(const struct rp_ram *ram, const uint64_t *pfns, uint64_t count, uint8_t *mask)
{
    uint64_t bad_index;
    int code = rp_ram_check(ram, pfns, count, &bad_index);
    if (code != 0)
        return code;
    for (uint64_t i = 0; i < count; i++)
        mask[i] = is_zero(page_of(ram, pfns[i]));
    return 0;
}

void rp_zero_mask(const uint8_t *body, uint64_t count, uint8_t *mask)
{
    for (uint64_t i = 0; i < count; i++)
        mask[i] = is_zero(body + i * PAGE_BYTES);
}
