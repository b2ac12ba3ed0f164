#ifndef RP_DECODE_H
#define RP_DECODE_H
#include "encode.h"
#include "ram.h"

#include <stdint.h>

/* Makes the body of count pages out of an encoded one (encode.h), whatever its bytes are. Bases are
 * read from the guest's RAM, which must not change meanwhile; without it (NULL) pages that need one
 * are refused. All methods, lengths and bases are checked before the first page is made. Errors,
 * with the index of the page that is wrong (count: the body as a whole), and after which the body
 * is undefined:
 *
 *     -EMSGSIZE  not so many pages, or not the bytes that the table tells
 *     -EINVAL    a method that there is not, or a length that it cannot have
 *     -EPERM     a page that needs a base, which is not allowed
 *     -ERANGE    the same of a frame that is no RAM
 *     -EBADMSG   data that is no delta or no LZ4 block
 */
int rp_decode_pages(const uint64_t *pfns, uint64_t count, const uint8_t *data, uint64_t bytes,
                    const struct rp_ram *ram, uint8_t *body, uint64_t *bad_index_ret);

#endif
