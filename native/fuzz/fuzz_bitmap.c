/* Bitmaps of frames: any order of calls leaves what an array of bools would hold, and whatever does
 * not fit is refused whole.
 *
 * Input: u16 bits, then calls: u8 which one, and its numbers. */
#include "../bitmap.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BITS_MAX 600
#define CALLS_MAX 64
#define LIST_MAX 24
#define FILLER 0xee

struct pair {
    struct rp_bitmap *bitmap;
    bool wanted[BITS_MAX];
    uint64_t bits;
};

static uint64_t take_number(struct fuzz_input *input)
{
    uint64_t number = fuzz_take(input, 2);
    /* Around the highest number as well. */
    return number >= 0xfe00 ? number - 0x10000 : number % (BITS_MAX + 40);
}

static uint64_t count_wanted(const struct pair *pair)
{
    uint64_t count = 0;
    for (uint64_t bit = 0; bit < pair->bits; bit++)
        count += pair->wanted[bit];
    return count;
}

static uint64_t next_wanted(const struct pair *pair, uint64_t start, bool value)
{
    while (start < pair->bits && pair->wanted[start] != value)
        start++;
    return start < pair->bits ? start : pair->bits;
}

static void check_all(const struct pair *pair)
{
    DEMAND(rp_bitmap_count(pair->bitmap) == count_wanted(pair));
    const uint64_t *words = rp_bitmap_words(pair->bitmap);
    for (uint64_t bit = 0; bit < (pair->bits + 63) / 64 * 64; bit++) {
        bool is_set = false;
        bool wanted = bit < pair->bits && pair->wanted[bit];
        DEMAND((words[bit / 64] >> (bit % 64) & 1) == wanted);
        DEMAND(rp_bitmap_test(pair->bitmap, bit, &is_set) == (bit < pair->bits ? 0 : -ERANGE));
        DEMAND(is_set == wanted);
    }
}

static void call_range(struct pair *pair, uint64_t first, uint64_t count, bool value)
{
    bool fits = (unsigned __int128)first + count <= pair->bits;
    int code = value ? rp_bitmap_set_range(pair->bitmap, first, count)
                     : rp_bitmap_clear_range(pair->bitmap, first, count);
    DEMAND(code == (fits ? 0 : -ERANGE));
    for (uint64_t bit = first; fits && bit < first + count; bit++)
        pair->wanted[bit] = value;
}

static void call_set_list(struct pair *pair, struct fuzz_input *input)
{
    uint64_t count = fuzz_take(input, 1) % LIST_MAX;
    uint64_t *list = fuzz_room(count * 8, 0);
    bool fits = true;
    for (uint64_t i = 0; i < count; i++) {
        list[i] = take_number(input);
        fits &= list[i] < pair->bits;
    }
    DEMAND(rp_bitmap_set_list(pair->bitmap, list, count) == (fits ? 0 : -ERANGE));
    for (uint64_t i = 0; fits && i < count; i++)
        pair->wanted[list[i]] = true;
    free(list);
}

static void call_next_run(const struct pair *pair, uint64_t start)
{
    uint64_t first = 0, length = 0;
    rp_bitmap_next_run(pair->bitmap, start, &first, &length);
    uint64_t wanted = next_wanted(pair, start, true);
    DEMAND(first == wanted);
    DEMAND(length == next_wanted(pair, wanted, false) - wanted);
}

/* With or without clearing; only as many as there is room for. */
static void call_list(struct pair *pair, uint64_t room, bool clears)
{
    uint64_t *list = fuzz_room(room * 8, FILLER);
    uint64_t count = 0, wanted = count_wanted(pair), at = 0;
    int code = clears ? rp_bitmap_read_and_clear(pair->bitmap, list, room, &count)
                      : rp_bitmap_list(pair->bitmap, list, room, &count);
    DEMAND(code == (wanted <= room ? 0 : -ENOSPC));
    DEMAND(code != 0 || count == wanted);
    for (uint64_t bit = 0; bit < pair->bits && code == 0; bit++)
        if (pair->wanted[bit]) {
            DEMAND(list[at++] == bit);
            pair->wanted[bit] = !clears;
        }
    DEMAND(fuzz_is_filled(list + at, (room - at) * 8, FILLER));
    free(list);
}

static void call_take(struct pair *pair, uint64_t start, uint64_t room)
{
    uint64_t *list = fuzz_room(room * 8, FILLER);
    uint64_t count = UINT64_MAX, at = 0;
    rp_bitmap_take(pair->bitmap, start, list, room, &count);
    for (uint64_t bit = start; bit < pair->bits && at < room; bit++)
        if (pair->wanted[bit]) {
            DEMAND(list[at++] == bit);
            pair->wanted[bit] = false;
        }
    DEMAND(count == at);
    DEMAND(fuzz_is_filled(list + at, (room - at) * 8, FILLER));
    free(list);
}

static void call_with_other(struct pair *pair, const struct pair *other, bool merges)
{
    int code = merges ? rp_bitmap_merge(pair->bitmap, other->bitmap)
                      : rp_bitmap_subtract(pair->bitmap, other->bitmap);
    DEMAND(code == (pair->bits == other->bits ? 0 : -EINVAL));
    for (uint64_t bit = 0; bit < pair->bits && code == 0; bit++)
        if (other->wanted[bit])
            pair->wanted[bit] = merges;
}

static void call(struct pair *pair, const struct pair *other, struct fuzz_input *input)
{
    switch (fuzz_take(input, 1) % 10) {
    case 0:
    case 1: {
        uint64_t first = take_number(input);
        call_range(pair, first, take_number(input), true);
        break;
    }
    case 2: {
        uint64_t first = take_number(input);
        call_range(pair, first, take_number(input), false);
        break;
    }
    case 3:
        call_set_list(pair, input);
        break;
    case 4:
        call_next_run(pair, take_number(input));
        break;
    case 5:
        call_list(pair, take_number(input) % (BITS_MAX + 1), false);
        break;
    case 6:
        call_list(pair, take_number(input) % (BITS_MAX + 1), true);
        break;
    case 7: {
        uint64_t start = take_number(input);
        call_take(pair, start, take_number(input) % (BITS_MAX + 1));
        break;
    }
    default:
        call_with_other(pair, other, fuzz_take(input, 1) % 2 != 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    static struct pair pairs[3];
    memset(pairs, 0, sizeof(pairs));
    uint64_t bits = fuzz_take(&input, 2) % BITS_MAX;
    for (int i = 0; i < 3; i++) {
        /* Two of one size, and one of another. */
        pairs[i].bits = i < 2 ? bits : bits + 1;
        DEMAND(rp_bitmap_create(pairs[i].bits, &pairs[i].bitmap) == 0);
    }
    for (int calls = 0; calls < CALLS_MAX && input.left > 0; calls++) {
        uint64_t which = fuzz_take(&input, 1);
        struct pair *pair = &pairs[which % 3];
        call(pair, &pairs[which / 3 % 3], &input);
        check_all(pair);
    }
    for (int i = 0; i < 3; i++)
        rp_bitmap_destroy(pairs[i].bitmap);
    return 0;
}
