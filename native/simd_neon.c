#include "simd_kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>
#include <stddef.h>

static bool is_zero_neon(const uint8_t *page)
{
    for (size_t offset = 0; offset < RP_PAGE_BYTES; offset += RP_STRIDE_BYTES) {
        uint8x16_t seen = vdupq_n_u8(0);
        for (size_t i = 0; i < RP_STRIDE_BYTES; i += sizeof(seen))
            seen = vorrq_u8(seen, vld1q_u8(page + offset + i));
        if (vmaxvq_u8(seen) != 0)
            return false;
    }
    return true;
}

/* Byte n is 1 << n % 8 where the two differ. */
static uint8x16_t unequal(const uint8_t *page, const uint8_t *base)
{
    static const uint8_t places[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t changed = veorq_u8(vld1q_u8(page), vld1q_u8(base));
    return vandq_u8(vtstq_u8(changed, changed), vld1q_u8(places));
}

/* Neighbours are added three times: of each eight bytes one is left, with a bit of each. */
static uint64_t diff_mask(const uint8_t *page, const uint8_t *base)
{
    uint8x16_t low = vpaddq_u8(unequal(page, base), unequal(page + 16, base + 16));
    uint8x16_t high = vpaddq_u8(unequal(page + 32, base + 32), unequal(page + 48, base + 48));
    uint8x16_t all = vpaddq_u8(low, high);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(all, all)), 0);
}

static bool diff_neon(const uint8_t *page, const uint8_t *base, uint64_t *masks)
{
    uint64_t seen = 0;
    for (size_t i = 0; i < RP_MASKS; i++) {
        masks[i] = diff_mask(page + i * RP_MASK_BYTES, base + i * RP_MASK_BYTES);
        seen |= masks[i];
    }
    return seen != 0;
}

const struct rp_kernels rp_kernels_neon = {is_zero_neon, diff_neon};

#endif
