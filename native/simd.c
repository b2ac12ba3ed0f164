#include "simd_kernels.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "masks are made of little endian words");

#define WORD_BYTES sizeof(uint64_t)
#define WORDS_A_MASK (RP_MASK_BYTES / WORD_BYTES)
#define LOW_BITS UINT64_C(0x7f7f7f7f7f7f7f7f)
/* Multiplied with one bit a byte: puts them side by side into the highest byte. */
#define COLLECT UINT64_C(0x0102040810204080)

static bool is_zero_scalar(const uint8_t *page)
{
    for (size_t offset = 0; offset < RP_PAGE_BYTES; offset += RP_STRIDE_BYTES) {
        uint64_t words[RP_STRIDE_BYTES / WORD_BYTES];
        uint64_t seen = 0;
        memcpy(words, page + offset, sizeof(words));
        for (size_t i = 0; i < RP_STRIDE_BYTES / WORD_BYTES; i++)
            seen |= words[i];
        if (seen != 0)
            return false;
    }
    return true;
}

/* Bit n is set when byte n is not 0. */
static uint64_t byte_bits(uint64_t word)
{
    uint64_t high_bits = (((word & LOW_BITS) + LOW_BITS) | word) & ~LOW_BITS;
    return (high_bits >> 7) * COLLECT >> 56;
}

static uint64_t diff_mask(const uint8_t *page, const uint8_t *base)
{
    uint64_t mask = 0;
    for (size_t i = 0; i < WORDS_A_MASK; i++) {
        uint64_t now, then;
        memcpy(&now, page + i * WORD_BYTES, WORD_BYTES);
        memcpy(&then, base + i * WORD_BYTES, WORD_BYTES);
        if (now != then)
            mask |= byte_bits(now ^ then) << (i * WORD_BYTES);
    }
    return mask;
}

static bool diff_scalar(const uint8_t *page, const uint8_t *base, uint64_t *masks)
{
    uint64_t seen = 0;
    for (size_t i = 0; i < RP_MASKS; i++) {
        masks[i] = diff_mask(page + i * RP_MASK_BYTES, base + i * RP_MASK_BYTES);
        seen |= masks[i];
    }
    return seen != 0;
}

static const struct rp_kernels kernels_scalar = {is_zero_scalar, diff_scalar};

static const struct rp_kernels *const kernels_of[] = {
    [RP_SIMD_SCALAR] = &kernels_scalar,
#if defined(__x86_64__)
    [RP_SIMD_SSE2] = &rp_kernels_sse2,
    [RP_SIMD_AVX2] = &rp_kernels_avx2,
    [RP_SIMD_AVX512] = &rp_kernels_avx512,
#elif defined(__aarch64__)
    [RP_SIMD_NEON] = &rp_kernels_neon,
#endif
};

/* What the processor has decides once for the process; 0 until somebody asked. */
static _Atomic(const struct rp_kernels *) chosen;

uint32_t rp_simd_levels(void)
{
    uint32_t levels = 1U << RP_SIMD_SCALAR;
#if defined(__x86_64__)
    levels |= 1U << RP_SIMD_SSE2;
    if (__builtin_cpu_supports("avx2"))
        levels |= 1U << RP_SIMD_AVX2;
    if (__builtin_cpu_supports("avx512bw"))
        levels |= 1U << RP_SIMD_AVX512;
#elif defined(__aarch64__)
    levels |= 1U << RP_SIMD_NEON;
#endif
    return levels;
}

static const struct rp_kernels *choose(void)
{
    int widest = 31 - __builtin_clz(rp_simd_levels());
    const struct rp_kernels *kernels = kernels_of[widest];
    atomic_store_explicit(&chosen, kernels, memory_order_relaxed);
    return kernels;
}

static const struct rp_kernels *kernels(void)
{
    const struct rp_kernels *already = atomic_load_explicit(&chosen, memory_order_relaxed);
    return already != NULL ? already : choose();
}

int rp_simd_level(void)
{
    int level = RP_SIMD_SCALAR;
    while (kernels_of[level] != kernels())
        level++;
    return level;
}

int rp_simd_force(int level)
{
    if (level < 0 || level > 31 || !(rp_simd_levels() >> level & 1))
        return -EINVAL;
    atomic_store_explicit(&chosen, kernels_of[level], memory_order_relaxed);
    return 0;
}

bool rp_page_is_zero(const uint8_t *page) { return kernels()->is_zero(page); }

bool rp_page_diff(const uint8_t *page, const uint8_t *base, uint64_t *masks)
{
    return kernels()->diff(page, base, masks);
}
