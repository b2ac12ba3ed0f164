#include "lz4_page.h"

#include <errno.h>
#include <lz4.h>

#define PAGE_BYTES 4096

uint32_t rp_lz4_pack(const uint8_t *page, uint8_t *block, uint32_t room)
{
    return (uint32_t)LZ4_compress_default((const char *)page, (char *)block, PAGE_BYTES, (int)room);
}

int rp_lz4_unpack(const uint8_t *block, uint32_t bytes, uint8_t *page)
{
    int made = LZ4_decompress_safe((const char *)block, (char *)page, (int)bytes, PAGE_BYTES);
    return made == PAGE_BYTES ? 0 : -EBADMSG;
}
