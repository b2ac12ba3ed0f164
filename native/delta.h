#ifndef RP_DELTA_H
#define RP_DELTA_H
#include <stdint.h>

/* A page as its difference from a base that both ends have. A delta is a list of runs:
 *
 *     token        high 4 bits: equal bytes before the run; low 4 bits: bytes of the run - 1
 *     [more skip]  when the high bits are 15: what is beyond 15, a number
 *     [more run]   when the low bits are 15: what is beyond 15, a number
 *     run          the bytes that the page has there
 *
 * A number is 7 bits a byte, the lowest first, the top bit set when another byte follows; two bytes
 * are enough for any. What comes after the last run is equal. Bytes and not words, for what changes
 * in a page is mostly less than a word: on the pages of a loaded redis guest words of 8 make it 1.5
 * times as large. */

/* The bytes of the delta, 0 when they could exceed `room`. The masks are rp_page_diff's. */
uint32_t rp_delta_encode(const uint8_t *page, const uint64_t *masks, uint8_t *delta, uint32_t room);

/* Makes the page out of the base that it holds. -EBADMSG when these bytes are no delta; then the
 * page is neither. */
int rp_delta_apply(const uint8_t *delta, uint32_t bytes, uint8_t *page);

#endif
