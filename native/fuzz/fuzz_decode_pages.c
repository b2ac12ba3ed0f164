/* Encoded pages of somebody else's making: each is decoded as plain loops do it, or refused with
 * the same words; and what was decoded is encoded and decoded to the same again, at every level of
 * vectors.
 *
 * Input: u8 how, u8 pages, their frames, then the body: its bytes as they are, or (HOW_FITTING) of
 * each page u8 method, u16 length and so much data, of which the driver makes a table that fits. */
#define _GNU_SOURCE
#include "../bases.h"
#include "../decode.h"
#include "../encode.h"
#include "../layout.h"
#include "../ram.h"
#include "../simd.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES_MAX 6
#define HALF 4
#define GAP 4
#define FRAMES (2 * HALF + GAP)
#define HOW_FITTING 1
#define HOW_NO_BASES 2
#define FILLER 0xee
#define BODY_MAX (4 + PAGES_MAX * (2 + 8191))

enum { ZERO, SAME, DELTA, LZ4, RAW };

/* The RAM of all inputs: nobody may write it. */
static struct rp_ram *ram;
static struct rp_layout *layout;
static uint8_t file[2 * HALF * PAGE];

static void make_ram(void)
{
    const struct rp_segment segments[] = {{0, 0, HALF}, {HALF + GAP, HALF, HALF}};
    DEMAND(rp_layout_create(segments, 2, &layout) == 0);
    for (size_t at = 0; at < sizeof(file); at++)
        file[at] = at % 3 == 0 ? (uint8_t)(at / PAGE) : (uint8_t)(at * at >> 5);
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    DEMAND(fd >= 0 && write(fd, file, sizeof(file)) == (ssize_t)sizeof(file));
    DEMAND(rp_ram_create(fd, layout, false, &ram) == 0);
    close(fd);
}

/* NULL for a frame that is no RAM. */
static const uint8_t *base_of(uint64_t frame)
{
    if (frame < HALF)
        return file + frame * PAGE;
    return frame >= HALF + GAP && frame < FRAMES ? file + (frame - GAP) * PAGE : NULL;
}

struct body {
    uint64_t frames[PAGES_MAX];
    uint64_t count;
    uint8_t bytes[BODY_MAX];
    size_t size;
};

static void put16(struct body *body, size_t at, unsigned int value)
{
    body->bytes[at] = (uint8_t)value;
    body->bytes[at + 1] = (uint8_t)(value >> 8);
}

static void take_bytes(struct fuzz_input *input, struct body *body, size_t most)
{
    size_t bytes = input->left < most ? input->left : most;
    memcpy(body->bytes + body->size, input->data, bytes);
    input->data += bytes;
    input->left -= bytes;
    body->size += bytes;
}

static void make_fitting(struct fuzz_input *input, struct body *body)
{
    put16(body, 0, (unsigned int)body->count);
    put16(body, 2, 0);
    body->size = 4 + 2 * body->count;
    for (uint64_t i = 0; i < body->count; i++) {
        unsigned int method = (unsigned int)fuzz_take(input, 1) % 8;
        size_t length = fuzz_take(input, 2) % 8192, before = body->size;
        take_bytes(input, body, length);
        put16(body, 4 + 2 * i, method << 13 | (unsigned int)(body->size - before));
    }
}

static void read_body(struct fuzz_input *input, unsigned int how, struct body *body)
{
    body->size = 0;
    body->count = fuzz_take(input, 1) % (PAGES_MAX + 1);
    for (uint64_t i = 0; i < body->count; i++) {
        uint64_t number = fuzz_take(input, 1);
        body->frames[i] = number >= 0xf8 ? number - 0x100 : number % FRAMES;
    }
    if (how & HOW_FITTING)
        make_fitting(input, body);
    else
        take_bytes(input, body, BODY_MAX);
}

/* A field of a token and what is beyond it; -1 when it is cut or too long. */
static long read_field(struct fuzz_input *delta, unsigned int field)
{
    if (field != 15)
        return field;
    if (delta->left == 0)
        return -1;
    uint64_t first = fuzz_take(delta, 1);
    if (first < 128)
        return 15 + (long)first;
    if (delta->left == 0)
        return -1;
    uint64_t second = fuzz_take(delta, 1);
    return second < 128 ? 15 + (long)(first - 128 + 128 * second) : -1;
}

