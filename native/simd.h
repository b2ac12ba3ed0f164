#ifndef RP_SIMD_H
#define RP_SIMD_H
#include <stdbool.h>
#include <stdint.h>

/* Whole pages of 4,096 bytes, looked at in vectors. The widest level that the processor has is
 * chosen at the first use; a page need not be aligned. */
enum rp_simd_level { RP_SIMD_SCALAR, RP_SIMD_SSE2, RP_SIMD_AVX2, RP_SIMD_AVX512, RP_SIMD_NEON };

/* The levels of this processor, level n as bit 1 << n. Scalar is always one of them. */
uint32_t rp_simd_levels(void);
/* The level in use. */
int rp_simd_level(void);
/* Use this one from now on, in all threads: for tests and benchmarks. -EINVAL when the processor
 * does not have it. */
int rp_simd_force(int level);

bool rp_page_is_zero(const uint8_t *page);
/* Bit n % 64 of masks[n / 64] is set where byte n differs; there are 64 masks. False when none
 * does. */
bool rp_page_diff(const uint8_t *page, const uint8_t *base, uint64_t *masks);

#endif
