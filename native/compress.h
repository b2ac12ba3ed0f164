#ifndef RP_COMPRESS_H
#define RP_COMPRESS_H

#include <stddef.h>
#include <stdint.h>

/* Packed pages of a compressed checkpoint of legacy Remus. Such a page is a marker byte 0 (nothing
 * changed), or 0x80 and the 4096 bytes of the page, or runs that make up the page: a marker with
 * the length in words of four bytes in its low 7 bits, and, when its high bit is clear, these
 * words; when it is set, they stay as they are. */

/* Unpacks the first page of `packed` onto `page`, which has 4096 bytes and holds what the guest had
 * there before. Of a page whose input is not all there (-EAGAIN), and of what is no packed page
 * (-EBADMSG), nothing is unpacked. `consumed_ret`: bytes that the packed page has. */
int rp_page_unpack(const uint8_t *packed, size_t packed_bytes, uint8_t *page, size_t *consumed_ret);

#endif
