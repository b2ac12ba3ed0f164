/* Scans of another process's page map. The driver answers in the place of the kernel: it knows
 * which pages of the process were written, tells them in runs as short as it likes, stops a walk
 * where it likes, fails, or stands still. The scanner must find each written page once, and never
 * loop.
 *
 * Input: u8 count of mappings, each u8 gap, u8 file page, u8 pages; then scans: u8 how, u8 writes,
 * the pages written; and three u64s of a mapping that may wrap around. */
#include "../uffd.h"
#include "fuzz.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

/* wraps: ioctl pread */

#define PAGE UINT64_C(4096)
#define BASE_PAGE UINT64_C(0x7f0000000)
#define SPACE_PAGES 256
#define FILE_PAGES 128
#define MAPPINGS_MAX 4
#define SCANS_MAX 6
#define PAGEMAP_FD 77
/* Kinds of a scan. */
#define FAILS 1
#define STANDS_STILL 2
#define HAS_ENDED 3

/* The kernel's argument: Documentation/admin-guide/mm/pagemap.rst. */
struct walk {
    uint64_t size, flags, start, end, walk_end, regions, room, most, inverted, mask, any, wanted;
};

struct region {
    uint64_t start, end, categories;
};

struct kernel {
    bool written[SPACE_PAGES];
    /* At most so many pages a run, and runs a call. */
    uint64_t run_most, runs_most;
    unsigned int kind;
    unsigned int calls;
};

static struct kernel kernel;

static int answer_scan(struct walk *walk)
{
    struct region *regions = (struct region *)(uintptr_t)walk->regions;
    uint64_t at = walk->start / PAGE - BASE_PAGE, end = walk->end / PAGE - BASE_PAGE;
    int runs = 0;
    DEMAND(walk->size == sizeof(*walk));
    DEMAND(walk->start % PAGE == 0 && walk->end % PAGE == 0);
    DEMAND(at <= end && end <= SPACE_PAGES);
    DEMAND(kernel.calls++ <= 2 * SPACE_PAGES);
    walk->walk_end = walk->start;
    if (kernel.kind == STANDS_STILL)
        return 0;
    if (kernel.kind == FAILS) {
        errno = ENOMEM;
        return -1;
    }
    while (at < end) {
        uint64_t first = at;
        while (at < end && kernel.written[at] && at - first < kernel.run_most)
            kernel.written[at++] = false;
        if (at > first) {
            DEMAND((uint64_t)runs < walk->room);
            regions[runs++] =
                (struct region){(BASE_PAGE + first) * PAGE, (BASE_PAGE + at) * PAGE, 2};
        } else {
            at++;
        }
        if ((uint64_t)runs == walk->room || (uint64_t)runs == kernel.runs_most)
            break;
    }
    walk->walk_end = (BASE_PAGE + at) * PAGE;
    return runs;
}

int __wrap_ioctl(int fd, unsigned long request, ...);
ssize_t __wrap_pread(int fd, void *room, size_t bytes, off_t offset);

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    va_list arguments;
    va_start(arguments, request);
    struct walk *walk = va_arg(arguments, struct walk *);
    va_end(arguments);
    DEMAND(fd == PAGEMAP_FD);
    return answer_scan(walk);
}

ssize_t __wrap_pread(int fd, void *room, size_t bytes, off_t offset)
{
    DEMAND(fd == PAGEMAP_FD && bytes == 8 && offset % 8 == 0);
    if (kernel.kind == HAS_ENDED)
        return 0;
    memset(room, 0, bytes);
    return (ssize_t)bytes;
}

struct mappings {
    struct rp_mapping each[MAPPINGS_MAX];
    uint64_t count;
};

/* One after the other in the process, none above its space. */
static void read_mappings(struct fuzz_input *input, struct mappings *mappings)
{
    uint64_t page = 0, count = fuzz_take(input, 1) % (MAPPINGS_MAX + 1);
    mappings->count = 0;
    while (mappings->count < count) {
        page += fuzz_take(input, 1) % 16;
        struct rp_mapping *one = &mappings->each[mappings->count];
        one->address = (BASE_PAGE + page) * PAGE;
        one->file_page = fuzz_take(input, 1) % FILE_PAGES;
        one->pages = fuzz_take(input, 1) % 64 + 1;
        page += one->pages;
        if (page > SPACE_PAGES)
            break;
        mappings->count++;
    }
}

