#ifndef RP_ENCODED_H
#define RP_ENCODED_H
#include "encode.h"

/* What encoder and decoder share of the form of an encoded body. */
#define RP_COUNT_BYTES 4
#define RP_ENTRY_BYTES 2
#define RP_METHOD_SHIFT 13
#define RP_DATA_BYTES_MASK ((1U << RP_METHOD_SHIFT) - 1)
#define RP_PAGES_MAX (UINT64_C(1) << 28)

_Static_assert(RP_PAGE_METHODS <= 1 << (16 - RP_METHOD_SHIFT), "a method must fit its bits");

#endif
