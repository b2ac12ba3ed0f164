#include "uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE_BYTES UINT64_C(4096)
#define REGIONS 1024
#define MAPPINGS_MAX (1 << 20)

/* Newer than the headers of Debian 12; numbers from the kernel's userfaultfd and pagemap ABI. */
#define FEATURE_WP_HUGETLBFS_SHMEM (UINT64_C(1) << 12)
#define FEATURE_WP_UNPOPULATED (UINT64_C(1) << 13)
#define FEATURE_WP_ASYNC (UINT64_C(1) << 15)

#define SCAN_WP_MATCHING (UINT64_C(1) << 0)
#define SCAN_CHECK_WPASYNC (UINT64_C(1) << 1)
#define CATEGORY_WRITTEN (UINT64_C(1) << 1)

struct page_region {
    uint64_t start;
    uint64_t end;
    uint64_t categories;
};

struct scan_argument {
    uint64_t size;
    uint64_t flags;
    uint64_t start;
    uint64_t end;
    uint64_t walk_end;
    uint64_t vec;
    uint64_t vec_len;
    uint64_t max_pages;
    uint64_t category_inverted;
    uint64_t category_mask;
    uint64_t category_anyof_mask;
    uint64_t return_mask;
};

#define SCAN_IOCTL _IOWR('f', 16, struct scan_argument)

struct rp_scanner {
    int pagemap_fd;
    const struct rp_layout *layout;
    struct page_region regions[REGIONS];
    uint64_t count;
    struct rp_mapping mappings[];
};

int rp_uffd_open(int *uffd_ret)
{
    long uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (uffd < 0 && errno == EPERM)
        uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
    if (uffd < 0)
        return -errno;
    *uffd_ret = (int)uffd;
    return 0;
}

int rp_uffd_enable(int uffd)
{
    struct uffdio_api api = {.api = UFFD_API};
    api.features = FEATURE_WP_HUGETLBFS_SHMEM | FEATURE_WP_UNPOPULATED | FEATURE_WP_ASYNC;
    return ioctl(uffd, UFFDIO_API, &api) == 0 ? 0 : -errno;
}

/* Its arithmetic cannot wrap around, neither in addresses nor in file pages. */
static bool is_sane(const struct rp_mapping *mapping)
{
    return mapping->address % PAGE_BYTES == 0 && mapping->pages > 0 &&
           mapping->pages <= (UINT64_MAX - mapping->address) / PAGE_BYTES &&
           mapping->pages <= UINT64_MAX - mapping->file_page;
}

int rp_uffd_register(int uffd, const struct rp_mapping *mapping)
{
    if (!is_sane(mapping))
        return -EINVAL;
    struct uffdio_register request = {.mode = UFFDIO_REGISTER_MODE_WP};
    request.range.start = mapping->address;
    request.range.len = mapping->pages * PAGE_BYTES;
    return ioctl(uffd, UFFDIO_REGISTER, &request) == 0 ? 0 : -errno;
}

int rp_scanner_create(int pagemap_fd, const struct rp_layout *layout,
                      const struct rp_mapping *mappings, uint64_t count,
                      struct rp_scanner **scanner_ret)
{
    if (count > MAPPINGS_MAX)
        return -E2BIG;
    for (uint64_t i = 0; i < count; i++)
        if (!is_sane(&mappings[i]))
            return -EINVAL;
    struct rp_scanner *scanner = calloc(1, sizeof(*scanner) + count * sizeof(*mappings));
    if (scanner == NULL)
        return -ENOMEM;
    scanner->pagemap_fd = pagemap_fd;
    scanner->layout = layout;
    scanner->count = count;
    memcpy(scanner->mappings, mappings, count * sizeof(*mappings));
    *scanner_ret = scanner;
    return 0;
}

void rp_scanner_destroy(struct rp_scanner *scanner) { free(scanner); }

static int mark_regions(const struct rp_scanner *scanner, const struct rp_mapping *mapping,
                        uint64_t regions, struct rp_bitmap *bitmap, uint64_t *pages)
{
    for (uint64_t i = 0; i < regions; i++) {
        const struct page_region *region = &scanner->regions[i];
        uint64_t file_page = mapping->file_page + (region->start - mapping->address) / PAGE_BYTES;
        uint64_t found = (region->end - region->start) / PAGE_BYTES;
        int code = rp_layout_mark(scanner->layout, file_page, found, bitmap);
        if (code != 0)
            return code;
        *pages += found;
    }
    return 0;
}

static int scan_mapping(struct rp_scanner *scanner, const struct rp_mapping *mapping,
                        struct rp_bitmap *bitmap, uint64_t *pages)
{
    struct scan_argument scan = {.size = sizeof(scan), .vec_len = REGIONS};
    scan.flags = SCAN_WP_MATCHING | SCAN_CHECK_WPASYNC;
    scan.category_mask = CATEGORY_WRITTEN;
    scan.return_mask = CATEGORY_WRITTEN;
    scan.vec = (uintptr_t)scanner->regions;
    scan.start = mapping->address;
    scan.end = mapping->address + mapping->pages * PAGE_BYTES;
    while (scan.start < scan.end) {
        int regions = ioctl(scanner->pagemap_fd, SCAN_IOCTL, &scan);
        if (regions < 0)
            return -errno;
        int code = mark_regions(scanner, mapping, (uint64_t)regions, bitmap, pages);
        if (code != 0)
            return code;
        /* A walk that gets nowhere would never end. */
        if (scan.walk_end <= scan.start)
            return -EIO;
        scan.start = scan.walk_end;
    }
    return 0;
}

/* A process that has ended has no pages, so that a scan finds none written and no kernel need say
 * more; reading its page map ends at once. What was scanned before this was scanned in a process
 * that lived. */
static int check_alive(const struct rp_scanner *scanner)
{
    uint64_t entry;
    if (scanner->count == 0)
        return 0;
    off_t offset = (off_t)(scanner->mappings[0].address / PAGE_BYTES * sizeof(entry));
    ssize_t size = pread(scanner->pagemap_fd, &entry, sizeof(entry), offset);
    if (size < 0)
        return -errno;
    return size == 0 ? -ESRCH : 0;
}

int rp_scanner_scan(struct rp_scanner *scanner, struct rp_bitmap *bitmap, uint64_t *pages_ret)
{
    uint64_t pages = 0;
    for (uint64_t i = 0; i < scanner->count; i++) {
        int code = scan_mapping(scanner, &scanner->mappings[i], bitmap, &pages);
        if (code != 0)
            return code;
    }
    *pages_ret = pages;
    return check_alive(scanner);
}