static int apply_delta(struct fuzz_input delta, uint8_t *page)
{
    long place = 0;
    while (delta.left > 0) {
        unsigned int token = (unsigned int)fuzz_take(&delta, 1);
        long skip = read_field(&delta, token / 16);
        long more = skip < 0 ? -1 : read_field(&delta, token % 16);
        if (more < 0 || place + skip + more + 1 > PAGE || (size_t)more + 1 > delta.left)
            return -EBADMSG;
        place += skip;
        for (long i = 0; i <= more; i++)
            page[place++] = (uint8_t)fuzz_take(&delta, 1);
    }
    return 0;
}

static size_t read_lz4_length(struct fuzz_input *block, unsigned int field)
{
    size_t length = field;
    for (uint64_t byte = field == 15 ? 255 : 0; byte == 255; length += byte)
        byte = fuzz_take(block, 1);
    return length;
}

/* Whether a block that was accepted says what its page is; an offset of 0 leaves that open. */
static bool unpack_lz4(struct fuzz_input block, uint8_t *page)
{
    size_t made = 0;
    while (block.left > 0) {
        unsigned int token = (unsigned int)fuzz_take(&block, 1);
        for (size_t literals = read_lz4_length(&block, token / 16); literals > 0; literals--) {
            DEMAND(made < PAGE && block.left > 0);
            page[made++] = (uint8_t)fuzz_take(&block, 1);
        }
        if (block.left == 0)
            break;
        size_t offset = fuzz_take(&block, 2);
        if (offset == 0)
            return false;
        for (size_t match = read_lz4_length(&block, token % 16) + 4; match > 0; match--) {
            DEMAND(made < PAGE && offset <= made);
            page[made] = page[made - offset];
            made++;
        }
    }
    DEMAND(made == PAGE);
    return true;
}

struct page {
    unsigned int method;
    struct fuzz_input data;
};

static struct page page_of(const struct body *body, uint64_t index)
{
    struct fuzz_input table = {body->bytes + 4, 2 * body->count};
    struct page page = {.data = {body->bytes + 4 + 2 * body->count, 0}};
    for (uint64_t i = 0; i <= index; i++) {
        unsigned int entry = (unsigned int)fuzz_take(&table, 2);
        page.data.data += page.data.left;
        page.data.left = entry % 8192;
        page.method = entry / 8192;
    }
    return page;
}

static int judge_entry(struct page page, const uint8_t *base, bool bases)
{
    size_t size = page.data.left;
    if (page.method > RAW || (page.method <= SAME && size != 0) ||
        (page.method == RAW && size != PAGE))
        return -EINVAL;
    if ((page.method == DELTA || page.method == LZ4) && (size == 0 || size >= PAGE))
        return -EINVAL;
    if (page.method != SAME && page.method != DELTA)
        return 0;
    if (!bases)
        return -EPERM;
    return base == NULL ? -ERANGE : 0;
}

/* What must come of the table. */
static int judge_table(const struct body *body, bool bases, uint64_t *index)
{
    *index = body->count;
    struct fuzz_input head = {body->bytes, body->size};
    if (body->size < 4 + 2 * body->count || fuzz_take(&head, 4) != body->count)
        return -EMSGSIZE;
    size_t used = 4 + 2 * body->count;
    for (uint64_t i = 0; i < body->count; i++) {
        struct page page = page_of(body, i);
        used += page.data.left;
        int code = judge_entry(page, base_of(body->frames[i]), bases);
        if (code == 0 && used > body->size)
            code = -EMSGSIZE;
        if (code != 0) {
            *index = i;
            return code;
        }
    }
    return used == body->size ? 0 : -EMSGSIZE;
}

/* The page as loops make it; false when it is open what it is. */
static bool make_page(struct page page, const uint8_t *base, uint8_t *wanted, int *code)
{
    *code = 0;
    memset(wanted, 0, PAGE);
    if (page.method == LZ4)
        return unpack_lz4(page.data, wanted);
    if (page.method == RAW)
        memcpy(wanted, page.data.data, PAGE);
    else if (page.method != ZERO)
        memcpy(wanted, base, PAGE);
    if (page.method == DELTA)
        *code = apply_delta(page.data, wanted);
    return true;
}

