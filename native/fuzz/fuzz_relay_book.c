/* What a guest's frames tell about its addresses. The oracle keeps what was said in the order in
 * which it was, in loops that look at each byte; a book says what it says after every frame.
 *
 * Input: frames, each u8 what it begins with, u8 how many bytes follow, and these. */
#include "../relay_book.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#define FRAME_MAX (14 + 255)
#define KINDS 4

static const uint8_t MAC[6] = {0x52, 0x54, 0, 0, 0, 1};

struct told {
    struct rp_address list[64];
    uint32_t count;
};

struct oracle {
    struct told certain;
    struct told likely;
};

static bool equal(const struct rp_address *one, const struct rp_address *other)
{
    bool is_equal = one->size == other->size;
    for (int i = 0; i < 16; i++)
        is_equal = is_equal && one->bytes[i] == other->bytes[i];
    return is_equal;
}

static bool has(const struct told *told, const struct rp_address *address)
{
    for (uint32_t i = 0; i < told->count; i++)
        if (equal(&told->list[i], address))
            return true;
    return false;
}

static bool is_one_machines(const struct rp_address *address)
{
    int sum = 0, all = 0xff;
    for (uint32_t i = 0; i < address->size; i++) {
        sum += address->bytes[i];
        all &= address->bytes[i];
    }
    if (address->size == 4)
        return sum != 0 && all != 0xff && address->bytes[0] != 127 &&
               (address->bytes[0] & 0xf0) != 0xe0;
    return sum != 0 && !(sum == 1 && address->bytes[15] == 1) && address->bytes[0] != 0xff;
}

/* The bytes at this place, if the frame has all of them. */
static bool cut(const uint8_t *frame, size_t size, size_t at, uint32_t bytes,
                struct rp_address *address)
{
    memset(address, 0, sizeof(*address));
    address->size = bytes;
    for (uint32_t i = 0; i < bytes; i++) {
        if (at + i >= size)
            return false;
        address->bytes[i] = frame[at + i];
    }
    return true;
}

static void add(struct told *told, uint32_t most, const struct rp_address *address)
{
    if (told->count < most && is_one_machines(address) && !has(told, address))
        told->list[told->count++] = *address;
}

static void hear_certain(struct oracle *oracle, const uint8_t *frame, size_t size)
{
    static const uint8_t plain_arp[6] = {0, 1, 8, 0, 6, 4};
    struct rp_address address;
    bool is_arp = frame[12] == 8 && frame[13] == 6;
    bool is_ipv6 = frame[12] == 0x86 && frame[13] == 0xdd;
    if (is_arp && cut(frame, size, 28, 4, &address) && memcmp(frame + 14, plain_arp, 6) == 0 &&
        memcmp(frame + 22, MAC, 6) == 0)
        add(&oracle->certain, 64, &address);
    if (is_ipv6 && size > 54 && frame[20] == 58 && frame[54] == 136 &&
        cut(frame, size, 62, 16, &address))
        add(&oracle->certain, 64, &address);
    if (is_ipv6 && size > 54 && frame[20] == 58 && frame[54] == 135 &&
        cut(frame, size, 22, 16, &address))
        add(&oracle->certain, 64, &address);
}

static void hear(struct oracle *oracle, const uint8_t *frame, size_t size)
{
    struct rp_address address;
    if (size < 14 || memcmp(frame + 6, MAC, 6) != 0)
        return;
    hear_certain(oracle, frame, size);
    bool is_ipv4 = frame[12] == 8 && frame[13] == 0;
    bool is_ipv6 = frame[12] == 0x86 && frame[13] == 0xdd;
    if ((is_ipv4 && cut(frame, size, 26, 4, &address)) ||
        (is_ipv6 && cut(frame, size, 22, 16, &address)))
        if (!has(&oracle->certain, &address))
            add(&oracle->likely, 5, &address);
}

static void check_list(const struct told *wanted, const struct rp_address *list, uint32_t count)
{
    DEMAND(count == wanted->count);
    for (uint32_t i = 0; i < count; i++)
        DEMAND(equal(&list[i], &wanted->list[i]));
}

/* The next frame of the input; its size. */
static size_t take_frame(struct fuzz_input *input, uint8_t *frame)
{
    static const uint8_t kinds[KINDS][2] = {{8, 6}, {8, 0}, {0x86, 0xdd}, {8, 0x35}};
    unsigned int start = (unsigned int)fuzz_take(input, 1);
    size_t rest = (size_t)fuzz_take(input, 1);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, MAC, 6);
    memcpy(frame + 12, kinds[start % KINDS], 2);
    frame[11] ^= (uint8_t)(start / KINDS % 8 == 7);
    for (size_t at = 0; at < rest; at++)
        frame[14 + at] = (uint8_t)fuzz_take(input, 1);
    return start == 255 ? rest % 14 : 14 + rest;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    struct oracle oracle = {0};
    struct rp_book book;
    uint8_t frame[FRAME_MAX];
    rp_book_init(&book, MAC);
    while (input.left > 0) {
        size_t bytes = take_frame(&input, frame);
        uint8_t *exact = fuzz_copy(frame, bytes);
        rp_book_learn(&book, exact, (uint32_t)bytes);
        DEMAND(bytes == 0 || memcmp(exact, frame, bytes) == 0);
        free(exact);
        hear(&oracle, frame, bytes);
        check_list(&oracle.certain, book.certain, book.certain_count);
        check_list(&oracle.likely, book.likely, book.likely_count);
    }
    return 0;
}
