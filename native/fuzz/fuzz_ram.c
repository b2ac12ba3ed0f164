/* A guest's RAM file and lists of frames that came from elsewhere: pages go to and from the right
 * places, a list with a frame that is no RAM moves nothing, zeros are told from other pages, what
 * the file does not hold is zeros, and shadow and fingerprints find what changed.
 *
 * Input: u8 gap between the two halves of the RAM, u8 pages of each, then rounds: u8 which pages of
 * the file change and how, u8 length of the list, the list. */
#define _GNU_SOURCE
#include "../prints.h"
#include "../ram.h"
#include "../shadow.h"
#include "../sparse.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define HALF_MAX 8
#define GAP_MAX 8
#define FRAMES_MAX (2 * HALF_MAX + GAP_MAX)
#define LIST_MAX 24
#define ROUNDS_MAX 8
#define FILLER 0xee

struct guest {
    struct rp_layout *layout;
    struct rp_ram *ram;
    struct rp_shadow *shadow;
    struct rp_prints *prints;
    int fd;
    uint64_t half;
    uint64_t gap;
    /* What its file holds, and what it held at the last scan. */
    uint8_t file[2 * HALF_MAX * PAGE];
    uint8_t seen[2 * HALF_MAX * PAGE];
};

static struct guest guest;

/* The file page of a frame; -1 when it is no RAM. */
static int64_t place(uint64_t frame)
{
    if (frame < guest.half)
        return (int64_t)frame;
    uint64_t second = guest.half + guest.gap;
    return frame >= second && frame - second < guest.half ? (int64_t)(frame - guest.gap) : -1;
}

static void make_guest(struct fuzz_input *input)
{
    memset(&guest, 0, sizeof(guest));
    guest.gap = fuzz_take(input, 1) % (GAP_MAX + 1);
    guest.half = fuzz_take(input, 1) % HALF_MAX + 1;
    const struct rp_segment segments[] = {{0, 0, guest.half},
                                          {guest.half + guest.gap, guest.half, guest.half}};
    DEMAND(rp_layout_create(segments, 2, &guest.layout) == 0);
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    DEMAND(fd >= 0);
    DEMAND(ftruncate(fd, (off_t)(2 * guest.half * PAGE - 1)) == 0);
    DEMAND(rp_ram_create(fd, guest.layout, true, &guest.ram) == -EINVAL);
    DEMAND(ftruncate(fd, (off_t)(2 * guest.half * PAGE)) == 0);
    DEMAND(rp_ram_create(fd, guest.layout, true, &guest.ram) == 0);
    guest.fd = fd;
    DEMAND(rp_ram_layout(guest.ram) == guest.layout);
    DEMAND(rp_shadow_create(guest.ram, &guest.shadow) == 0);
    DEMAND(rp_prints_create(guest.ram, &guest.prints) == 0);
}

static void end_guest(void)
{
    rp_prints_destroy(guest.prints);
    rp_shadow_destroy(guest.shadow);
    rp_ram_destroy(guest.ram);
    close(guest.fd);
    rp_layout_destroy(guest.layout);
}

/* One byte of one page becomes another, as a running guest would have it. */
static void change_page(struct fuzz_input *input)
{
    uint64_t page = fuzz_take(input, 1) % (2 * guest.half);
    uint64_t at = page * PAGE + fuzz_take(input, 2) % PAGE;
    uint8_t value = (uint8_t)fuzz_take(input, 1);
    rp_ram_base(guest.ram)[at] = value;
    guest.file[at] = value;
}

static bool is_zero(const uint8_t *page) { return fuzz_is_filled(page, PAGE, 0); }

struct list {
    uint64_t *frames;
    uint64_t count;
    /* Index of the first frame that is no RAM; count if all are. */
    uint64_t bad;
};

static struct list read_list(struct fuzz_input *input)
{
    struct list list = {.count = fuzz_take(input, 1) % LIST_MAX};
    list.frames = fuzz_room(list.count * 8, 0);
    list.bad = list.count;
    for (uint64_t i = 0; i < list.count; i++) {
        uint64_t number = fuzz_take(input, 1);
        list.frames[i] = number >= 0xf8 ? number - 0x100 : number % FRAMES_MAX;
        if (list.bad == list.count && place(list.frames[i]) < 0)
            list.bad = i;
    }
    return list;
}

