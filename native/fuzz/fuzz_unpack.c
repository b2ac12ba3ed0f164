/* Packed pages of compressed legacy checkpoints. One after the other is unpacked as a reader does
 * that goes byte by byte; a page of which a byte is missing is asked for again; nothing is touched
 * of what is no page; and what was unpacked, packed in another way, is unpacked to the same.
 *
 * Input: u8 what the guest had there, u8 how long the runs of our own packing are, then packed
 * pages. */
#include "../compress.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PAGE 4096
#define WORDS 1024
#define FILLER 0xee

/* Byte by byte: 0 and the bytes that were used, or why not. `page` is only right after a 0. */
static int read_packed(struct fuzz_input packed, uint8_t *page, size_t *used)
{
    size_t all = packed.left, words = 0;
    if (packed.left == 0)
        return -EAGAIN;
    unsigned int marker = (unsigned int)fuzz_take(&packed, 1);
    if (marker == 0) {
        *used = 1;
        return 0;
    }
    if (marker == 128) {
        for (size_t at = 0; at < PAGE; at++) {
            if (packed.left == 0)
                return -EAGAIN;
            page[at] = (uint8_t)fuzz_take(&packed, 1);
        }
        *used = all - packed.left;
        return 0;
    }
    for (;;) {
        size_t length = marker % 128;
        if (length == 0 || words + length > WORDS)
            return -EBADMSG;
        for (size_t word = 0; word < length; word++, words++)
            for (size_t at = 0; at < 4 && marker < 128; at++) {
                if (packed.left == 0)
                    return -EAGAIN;
                page[4 * words + at] = (uint8_t)fuzz_take(&packed, 1);
            }
        if (words == WORDS)
            break;
        if (packed.left == 0)
            return -EAGAIN;
        marker = (unsigned int)fuzz_take(&packed, 1);
    }
    *used = all - packed.left;
    return 0;
}

/* Runs of at most `longest` words, skipped where old and new agree. Bytes used of `packed`. */
static size_t pack(const uint8_t *old, const uint8_t *new, size_t longest, uint8_t *packed)
{
    size_t at = 0;
    for (size_t word = 0; word < WORDS;) {
        bool same = memcmp(old + 4 * word, new + 4 * word, 4) == 0;
        size_t length = 1;
        while (length < longest && word + length < WORDS &&
               (memcmp(old + 4 * (word + length), new + 4 * (word + length), 4) == 0) == same)
            length++;
        packed[at++] = (uint8_t)(length | (same ? 128 : 0));
        if (!same) {
            memcpy(packed + at, new + 4 * word, 4 * length);
            at += 4 * length;
        }
        word += length;
    }
    return at;
}

/* Exactly these bytes are given, and the page has exactly its room. */
static int unpack(const uint8_t *packed, size_t bytes, uint8_t *page, size_t *used)
{
    uint8_t *source = fuzz_copy(packed, bytes);
    uint8_t *target = fuzz_copy(page, PAGE);
    *used = SIZE_MAX;
    int code = rp_page_unpack(source, bytes, target, used);
    DEMAND(bytes == 0 || memcmp(source, packed, bytes) == 0);
    if (code != 0)
        DEMAND(memcmp(target, page, PAGE) == 0);
    memcpy(page, target, PAGE);
    free(target);
    free(source);
    return code;
}

static void check_round_trip(const uint8_t *old, const uint8_t *new, size_t longest)
{
    uint8_t packed[5 * WORDS], page[PAGE];
    size_t bytes = pack(old, new, longest, packed), used;
    memcpy(page, old, PAGE);
    DEMAND(unpack(packed, bytes, page, &used) == 0);
    DEMAND(used == bytes);
    DEMAND(memcmp(page, new, PAGE) == 0);
}

/* One page at the start of the input; false when there is none. */
static bool check_one(struct fuzz_input *input, uint8_t *page, size_t longest)
{
    uint8_t wanted[PAGE], old[PAGE];
    size_t used, wanted_used = SIZE_MAX;
    memcpy(old, page, PAGE);
    memcpy(wanted, page, PAGE);
    int wanted_code = read_packed(*input, wanted, &wanted_used);
    DEMAND(unpack(input->data, input->left, page, &used) == wanted_code);
    if (wanted_code != 0)
        return false;
    DEMAND(used == wanted_used && used > 0 && used <= input->left);
    DEMAND(memcmp(page, wanted, PAGE) == 0);
    uint8_t again[PAGE];
    size_t again_used;
    memcpy(again, old, PAGE);
    DEMAND(unpack(input->data, used - 1, again, &again_used) == -EAGAIN);
    DEMAND(unpack(input->data, used, again, &again_used) == 0);
    DEMAND(again_used == used && memcmp(again, page, PAGE) == 0);
    check_round_trip(old, page, longest);
    input->data += used;
    input->left -= used;
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    uint8_t page[PAGE];
    memset(page, (int)fuzz_take(&input, 1), PAGE);
    size_t longest = (size_t)fuzz_take(&input, 1) % 127 + 1;
    while (check_one(&input, page, longest))
        ;
    return 0;
}
