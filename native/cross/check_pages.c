/* What the native core does with pages, against plain loops, as a program without Python: so it
 * also runs for processors that this machine only emulates. Prints what does not hold and ends
 * with 1, or the levels of vectors that were tried. */
#define _GNU_SOURCE
#include "../bases.h"
#include "../delta.h"
#include "../layout.h"
#include "../ram.h"
#include "../simd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define MASKS (PAGE / 64)
#define ROUNDS 200
#define HALF 8
#define GAP 3

static void demand(bool holds, const char *what, int line)
{
    if (holds)
        return;
    printf("level %d, line %d: does not hold: %s\n", rp_simd_level(), line, what);
    exit(1);
}

#define DEMAND(holds) demand(holds, #holds, __LINE__)

/* The same numbers each time. */
static uint32_t draw(uint32_t below)
{
    static uint64_t state = 88172645463325252;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 32) % below;
}

static void fill(uint8_t *page)
{
    for (int at = 0; at < PAGE; at++)
        page[at] = (uint8_t)draw(256);
}

static void change_run(uint8_t *page)
{
    uint32_t first = draw(PAGE), length = 1 + draw(draw(4) == 0 ? PAGE : 20);
    for (uint32_t at = first; at < first + length && at < PAGE; at++)
        page[at] ^= (uint8_t)(1 + draw(255));
}

static void check_zero(void)
{
    static uint8_t page[PAGE];
    DEMAND(rp_page_is_zero(page));
    for (int at = 0; at < PAGE; at++) {
        page[at] = (uint8_t)(1 << at % 8);
        DEMAND(!rp_page_is_zero(page));
        page[at] = 0;
    }
}

static void check_diff(const uint8_t *page, const uint8_t *base, uint64_t *masks)
{
    memset(masks, 0xee, MASKS * sizeof(*masks));
    DEMAND(rp_page_diff(page, base, masks) == (memcmp(page, base, PAGE) != 0));
    for (int at = 0; at < PAGE; at++)
        DEMAND((masks[at / 64] >> at % 64 & 1) == (page[at] != base[at]));
}

static void check_changes(void)
{
    static uint8_t room[PAGE + 1], base[PAGE], made[PAGE], delta[PAGE];
    for (int round = 0; round < ROUNDS; round++) {
        uint8_t *page = room + round % 2;
        uint64_t masks[MASKS];
        fill(base);
        memcpy(page, base, PAGE);
        for (uint32_t runs = draw(9); runs > 0; runs--)
            change_run(page);
        check_diff(page, base, masks);
        uint32_t bytes = rp_delta_encode(page, masks, delta, PAGE - 1);
        if (bytes == 0)
            continue;
        memcpy(made, base, PAGE);
        DEMAND(rp_delta_apply(delta, bytes, made) == 0);
        DEMAND(memcmp(made, page, PAGE) == 0);
    }
}

static void check_gather(void)
{
    const struct rp_segment segments[] = {{0, 0, HALF}, {HALF + GAP, HALF, HALF}};
    struct rp_layout *layout;
    struct rp_ram *ram;
    int fd = memfd_create("check", 0);
    DEMAND(fd >= 0 && ftruncate(fd, 2 * HALF * PAGE) == 0);
    DEMAND(rp_layout_create(segments, 2, &layout) == 0);
    DEMAND(rp_ram_create(fd, layout, true, &ram) == 0);
    for (int page = 0; page < 2 * HALF; page++)
        fill(rp_ram_base(ram) + page * PAGE);
    static uint8_t body[2 * HALF * PAGE];
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t frames[2 * HALF], count = draw(2 * HALF);
        for (uint64_t i = 0; i < count; i++) {
            uint64_t page = i > 0 && draw(2) ? (frames[i - 1] + 1) % HALF : draw(2 * HALF);
            frames[i] = page < HALF ? page : page + GAP;
        }
        DEMAND(rp_ram_gather(ram, frames, count, body) == 0);
        for (uint64_t i = 0; i < count; i++)
            DEMAND(memcmp(body + i * PAGE, rp_ram_page(ram, frames[i]), PAGE) == 0);
    }
    rp_ram_destroy(ram);
    rp_layout_destroy(layout);
    close(fd);
}

static void check_bases(void)
{
    static uint8_t page[PAGE];
    struct rp_bases *bases;
    DEMAND(rp_bases_create(4, 64, &bases) == 0);
    for (uint64_t frame = 0; frame < 64; frame++) {
        fill(page);
        DEMAND(rp_bases_update(bases, &frame, 1, page) == 0);
        DEMAND(memcmp(rp_bases_find(bases, frame), page, PAGE) == 0);
        DEMAND(frame < 4 || rp_bases_find(bases, frame - 4) == NULL);
    }
    rp_bases_destroy(bases);
}

int main(void)
{
    for (int level = 0; level < 32; level++) {
        if (rp_simd_force(level) != 0)
            continue;
        DEMAND(rp_simd_level() == level);
        check_zero();
        check_changes();
    }
    check_gather();
    check_bases();
    printf("levels %#x hold\n", rp_simd_levels());
    return 0;
}
