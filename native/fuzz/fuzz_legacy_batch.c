/* Batches of a legacy stream become entries of PAGE_DATA: as a plain loop says, and never more than
 * there is room for.
 *
 * Input: u8 width (0 to 3 stand for 4 and 8 in turn, others for themselves), then the batch. */
#include "../entries.h"
#include "fuzz.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILLER 0xee

/* What becomes of the batch: how many entries there are, or the refusal. */
static int64_t convert(struct fuzz_input batch, size_t count, unsigned int width, uint64_t *wanted)
{
    int64_t at = 0;
    if (width != 4 && width != 8)
        return -EINVAL;
    for (size_t i = 0; i < count; i++) {
        uint64_t entry = fuzz_take(&batch, width);
        if (entry >= UINT64_C(1) << 32)
            return -ERANGE;
        if (entry != 0xf0000000)
            wanted[at++] = entry / 0x10000000 * (UINT64_C(1) << 60) + entry % 0x10000000;
    }
    return at;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    unsigned int width = (unsigned int)fuzz_take(&input, 1);
    if (width < 4)
        width = width % 2 == 0 ? 4 : 8;
    size_t count = width == 0 ? 0 : input.left / width;
    /* Moved by one byte: a batch lies anywhere in a stream. */
    uint8_t *room = fuzz_room(count * width + 1, 0);
    if (count > 0)
        memcpy(room + 1, input.data, count * width);
    uint64_t *entries = fuzz_room(count * 8, FILLER);
    uint64_t *wanted = fuzz_room(count * 8, FILLER);
    int64_t written = rp_entries_from_legacy(room + 1, count, width, entries);
    DEMAND(written == convert(input, count, width, wanted));
    if (written >= 0) {
        size_t bytes = (size_t)written * 8;
        DEMAND(bytes <= count * 8);
        DEMAND(bytes == 0 || memcmp(entries, wanted, bytes) == 0);
        DEMAND(fuzz_is_filled((uint8_t *)entries + bytes, count * 8 - bytes, FILLER));
    }
    free(wanted);
    free(entries);
    free(room);
    return 0;
}
