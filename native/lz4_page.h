#ifndef RP_LZ4_PAGE_H
#define RP_LZ4_PAGE_H
#include <stdint.h>

/* Pages as LZ4 blocks. Apart from the other encodings, for this needs liblz4. */

/* The bytes of the block, 0 when it does not fit `room`. */
uint32_t rp_lz4_pack(const uint8_t *page, uint8_t *block, uint32_t room);

/* -EBADMSG when these bytes are no block of exactly one page; then the page is undefined. */
int rp_lz4_unpack(const uint8_t *block, uint32_t bytes, uint8_t *page);

#endif
