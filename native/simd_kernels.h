#ifndef RP_SIMD_KERNELS_H
#define RP_SIMD_KERNELS_H
#include "simd.h"

/* One level of simd.h. */
struct rp_kernels {
    bool (*is_zero)(const uint8_t *page);
    bool (*diff)(const uint8_t *page, const uint8_t *base, uint64_t *masks);
};

#define RP_PAGE_BYTES 4096
/* Bytes that one mask of a difference stands for. */
#define RP_MASK_BYTES 64
#define RP_MASKS (RP_PAGE_BYTES / RP_MASK_BYTES)
/* Zero test: bytes looked at between two decisions. */
#define RP_STRIDE_BYTES 256

#if defined(__x86_64__)
extern const struct rp_kernels rp_kernels_sse2;
extern const struct rp_kernels rp_kernels_avx2;
extern const struct rp_kernels rp_kernels_avx512;
#elif defined(__aarch64__)
extern const struct rp_kernels rp_kernels_neon;
#endif

#endif