static void check_refusal(struct fuzz_input *input, const struct rp_layout *layout)
{
    struct rp_mapping one = {.address = fuzz_take(input, 8)};
    one.file_page = fuzz_take(input, 8);
    one.pages = fuzz_take(input, 8);
    bool fine = one.address % PAGE == 0 && one.pages > 0 &&
                (unsigned __int128)one.pages * PAGE + one.address <= UINT64_MAX &&
                (unsigned __int128)one.pages + one.file_page <= UINT64_MAX;
    struct rp_scanner *scanner = NULL;
    DEMAND(rp_scanner_create(PAGEMAP_FD, layout, &one, 1, &scanner) == (fine ? 0 : -EINVAL));
    DEMAND((scanner != NULL) == fine);
    if (!fine)
        DEMAND(rp_uffd_register(PAGEMAP_FD, &one) == -EINVAL);
    rp_scanner_destroy(scanner);
}

/* The lower half of the file lies at frame 0, the upper one behind a hole. */
static uint64_t frame_of(uint64_t page) { return page < FILE_PAGES / 2 ? page : page + FILE_PAGES; }

static int wanted_code(const struct mappings *mappings)
{
    if (mappings->count == 0)
        return 0;
    switch (kernel.kind) {
    case FAILS:
        return -ENOMEM;
    case STANDS_STILL:
        return -EIO;
    case HAS_ENDED:
        return -ESRCH;
    default:
        return 0;
    }
}

static void scan_once(struct fuzz_input *input, const struct mappings *mappings,
                      struct rp_scanner *scanner)
{
    bool wanted[3 * FILE_PAGES] = {false};
    uint64_t how = fuzz_take(input, 1), wanted_pages = 0, pages = UINT64_MAX;
    memset(&kernel, 0, sizeof(kernel));
    kernel.kind = how % 8;
    kernel.run_most = how / 8 % 4 + 1;
    kernel.runs_most = how / 32 + 1;
    for (uint64_t writes = fuzz_take(input, 1) % 32; writes > 0; writes--)
        kernel.written[fuzz_take(input, 1)] = true;
    for (uint64_t i = 0; i < mappings->count; i++) {
        const struct rp_mapping *one = &mappings->each[i];
        for (uint64_t page = 0; page < one->pages; page++)
            if (kernel.written[one->address / PAGE - BASE_PAGE + page]) {
                wanted_pages++;
                if (one->file_page + page < FILE_PAGES)
                    wanted[frame_of(one->file_page + page)] = true;
            }
    }
    struct rp_bitmap *bitmap = NULL;
    DEMAND(rp_bitmap_create(3 * FILE_PAGES, &bitmap) == 0);
    int code = rp_scanner_scan(scanner, bitmap, &pages);
    DEMAND(code == wanted_code(mappings));
    for (uint64_t frame = 0; frame < 3 * FILE_PAGES && code == 0; frame++) {
        bool is_set = false;
        DEMAND(rp_bitmap_test(bitmap, frame, &is_set) == 0 && is_set == wanted[frame]);
    }
    DEMAND(code != 0 || pages == wanted_pages);
    rp_bitmap_destroy(bitmap);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    const struct rp_segment segments[] = {{0, 0, FILE_PAGES / 2},
                                          {3 * FILE_PAGES / 2, FILE_PAGES / 2, FILE_PAGES / 2}};
    struct rp_layout *layout = NULL;
    struct rp_scanner *scanner = NULL;
    struct mappings mappings;
    DEMAND(rp_layout_create(segments, 2, &layout) == 0);
    read_mappings(&input, &mappings);
    DEMAND(rp_scanner_create(PAGEMAP_FD, layout, mappings.each, mappings.count, &scanner) == 0);
    for (int scans = 0; scans < SCANS_MAX && input.left > 0; scans++)
        scan_once(&input, &mappings, scanner);
    check_refusal(&input, layout);
    rp_scanner_destroy(scanner);
    rp_layout_destroy(layout);
    return 0;
}
