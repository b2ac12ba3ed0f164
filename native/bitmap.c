#include "bitmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define WORD_BITS 64
/* A guest has at most 1 TiB, see replicator/limits.py. */
#define BITS_MAX (UINT64_C(1) << 28)

struct rp_bitmap {
    uint64_t bits;
    uint64_t word_count;
    uint64_t words[];
};

int rp_bitmap_create(uint64_t bits, struct rp_bitmap **bitmap_ret)
{
    if (bits > BITS_MAX)
        return -E2BIG;
    uint64_t word_count = (bits + WORD_BITS - 1) / WORD_BITS;
    struct rp_bitmap *bitmap = calloc(1, sizeof(*bitmap) + word_count * sizeof(uint64_t));
    if (bitmap == NULL)
        return -ENOMEM;
    bitmap->bits = bits;
    bitmap->word_count = word_count;
    *bitmap_ret = bitmap;
    return 0;
}

void rp_bitmap_destroy(struct rp_bitmap *bitmap) { free(bitmap); }

uint64_t *rp_bitmap_words(struct rp_bitmap *bitmap) { return bitmap->words; }

uint64_t rp_bitmap_count(const struct rp_bitmap *bitmap)
{
    uint64_t count = 0;
    for (uint64_t word = 0; word < bitmap->word_count; word++)
        count += (uint64_t)__builtin_popcountll(bitmap->words[word]);
    return count;
}

static bool holds_range(const struct rp_bitmap *bitmap, uint64_t first, uint64_t count)
{
    return first <= bitmap->bits && count <= bitmap->bits - first;
}

/* The bits of one word that lie in [first, end). */
static uint64_t range_mask(uint64_t word, uint64_t first, uint64_t end)
{
    uint64_t low = word * WORD_BITS;
    uint64_t mask = UINT64_MAX;
    if (first > low)
        mask &= UINT64_MAX << (first - low);
    if (end - low < WORD_BITS)
        mask &= UINT64_MAX >> (WORD_BITS - (end - low));
    return mask;
}

int rp_bitmap_set_range(struct rp_bitmap *bitmap, uint64_t first, uint64_t count)
{
    if (!holds_range(bitmap, first, count))
        return -ERANGE;
    uint64_t end = first + count;
    for (uint64_t word = first / WORD_BITS; word * WORD_BITS < end; word++)
        bitmap->words[word] |= range_mask(word, first, end);
    return 0;
}

int rp_bitmap_clear_range(struct rp_bitmap *bitmap, uint64_t first, uint64_t count)
{
    if (!holds_range(bitmap, first, count))
        return -ERANGE;
    uint64_t end = first + count;
    for (uint64_t word = first / WORD_BITS; word * WORD_BITS < end; word++)
        bitmap->words[word] &= ~range_mask(word, first, end);
    return 0;
}

int rp_bitmap_set_list(struct rp_bitmap *bitmap, const uint64_t *pfns, uint64_t count)
{
    for (uint64_t i = 0; i < count; i++)
        if (pfns[i] >= bitmap->bits)
            return -ERANGE;
    for (uint64_t i = 0; i < count; i++)
        bitmap->words[pfns[i] / WORD_BITS] |= UINT64_C(1) << (pfns[i] % WORD_BITS);
    return 0;
}

int rp_bitmap_test(const struct rp_bitmap *bitmap, uint64_t pfn, bool *set_ret)
{
    if (pfn >= bitmap->bits)
        return -ERANGE;
    *set_ret = bitmap->words[pfn / WORD_BITS] >> (pfn % WORD_BITS) & 1;
    return 0;
}

int rp_bitmap_merge(struct rp_bitmap *bitmap, const struct rp_bitmap *other)
{
    if (bitmap->bits != other->bits)
        return -EINVAL;
    for (uint64_t word = 0; word < bitmap->word_count; word++)
        bitmap->words[word] |= other->words[word];
    return 0;
}

int rp_bitmap_subtract(struct rp_bitmap *bitmap, const struct rp_bitmap *other)
{
    if (bitmap->bits != other->bits)
        return -EINVAL;
    for (uint64_t word = 0; word < bitmap->word_count; word++)
        bitmap->words[word] &= ~other->words[word];
    return 0;
}

/* The first bit at or after start whose value xor flip is 1; the size when there is none. */
static uint64_t find_bit(const struct rp_bitmap *bitmap, uint64_t start, uint64_t flip)
{
    if (start >= bitmap->bits)
        return bitmap->bits;
    uint64_t word = start / WORD_BITS;
    uint64_t value = (bitmap->words[word] ^ flip) & UINT64_MAX << (start % WORD_BITS);
    while (value == 0) {
        if (++word == bitmap->word_count)
            return bitmap->bits;
        value = bitmap->words[word] ^ flip;
    }
    uint64_t found = word * WORD_BITS + (uint64_t)__builtin_ctzll(value);
    return found < bitmap->bits ? found : bitmap->bits;
}

void rp_bitmap_next_run(const struct rp_bitmap *bitmap, uint64_t start, uint64_t *first_ret,
                        uint64_t *length_ret)
{
    uint64_t first = find_bit(bitmap, start, 0);
    *first_ret = first;
    *length_ret = find_bit(bitmap, first, UINT64_MAX) - first;
}

int rp_bitmap_list(const struct rp_bitmap *bitmap, uint64_t *pfns, uint64_t capacity,
                   uint64_t *count_ret)
{
    if (rp_bitmap_count(bitmap) > capacity)
        return -ENOSPC;
    uint64_t count = 0;
    for (uint64_t word = 0; word < bitmap->word_count; word++)
        for (uint64_t left = bitmap->words[word]; left != 0; left &= left - 1)
            pfns[count++] = word * WORD_BITS + (uint64_t)__builtin_ctzll(left);
    *count_ret = count;
    return 0;
}

int rp_bitmap_read_and_clear(struct rp_bitmap *bitmap, uint64_t *pfns, uint64_t capacity,
                             uint64_t *count_ret)
{
    int code = rp_bitmap_list(bitmap, pfns, capacity, count_ret);
    if (code == 0)
        memset(bitmap->words, 0, bitmap->word_count * sizeof(uint64_t));
    return code;
}

void rp_bitmap_take(struct rp_bitmap *bitmap, uint64_t start, uint64_t *pfns, uint64_t capacity,
                    uint64_t *count_ret)
{
    uint64_t count = 0;
    uint64_t word = start / WORD_BITS;
    uint64_t mask = UINT64_MAX << (start % WORD_BITS);
    for (; word < bitmap->word_count && count < capacity; word++, mask = UINT64_MAX) {
        uint64_t left = bitmap->words[word] & mask;
        for (; left != 0 && count < capacity; left &= left - 1) {
            pfns[count++] = word * WORD_BITS + (uint64_t)__builtin_ctzll(left);
            bitmap->words[word] &= ~(left & -left);
        }
    }
    *count_ret = count;
}
