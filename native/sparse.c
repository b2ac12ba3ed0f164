/* SEEK_DATA */
#define _GNU_SOURCE
#include "sparse.h"

#include "simd.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define PAGE_BYTES UINT64_C(4096)

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

/* Pages from the first of these on that are not zeros and lie one behind the other in the file. */
static uint64_t count_filled(const struct rp_ram *ram, const uint64_t *pfns, uint64_t most,
                             const uint8_t *body)
{
    const uint8_t *first = rp_ram_page(ram, pfns[0]);
    uint64_t pages = 0;
    while (pages < most && rp_ram_page(ram, pfns[pages]) == first + pages * PAGE_BYTES &&
           !rp_page_is_zero(body + pages * PAGE_BYTES))
        pages++;
    return pages;
}

/* Whether the file holds nothing at `at`. `hole` is [begin, end) of the newest one that was found.
 */
static bool is_in_hole(int fd, uint64_t at, uint64_t hole[2])
{
    if (at >= hole[0] && at < hole[1])
        return true;
    off_t data = lseek(fd, (off_t)at, SEEK_DATA);
    /* ENXIO: there is nothing up to the end. A file system that cannot tell holds everything. */
    if (data < 0 && errno != ENXIO)
        return false;
    hole[0] = at;
    hole[1] = data < 0 ? UINT64_MAX : (uint64_t)data;
    return at < hole[1];
}

/* A page of zeros. */
static void fill_zeros(struct rp_ram *ram, int fd, uint64_t pfn, uint64_t hole[2])
{
    uint64_t at = offset_of(ram, pfn);
    uint8_t *page = rp_ram_base(ram) + at;
    if (!is_in_hole(fd, at, hole) && !rp_page_is_zero(page))
        memset(page, 0, PAGE_BYTES);
}

int rp_ram_fill(struct rp_ram *ram, int fd, const uint64_t *pfns, uint64_t count,
                const uint8_t *body)
{
    /* Forgotten when something is written, which may have been into it. */
    uint64_t bad_index, hole[2] = {0, 0};
    int code = rp_ram_check(ram, pfns, count, &bad_index);
    for (uint64_t done = 0; done < count && code == 0;) {
        const uint8_t *from = body + done * PAGE_BYTES;
        uint64_t run = count_filled(ram, pfns + done, count - done, from);
        if (run > 0) {
            code = write_pages(fd, offset_of(ram, pfns[done]), from, run * PAGE_BYTES);
            hole[0] = hole[1] = 0;
        } else {
            fill_zeros(ram, fd, pfns[done], hole);
        }
        done += run > 0 ? run : 1;
    }
    return code;
}
