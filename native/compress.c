#include "compress.h"

#include <errno.h>
#include <string.h>

#define PAGE_BYTES 4096
#define MARKER_UNCHANGED 0x00
#define MARKER_WHOLE 0x80
#define RUN_IS_SKIPPED 0x80
#define RUN_WORDS 0x7f
#define WORD_BYTES sizeof(uint32_t)

static size_t run_bytes(uint8_t marker) { return (marker & RUN_WORDS) * WORD_BYTES; }

/* Bytes of a packed page that consists of runs. */
static int measure_runs(const uint8_t *packed, size_t packed_bytes, size_t *size_ret)
{
    size_t at = 0;
    for (size_t filled = 0; filled < PAGE_BYTES;) {
        if (at >= packed_bytes)
            return -EAGAIN;
        size_t run = run_bytes(packed[at]);
        filled += run;
        if (run == 0 || filled > PAGE_BYTES)
            return -EBADMSG;
        at += 1 + (packed[at] & RUN_IS_SKIPPED ? 0 : run);
    }
    *size_ret = at;
    return 0;
}

static int measure(const uint8_t *packed, size_t packed_bytes, size_t *size_ret)
{
    int code = 0;
    if (packed_bytes == 0)
        return -EAGAIN;
    if (packed[0] == MARKER_UNCHANGED)
        *size_ret = 1;
    else if (packed[0] == MARKER_WHOLE)
        *size_ret = 1 + PAGE_BYTES;
    else
        code = measure_runs(packed, packed_bytes, size_ret);
    if (code == 0 && *size_ret > packed_bytes)
        code = -EAGAIN;
    return code;
}

static void copy_runs(const uint8_t *packed, uint8_t *page)
{
    for (size_t filled = 0; filled < PAGE_BYTES;) {
        uint8_t marker = *packed++;
        size_t run = run_bytes(marker);
        if (!(marker & RUN_IS_SKIPPED)) {
            memcpy(page + filled, packed, run);
            packed += run;
        }
        filled += run;
    }
}

int rp_page_unpack(const uint8_t *packed, size_t packed_bytes, uint8_t *page, size_t *consumed_ret)
{
    size_t size = 0;
    int code = measure(packed, packed_bytes, &size);
    if (code != 0)
        return code;
    if (packed[0] == MARKER_WHOLE)
        memcpy(page, packed + 1, PAGE_BYTES);
    else if (packed[0] != MARKER_UNCHANGED)
        copy_runs(packed, page);
    *consumed_ret = size;
    return 0;
}
