#ifndef RP_BIG_ENDIAN_H
#define RP_BIG_ENDIAN_H
#include <stdint.h>

/* Numbers of network protocols, wherever they lie. */

static inline uint32_t load_16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }

static inline uint32_t load_32(const uint8_t *at) { return load_16(at) << 16 | load_16(at + 2); }

static inline void store_16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static inline void store_32(uint8_t *at, uint32_t value)
{
    store_16(at, value >> 16);
    store_16(at + 2, value);
}

#endif
