#ifndef RP_UFFD_H
#define RP_UFFD_H
#include "bitmap.h"
#include "layout.h"

#include <stdint.h>

/* Where a tracked process has a part of the RAM file mapped. */
struct rp_mapping {
    uint64_t address;
    uint64_t file_page;
    uint64_t pages;
};

/* Asks the kernel, through /proc/PID/pagemap, which pages of another process were written. */
struct rp_scanner;

/* A userfaultfd of our own process (for RAM that we write ourselves). */
int rp_uffd_open(int *uffd_ret);
/* Turn on asynchronous write protection. Once a userfaultfd. -EINVAL: the kernel is too old. */
int rp_uffd_enable(int uffd);
/* -EINVAL also for a mapping that is empty, not on a page, or wraps around. */
int rp_uffd_register(int uffd, const struct rp_mapping *mapping);

/* The fd must stay open and the layout alive; the mappings are copied. -EINVAL as above, -E2BIG for
 * too many. */
int rp_scanner_create(int pagemap_fd, const struct rp_layout *layout,
                      const struct rp_mapping *mappings, uint64_t count,
                      struct rp_scanner **scanner_ret);
void rp_scanner_destroy(struct rp_scanner *scanner);

/* Set the frames written since the last scan and protect them again, page by page atomically. After
 * an error part of the writes may be lost: the caller must take every page for dirty.
 *
 * Copy pages only after the return. The kernel protects a page and reports it under one lock, but
 * another CPU may still write to it through its old TLB entry until the flush, which is done before
 * the call returns: such a write is in this report, not in the next. */
int rp_scanner_scan(struct rp_scanner *scanner, struct rp_bitmap *bitmap, uint64_t *pages_ret);

#endif
