/* What the dot products share: where the parts of an activation block lie, and the four-block step
 * that turns integer sums into floats. */
#ifndef TANDEM_CPU_NEON_SUMS_H
#define TANDEM_CPU_NEON_SUMS_H

#include "cpu/neon/unpack.h"

enum {
    Q8_0_BYTES = 34, Q8_0_QS = 2,
    Q8_1_BYTES = 36, Q8_1_QS = 4,
    Q8_K_BYTES = 292, Q8_K_QS = 4, Q8_K_BSUMS = 260,
};

/* Ask early for the weights that come next: hardware does so too but stops at every page. */
#define AHEAD 2048
ALWAYS_INLINE void prefetch_ahead(const uint8_t *p, int bytes)
{
    for (int i = 0; i < bytes; i += 64)
        __builtin_prefetch((const void *)((uintptr_t)p + AHEAD + (size_t)i));
}

/* (d_w * d_a) * sum, in this order everywhere. */
ALWAYS_INLINE float32x4_t scaled(float32x4_t d_w, float32x4_t d_a, int32x4_t sum)
{
    return vmulq_f32(vmulq_f32(d_w, d_a), vcvtq_f32_s32(sum));
}

/* sum + (d_w * d_a) * isum, the last two operations as one. */
ALWAYS_INLINE float32x4_t plus_scaled(float32x4_t sum, float32x4_t d_w, float32x4_t d_a,
                                      int32x4_t isum)
{
    return vfmaq_f32(sum, vmulq_f32(d_w, d_a), vcvtq_f32_s32(isum));
}

/* (p0 + p2) + (p1 + p3) */
ALWAYS_INLINE float fold4(float32x4_t p)
{
    float32x2_t x = vadd_f32(vget_low_f32(p), vget_high_f32(p));
    return vget_lane_f32(x, 0) + vget_lane_f32(x, 1);
}

ALWAYS_INLINE float load_f32(const uint8_t *p)
{
    float f;
    memcpy(&f, p, sizeof f);
    return f;
}

/* 4 floats at p + k * stride, k < count, 0 in the other lanes. */
ALWAYS_INLINE float32x4_t f32x4(const uint8_t *p, size_t stride, int count)
{
    float32x4_t f = vsetq_lane_f32(load_f32(p), vdupq_n_f32(0), 0);
    if (count > 1)
        f = vsetq_lane_f32(load_f32(p + stride), f, 1);
    if (count > 2)
        f = vsetq_lane_f32(load_f32(p + 2 * stride), f, 2);
    if (count > 3)
        f = vsetq_lane_f32(load_f32(p + 3 * stride), f, 3);
    return f;
}

/* The sums of four vectors of 4 dwords, in order. */
ALWAYS_INLINE int32x4_t sums4(const int32x4_t v[4])
{
    return vpaddq_s32(vpaddq_s32(v[0], v[1]), vpaddq_s32(v[2], v[3]));
}

#endif
