#include "delta.h"

#include "simd_kernels.h"

#include <errno.h>
#include <string.h>

/* A field of a token with this value is followed by a number. */
#define FIELD_MAX 15
#define SKIP_SHIFT 4
#define MORE 0x80
#define LOW_BITS 0x7f
#define NUMBER_BYTES 2
/* A token with both its numbers. */
#define TOKEN_BYTES_MAX (1 + 2 * NUMBER_BYTES)

/* Bytes [first, end) of a page. */
struct run {
    uint32_t first;
    uint32_t end;
};

/* The first byte from start on whose bit, xor flip, is set. */
static uint32_t find_bit(const uint64_t *masks, uint32_t start, uint64_t flip)
{
    if (start >= RP_PAGE_BYTES)
        return RP_PAGE_BYTES;
    uint32_t at = start / RP_MASK_BYTES;
    uint64_t mask = (masks[at] ^ flip) & UINT64_MAX << (start % RP_MASK_BYTES);
    while (mask == 0) {
        if (++at == RP_MASKS)
            return RP_PAGE_BYTES;
        mask = masks[at] ^ flip;
    }
    return at * RP_MASK_BYTES + (uint32_t)__builtin_ctzll(mask);
}

/* One equal byte between two runs costs as much as another token: then it is one run. */
static struct run next_run(const uint64_t *masks, uint32_t start)
{
    struct run run = {.first = find_bit(masks, start, 0)};
    uint32_t next = run.first;
    do {
        run.end = find_bit(masks, next, UINT64_MAX);
        next = find_bit(masks, run.end, 0);
    } while (next == run.end + 1 && next < RP_PAGE_BYTES);
    return run;
}

static uint8_t field_of(uint32_t value) { return value < FIELD_MAX ? (uint8_t)value : FIELD_MAX; }

static uint8_t *put_beyond(uint8_t *at, uint32_t value)
{
    if (value < FIELD_MAX)
        return at;
    value -= FIELD_MAX;
    for (; value > LOW_BITS; value >>= 7)
        *at++ = (uint8_t)(value | MORE);
    *at++ = (uint8_t)value;
    return at;
}

static uint8_t *put_run(uint8_t *at, uint32_t skip, const uint8_t *bytes, uint32_t length)
{
    *at++ = (uint8_t)(field_of(skip) << SKIP_SHIFT | field_of(length - 1));
    at = put_beyond(at, skip);
    at = put_beyond(at, length - 1);
    memcpy(at, bytes, length);
    return at + length;
}

uint32_t rp_delta_encode(const uint8_t *page, const uint64_t *masks, uint8_t *delta, uint32_t room)
{
    uint32_t used = 0, done = 0;
    for (;;) {
        struct run run = next_run(masks, done);
        if (run.first == RP_PAGE_BYTES)
            return used;
        uint32_t length = run.end - run.first;
        if (room - used < TOKEN_BYTES_MAX + length)
            return 0;
        used =
            (uint32_t)(put_run(delta + used, run.first - done, page + run.first, length) - delta);
        done = run.end;
    }
}

struct reader {
    const uint8_t *at;
    const uint8_t *end;
};

/* Adds what is beyond a full field. -EBADMSG when the number is cut or too long. */
static int read_beyond(struct reader *reader, uint32_t *value)
{
    if (*value < FIELD_MAX)
        return 0;
    for (unsigned int i = 0; i < NUMBER_BYTES; i++) {
        if (reader->at == reader->end)
            return -EBADMSG;
        uint8_t byte = *reader->at++;
        *value += (uint32_t)(byte & LOW_BITS) << (7 * i);
        if (!(byte & MORE))
            return 0;
    }
    return -EBADMSG;
}

/* Puts one run into the page; *done becomes its end. */
static int apply_run(struct reader *reader, uint8_t *page, uint32_t *done)
{
    uint8_t token = *reader->at++;
    uint32_t skip = token >> SKIP_SHIFT, beyond_one = token & FIELD_MAX;
    if (read_beyond(reader, &skip) != 0 || read_beyond(reader, &beyond_one) != 0)
        return -EBADMSG;
    uint32_t first = *done + skip, length = beyond_one + 1;
    if (first >= RP_PAGE_BYTES || length > RP_PAGE_BYTES - first ||
        length > reader->end - reader->at)
        return -EBADMSG;
    memcpy(page + first, reader->at, length);
    reader->at += length;
    *done = first + length;
    return 0;
}

int rp_delta_apply(const uint8_t *delta, uint32_t bytes, uint8_t *page)
{
    struct reader reader = {delta, delta + bytes};
    uint32_t done = 0;
    int code = 0;
    while (reader.at < reader.end && code == 0)
        code = apply_run(&reader, page, &done);
    return code;
}
