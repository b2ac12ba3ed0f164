/* The search for a page by its first bytes: the first one that matches, and no byte beyond the
 * pages is read.
 *
 * Input: u8 pages, u8 first, u16 length of the start, u8 page the start is of, u8 change of its
 * last byte, then the first bytes of each page in turn. */
#include "../entries.h"
#include "fuzz.h"

#include <stdlib.h>
#include <string.h>

#define PAGE 4096
#define PAGES_MAX 6

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input input = {data, size};
    size_t count = fuzz_take(&input, 1) % (PAGES_MAX + 1);
    size_t first = fuzz_take(&input, 1);
    size_t start_bytes = fuzz_take(&input, 2) % (PAGE + 1);
    size_t model = fuzz_take(&input, 1);
    uint8_t change = (uint8_t)fuzz_take(&input, 1);
    uint8_t *pages = fuzz_room(count * PAGE, 0);
    size_t each = count == 0 ? 0 : input.left / count;
    for (size_t page = 0; page < count; page++)
        memcpy(pages + page * PAGE, input.data + page * each, each < PAGE ? each : PAGE);
    uint8_t *start = count == 0 ? fuzz_room(start_bytes, 0)
                                : fuzz_copy(pages + model % count * PAGE, start_bytes);
    if (start_bytes > 0)
        start[start_bytes - 1] ^= change;
    size_t found = rp_pages_find(pages, count, first, start, start_bytes);
    size_t wanted = count;
    for (size_t page = count; page-- > first;) {
        size_t at = 0;
        while (at < start_bytes && pages[page * PAGE + at] == start[at])
            at++;
        if (at == start_bytes)
            wanted = page;
    }
    DEMAND(found == wanted);
    free(start);
    free(pages);
    return 0;
}
