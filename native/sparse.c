/* SEEK_DATA */
#define _GNU_SOURCE
#include "sparse.h"

#include "simd.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PAGE_BYTES UINT64_C(4096)
/* So many are read at a time, which a cache holds. */
#define LOOK_PAGES UINT64_C(16)

int rp_ram_find_absent(struct rp_ram *ram, int fd, struct rp_bitmap *absent)
{
    const struct rp_layout *layout = rp_ram_layout(ram);
    uint64_t pages = rp_layout_file_pages(layout);
    for (uint64_t hole = 0; hole < pages;) {
        off_t data = lseek(fd, (off_t)(hole * PAGE_BYTES), SEEK_DATA);
        /* ENXIO: there is none up to the end. */
        if (data < 0 && errno != ENXIO)
            return -errno;
        uint64_t end = data < 0 ? pages : (uint64_t)data / PAGE_BYTES;
        end = end < pages ? end : pages;
        int code = end > hole ? rp_layout_mark(layout, hole, end - hole, absent) : 0;
        if (code != 0 || end == pages)
            return code;
        off_t next = lseek(fd, data, SEEK_HOLE);
        if (next < 0)
            return -errno;
        hole = ((uint64_t)next + PAGE_BYTES - 1) / PAGE_BYTES;
    }
    return 0;
}

/* Frames from the first one on that are all absent, or all not. */
static int count_alike(const struct rp_bitmap *absent, const uint64_t *pfns, uint64_t most,
                       bool *absent_ret, uint64_t *count_ret)
{
    int code = rp_bitmap_test(absent, pfns[0], absent_ret);
    bool is_absent = *absent_ret;
    uint64_t count = 0;
    while (code == 0 && is_absent == *absent_ret && ++count < most)
        code = rp_bitmap_test(absent, pfns[count], &is_absent);
    *count_ret = count;
    return code;
}

int rp_ram_gather_present(struct rp_ram *ram, const uint64_t *pfns, uint64_t count,
                          const struct rp_bitmap *absent, uint8_t *body)
{
    uint64_t bad_index, alike;
    int code = rp_ram_check(ram, pfns, count, &bad_index);
    for (uint64_t done = 0; done < count && code == 0; done += alike) {
        bool is_absent = false;
        code = count_alike(absent, pfns + done, count - done, &is_absent, &alike);
        if (code == 0 && is_absent)
            memset(body + done * PAGE_BYTES, 0, alike * PAGE_BYTES);
        else if (code == 0)
            code = rp_ram_gather(ram, pfns + done, alike, body + done * PAGE_BYTES);
    }
    return code;
}

static int write_pages(int fd, uint64_t at, const uint8_t *data, uint64_t bytes)
{
    while (bytes > 0) {
        ssize_t written = pwrite(fd, data, bytes, (off_t)at);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return written < 0 ? -errno : -EIO;
        at += (uint64_t)written;
        data += written;
        bytes -= (uint64_t)written;
    }
    return 0;
}

/* Of a frame that is RAM. */
static uint64_t offset_of(struct rp_ram *ram, uint64_t pfn)
{
    return (uint64_t)(rp_ram_page(ram, pfn) - rp_ram_base(ram));
}

/* Pages from the first of these on that lie one behind the other in the file, and are all zeros or
 * all not. */
static uint64_t count_run(const struct rp_ram *ram, const uint64_t *pfns, uint64_t most,
                          const uint8_t *body, bool *zeros_ret)
{
    const uint8_t *first = rp_ram_page(ram, pfns[0]);
    uint64_t pages = 1;
    *zeros_ret = rp_page_is_zero(body);
    while (pages < most && rp_ram_page(ram, pfns[pages]) == first + pages * PAGE_BYTES &&
           rp_page_is_zero(body + pages * PAGE_BYTES) == *zeros_ret)
        pages++;
    return pages;
}

static int read_pages(int fd, uint64_t at, uint8_t *data, uint64_t bytes)
{
    while (bytes > 0) {
        ssize_t got = pread(fd, data, bytes, (off_t)at);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got < 0 ? -errno : -EIO;
        at += (uint64_t)got;
        data += got;
        bytes -= (uint64_t)got;
    }
    return 0;
}

/* Zeros for these pages of the file. What holds nothing is read as zeros by `pread` and stays so,
 * where a look through the mapping would give it memory. */
static int fill_zeros(struct rp_ram *ram, int fd, uint64_t at, uint64_t count)
{
    uint8_t seen[LOOK_PAGES * PAGE_BYTES];
    for (uint64_t done = 0, pages; done < count; done += pages) {
        pages = count - done < LOOK_PAGES ? count - done : LOOK_PAGES;
        uint64_t place = at + done * PAGE_BYTES;
        int code = read_pages(fd, place, seen, pages * PAGE_BYTES);
        if (code != 0)
            return code;
        for (uint64_t i = 0; i < pages; i++)
            if (!rp_page_is_zero(seen + i * PAGE_BYTES))
                memset(rp_ram_base(ram) + place + i * PAGE_BYTES, 0, PAGE_BYTES);
    }
    return 0;
}

int rp_ram_fill(struct rp_ram *ram, int fd, const uint64_t *pfns, uint64_t count,
                const uint8_t *body)
{
    uint64_t bad_index, run;
    int code = rp_ram_check(ram, pfns, count, &bad_index);
    for (uint64_t done = 0; done < count && code == 0; done += run) {
        const uint8_t *from = body + done * PAGE_BYTES;
        uint64_t at = offset_of(ram, pfns[done]);
        bool zeros;
        run = count_run(ram, pfns + done, count - done, from, &zeros);
        code = zeros ? fill_zeros(ram, fd, at, run) : write_pages(fd, at, from, run * PAGE_BYTES);
    }
    return code;
}
