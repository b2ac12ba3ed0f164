#include "simd_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <stddef.h>

/* SSE2: every x86-64 processor has it. */

static __m128i load128(const uint8_t *at) { return _mm_loadu_si128((const __m128i *)at); }

static bool is_zero_sse2(const uint8_t *page)
{
    for (size_t offset = 0; offset < RP_PAGE_BYTES; offset += RP_STRIDE_BYTES) {
        __m128i seen = _mm_setzero_si128();
        for (size_t i = 0; i < RP_STRIDE_BYTES; i += sizeof(seen))
            seen = _mm_or_si128(seen, load128(page + offset + i));
        if (_mm_movemask_epi8(_mm_cmpeq_epi8(seen, _mm_setzero_si128())) != 0xffff)
            return false;
    }
    return true;
}

static uint64_t unequal128(const uint8_t *page, const uint8_t *base)
{
    return (uint16_t)~_mm_movemask_epi8(_mm_cmpeq_epi8(load128(page), load128(base)));
}

static bool diff_sse2(const uint8_t *page, const uint8_t *base, uint64_t *masks)
{
    uint64_t seen = 0;
    for (size_t i = 0; i < RP_MASKS; i++, page += RP_MASK_BYTES, base += RP_MASK_BYTES) {
        masks[i] = unequal128(page, base) | unequal128(page + 16, base + 16) << 16 |
                   unequal128(page + 32, base + 32) << 32 | unequal128(page + 48, base + 48) << 48;
        seen |= masks[i];
    }
    return seen != 0;
}

const struct rp_kernels rp_kernels_sse2 = {is_zero_sse2, diff_sse2};

#define AVX2 __attribute__((target("avx2")))

AVX2 static __m256i load256(const uint8_t *at) { return _mm256_loadu_si256((const __m256i *)at); }

AVX2 static bool is_zero_avx2(const uint8_t *page)
{
    for (size_t offset = 0; offset < RP_PAGE_BYTES; offset += RP_STRIDE_BYTES) {
        __m256i seen = _mm256_setzero_si256();
        for (size_t i = 0; i < RP_STRIDE_BYTES; i += sizeof(seen))
            seen = _mm256_or_si256(seen, load256(page + offset + i));
        if (!_mm256_testz_si256(seen, seen))
            return false;
    }
    return true;
}

AVX2 static uint64_t unequal256(const uint8_t *page, const uint8_t *base)
{
    return (uint32_t)~_mm256_movemask_epi8(_mm256_cmpeq_epi8(load256(page), load256(base)));
}

AVX2 static bool diff_avx2(const uint8_t *page, const uint8_t *base, uint64_t *masks)
{
    uint64_t seen = 0;
    for (size_t i = 0; i < RP_MASKS; i++, page += RP_MASK_BYTES, base += RP_MASK_BYTES) {
        masks[i] = unequal256(page, base) | unequal256(page + 32, base + 32) << 32;
        seen |= masks[i];
    }
    return seen != 0;
}

const struct rp_kernels rp_kernels_avx2 = {is_zero_avx2, diff_avx2};

#define AVX512 __attribute__((target("avx512f,avx512bw")))

AVX512 static bool is_zero_avx512(const uint8_t *page)
{
    for (size_t offset = 0; offset < RP_PAGE_BYTES; offset += RP_STRIDE_BYTES) {
        __m512i seen = _mm512_setzero_si512();
        for (size_t i = 0; i < RP_STRIDE_BYTES; i += sizeof(seen))
            seen = _mm512_or_si512(seen, _mm512_loadu_si512(page + offset + i));
        if (_mm512_test_epi64_mask(seen, seen) != 0)
            return false;
    }
    return true;
}

AVX512 static bool diff_avx512(const uint8_t *page, const uint8_t *base, uint64_t *masks)
{
    uint64_t seen = 0;
    for (size_t i = 0; i < RP_MASKS; i++) {
        __m512i now = _mm512_loadu_si512(page + i * RP_MASK_BYTES);
        __m512i then = _mm512_loadu_si512(base + i * RP_MASK_BYTES);
        masks[i] = _mm512_cmpneq_epi8_mask(now, then);
        seen |= masks[i];
    }
    return seen != 0;
}

const struct rp_kernels rp_kernels_avx512 = {is_zero_avx512, diff_avx512};

#endif