/* Pages before `bad` are what they must be; `bad` is wrong, or there is none. */
static void check_pages(const struct body *body, int code, uint64_t bad, const uint8_t *pages)
{
    for (uint64_t i = 0; i < body->count && i <= bad; i++) {
        struct page page = page_of(body, i);
        if (code != 0 && i == bad && page.method == LZ4)
            return;
        uint8_t wanted[PAGE];
        int wanted_code;
        bool known = make_page(page, base_of(body->frames[i]), wanted, &wanted_code);
        DEMAND(wanted_code == (code != 0 && i == bad ? code : 0));
        if (known && wanted_code == 0)
            DEMAND(memcmp(pages + i * PAGE, wanted, PAGE) == 0);
    }
}

static int decode(const struct body *body, bool bases, uint8_t *pages, uint64_t *bad)
{
    uint64_t *frames = fuzz_copy(body->frames, body->count * sizeof(*frames));
    uint8_t *bytes = fuzz_copy(body->bytes, body->size);
    int code =
        rp_decode_pages(frames, body->count, bytes, body->size, bases ? ram : NULL, pages, bad);
    DEMAND(body->size == 0 || memcmp(bytes, body->bytes, body->size) == 0);
    free(bytes);
    free(frames);
    return code;
}

static void check_vectors(const uint8_t *page, const uint8_t *base)
{
    uint64_t masks[PAGE / 64];
    DEMAND(rp_page_is_zero(page) == fuzz_is_filled(page, PAGE, 0));
    DEMAND(rp_page_diff(page, base, masks) == (memcmp(page, base, PAGE) != 0));
    for (size_t at = 0; at < PAGE; at++)
        DEMAND((masks[at / 64] >> at % 64 & 1) == (page[at] != base[at]));
}

static struct rp_bases *make_bases(void)
{
    struct rp_bases *bases = NULL;
    DEMAND(rp_bases_create(FRAMES, FRAMES, &bases) == 0);
    for (uint64_t frame = 0; frame < FRAMES; frame++)
        if (base_of(frame) != NULL)
            DEMAND(rp_bases_update(bases, &frame, 1, base_of(frame)) == 0);
    return bases;
}

/* Encoded at this level and decoded again. */
static void check_round_trip(struct body *body, const uint8_t *pages, const struct rp_bases *bases,
                             int level)
{
    DEMAND(rp_simd_force(level) == 0 && rp_simd_level() == level);
    for (uint64_t i = 0; i < body->count; i++)
        check_vectors(pages + i * PAGE, file + i * PAGE);
    uint64_t bound = rp_encode_bound(body->count), size = 0, bad, counted = 0;
    uint8_t *out = fuzz_room(bound, FILLER), *again = fuzz_room(body->count * PAGE, FILLER);
    struct rp_page_stats stats;
    DEMAND(rp_encode_pages(body->frames, body->count, pages, bases, true, out, bound, &size,
                           &stats) == 0);
    DEMAND(size <= bound && size <= BODY_MAX);
    for (int method = ZERO; method <= RAW; method++)
        counted += stats.pages[method];
    DEMAND(counted == body->count);
    memcpy(body->bytes, out, size);
    body->size = size;
    DEMAND(decode(body, true, again, &bad) == 0);
    DEMAND(body->count == 0 || memcmp(again, pages, body->count * PAGE) == 0);
    free(again);
    free(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct body body;
    struct fuzz_input input = {data, size};
    if (ram == NULL)
        make_ram();
    unsigned int how = (unsigned int)fuzz_take(&input, 1);
    bool with_bases = !(how & HOW_NO_BASES);
    read_body(&input, how, &body);
    uint8_t *pages = fuzz_room(body.count * PAGE, FILLER);
    uint64_t bad = UINT64_MAX, wanted_bad;
    int code = decode(&body, with_bases, pages, &bad);
    int wanted = judge_table(&body, with_bases, &wanted_bad);
    if (wanted != 0)
        DEMAND(code == wanted && bad == wanted_bad);
    else
        check_pages(&body, code, bad, pages);
    if (code == 0) {
        struct rp_bases *bases = make_bases();
        for (int level = 0; level < 32; level++)
            if (rp_simd_levels() >> level & 1)
                check_round_trip(&body, pages, bases, level);
        rp_bases_destroy(bases);
    }
    free(pages);
    return 0;
}