static void check_check(const struct list *list)
{
    uint64_t bad = list->count;
    int code = rp_ram_check(guest.ram, list->frames, list->count, &bad);
    DEMAND(code == (list->bad < list->count ? -ERANGE : 0));
    DEMAND(bad == list->bad);
    for (uint64_t i = 0; i < list->count; i++) {
        int64_t page = place(list->frames[i]);
        const uint8_t *wanted = page < 0 ? NULL : rp_ram_base(guest.ram) + page * PAGE;
        DEMAND(rp_ram_page(guest.ram, list->frames[i]) == wanted);
    }
}

static void check_gather(const struct list *list)
{
    uint8_t *body = fuzz_room(list->count * PAGE, FILLER);
    uint8_t *mask = fuzz_room(list->count, FILLER);
    uint8_t *body_mask = fuzz_room(list->count, FILLER);
    int wanted = list->bad < list->count ? -ERANGE : 0;
    DEMAND(rp_ram_gather(guest.ram, list->frames, list->count, body) == wanted);
    DEMAND(rp_ram_zero_mask(guest.ram, list->frames, list->count, mask) == wanted);
    rp_zero_mask(body, list->count, body_mask);
    if (wanted != 0) {
        DEMAND(fuzz_is_filled(body, list->count * PAGE, FILLER));
        DEMAND(fuzz_is_filled(mask, list->count, FILLER));
    }
    for (uint64_t i = 0; i < list->count && wanted == 0; i++) {
        const uint8_t *page = guest.file + place(list->frames[i]) * PAGE;
        DEMAND(memcmp(body + i * PAGE, page, PAGE) == 0);
        DEMAND(mask[i] == (is_zero(page) ? 1 : 0) && body_mask[i] == mask[i]);
    }
    free(body_mask);
    free(mask);
    free(body);
}

/* To be destroyed by the caller. */
static struct rp_bitmap *find_absent(void)
{
    struct rp_bitmap *absent = NULL;
    DEMAND(rp_bitmap_create(rp_layout_pfn_limit(guest.layout), &absent) == 0);
    DEMAND(rp_ram_find_absent(guest.ram, guest.fd, absent) == 0);
    for (uint64_t frame = 0; frame < rp_layout_pfn_limit(guest.layout); frame++) {
        bool is_set = false;
        DEMAND(rp_bitmap_test(absent, frame, &is_set) == 0);
        DEMAND(!is_set || (place(frame) >= 0 && is_zero(guest.file + place(frame) * PAGE)));
    }
    return absent;
}

static void check_gather_present(const struct list *list)
{
    struct rp_bitmap *absent = find_absent();
    uint8_t *body = fuzz_room(list->count * PAGE, FILLER);
    int wanted = list->bad < list->count ? -ERANGE : 0;
    DEMAND(rp_ram_gather_present(guest.ram, list->frames, list->count, absent, body) == wanted);
    DEMAND(wanted == 0 || fuzz_is_filled(body, list->count * PAGE, FILLER));
    for (uint64_t i = 0; i < list->count && wanted == 0; i++)
        DEMAND(memcmp(body + i * PAGE, guest.file + place(list->frames[i]) * PAGE, PAGE) == 0);
    free(body);
    rp_bitmap_destroy(absent);
}

/* By copying or, with seeds of 192 and more, by filling. Every third page is zeros. */
static void check_scatter(const struct list *list, uint8_t seed)
{
    uint8_t *body = fuzz_room(list->count * PAGE, seed);
    for (uint64_t i = 0; i < list->count; i++) {
        if (i % 3 == 2)
            memset(body + i * PAGE, 0, PAGE);
        else
            body[i * PAGE + (seed + i) % PAGE] = (uint8_t)i;
    }
    int code = seed < 192 ? rp_ram_scatter(guest.ram, list->frames, list->count, body)
                          : rp_ram_fill(guest.ram, guest.fd, list->frames, list->count, body);
    DEMAND(code == (list->bad < list->count ? -ERANGE : 0));
    for (uint64_t i = 0; i < list->count && code == 0; i++)
        memcpy(guest.file + place(list->frames[i]) * PAGE, body + i * PAGE, PAGE);
    free(body);
}

/* They find the same where the RAM is, and nothing can be looked at elsewhere. */
static void check_prints(const struct rp_bitmap *wanted, uint64_t wanted_pages)
{
    uint64_t limit = rp_layout_pfn_limit(guest.layout), pages = 0;
    struct rp_bitmap *where = NULL, *changed = NULL;
    DEMAND(rp_bitmap_create(limit, &where) == 0 && rp_bitmap_create(limit, &changed) == 0);
    DEMAND(rp_layout_mark(guest.layout, 0, 2 * guest.half, where) == 0);
    DEMAND(rp_prints_scan(guest.prints, where, changed, &pages) == 0 && pages == wanted_pages);
    DEMAND(rp_bitmap_subtract(changed, wanted) == 0 && rp_bitmap_count(changed) == 0);
    if (guest.gap > 0) {
        DEMAND(rp_bitmap_set_range(where, guest.half, 1) == 0);
        DEMAND(rp_prints_scan(guest.prints, where, changed, &pages) == -ERANGE);
    }
    rp_bitmap_destroy(where);
    rp_bitmap_destroy(changed);
}

/* What the frames hold now is no change to the fingerprints any more. */
static void renew_prints(const struct rp_bitmap *where)
{
    struct rp_bitmap *changed = NULL;
    uint64_t pages = 0;
    DEMAND(rp_bitmap_create(rp_layout_pfn_limit(guest.layout), &changed) == 0);
    DEMAND(rp_prints_scan(guest.prints, where, changed, &pages) == 0);
    DEMAND(pages == rp_bitmap_count(changed));
    rp_bitmap_destroy(changed);
}

static void check_file_and_scan(void)
{
    size_t bytes = 2 * guest.half * PAGE;
    DEMAND(memcmp(rp_ram_base(guest.ram), guest.file, bytes) == 0);
    struct rp_bitmap *bitmap = NULL;
    uint64_t pages = 0, wanted = 0;
    DEMAND(rp_bitmap_create(rp_layout_pfn_limit(guest.layout), &bitmap) == 0);
    /* What was absorbed is no change any more. */
    DEMAND(rp_bitmap_set_range(bitmap, 0, 1) == 0);
    DEMAND(rp_shadow_absorb(guest.shadow, bitmap) == 0);
    renew_prints(bitmap);
    memcpy(guest.seen, guest.file, PAGE);
    DEMAND(rp_bitmap_clear_range(bitmap, 0, 1) == 0);
    /* In two parts. */
    uint64_t more = 0;
    DEMAND(rp_shadow_scan(guest.shadow, 0, guest.half, bitmap, &pages) == 0);
    DEMAND(rp_shadow_scan(guest.shadow, guest.half, guest.half, bitmap, &more) == 0);
    DEMAND(rp_shadow_scan(guest.shadow, guest.half, guest.half + 1, bitmap, &more) == -ERANGE);
    pages += more;
    for (uint64_t frame = 0; frame < rp_layout_pfn_limit(guest.layout); frame++) {
        int64_t page = place(frame);
        bool is_set = false;
        bool changed =
            page >= 0 && memcmp(guest.file + page * PAGE, guest.seen + page * PAGE, PAGE) != 0;
        DEMAND(rp_bitmap_test(bitmap, frame, &is_set) == 0 && is_set == changed);
        wanted += changed;
    }
    DEMAND(pages == wanted);
    check_prints(bitmap, pages);
    memcpy(guest.seen, guest.file, bytes);
    rp_bitmap_destroy(bitmap);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    make_guest(&input);
    for (int rounds = 0; rounds < ROUNDS_MAX && input.left > 0; rounds++) {
        uint8_t how = (uint8_t)fuzz_take(&input, 1);
        for (int changes = how % 4; changes > 0; changes--)
            change_page(&input);
        struct list list = read_list(&input);
        check_check(&list);
        check_gather_present(&list);
        check_gather(&list);
        if (how >= 128)
            check_scatter(&list, how);
        check_file_and_scan();
        free(list.frames);
    }
    end_guest();
    return 0;
}
