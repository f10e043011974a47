/* A vector of floats, NEON: the verbs in which cpu/avx2/float_kernels.h is written. Two registers make
 * one vector, so that it is as wide as that of AVX2 and sums run in the same order and give the same
 * bits. "part" verbs touch only the first n < VEC elements and read 0 for the others. */
#ifndef TANDEM_CPU_NEON_VEC_H
#define TANDEM_CPU_NEON_VEC_H

#include <string.h>

#include "cpu/neon/sums.h"

#define VEC 8
#define ISA_NAME(name) name##_neon
typedef float32x4x2_t vec;

ALWAYS_INLINE vec vec_set(float x)
{
    return (vec){ { vdupq_n_f32(x), vdupq_n_f32(x) } };
}
ALWAYS_INLINE vec vec_zero(void)
{
    return vec_set(0);
}
ALWAYS_INLINE vec vec_add(vec a, vec b)
{
    return (vec){ { vaddq_f32(a.val[0], b.val[0]), vaddq_f32(a.val[1], b.val[1]) } };
}
ALWAYS_INLINE vec vec_sub(vec a, vec b)
{
    return (vec){ { vsubq_f32(a.val[0], b.val[0]), vsubq_f32(a.val[1], b.val[1]) } };
}
ALWAYS_INLINE vec vec_mul(vec a, vec b)
{
    return (vec){ { vmulq_f32(a.val[0], b.val[0]), vmulq_f32(a.val[1], b.val[1]) } };
}
ALWAYS_INLINE vec vec_div(vec a, vec b)
{
    return (vec){ { vdivq_f32(a.val[0], b.val[0]), vdivq_f32(a.val[1], b.val[1]) } };
}
ALWAYS_INLINE vec vec_fma(vec a, vec b, vec c) /* a b + c, rounded once */
{
    return (vec){ { vfmaq_f32(c.val[0], a.val[0], b.val[0]),
                    vfmaq_f32(c.val[1], a.val[1], b.val[1]) } };
}
/* A NaN in x stays. */
ALWAYS_INLINE vec vec_at_most(vec x, float bound)
{
    float32x4_t b = vdupq_n_f32(bound);
    return (vec){ { vminq_f32(x.val[0], b), vminq_f32(x.val[1], b) } };
}
ALWAYS_INLINE vec vec_at_least(vec x, float bound)
{
    float32x4_t b = vdupq_n_f32(bound);
    return (vec){ { vmaxq_f32(x.val[0], b), vmaxq_f32(x.val[1], b) } };
}
/* max(a, b); b where a is NaN */
ALWAYS_INLINE float32x4_t larger(float32x4_t a, float32x4_t b)
{
    return vbslq_f32(vcgtq_f32(a, b), a, b);
}
ALWAYS_INLINE vec vec_max(vec a, vec b)
{
    return (vec){ { larger(a.val[0], b.val[0]), larger(a.val[1], b.val[1]) } };
}
ALWAYS_INLINE vec vec_round(vec x)
{
    return (vec){ { vrndnq_f32(x.val[0]), vrndnq_f32(x.val[1]) } };
}
/* 2^n for whole n in -127..127; -127 gives 0 */
ALWAYS_INLINE float32x4_t pow2(float32x4_t n)
{
    int32x4_t bits = vaddq_s32(vcvtq_s32_f32(n), vdupq_n_s32(127));
    return vreinterpretq_f32_s32(vshlq_n_s32(bits, 23));
}
ALWAYS_INLINE vec vec_pow2(vec n)
{
    return (vec){ { pow2(n.val[0]), pow2(n.val[1]) } };
}
/* x, but 0 where x < bound; NaN stays */
ALWAYS_INLINE float32x4_t zero_below(float32x4_t x, float bound)
{
    uint32x4_t below = vcltq_f32(x, vdupq_n_f32(bound));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), below));
}
ALWAYS_INLINE vec vec_zero_below(vec x, float bound)
{
    return (vec){ { zero_below(x.val[0], bound), zero_below(x.val[1], bound) } };
}

/* Reductions in a fixed tree. */
ALWAYS_INLINE float vec_sum(vec x)
{
    return fold4(vaddq_f32(x.val[0], x.val[1]));
}
ALWAYS_INLINE float vec_max_of(vec x)
{
    return vmaxvq_f32(larger(x.val[0], x.val[1]));
}

ALWAYS_INLINE vec load_f32_vec(const float *p)
{
    return (vec){ { vld1q_f32(p), vld1q_f32(p + 4) } };
}
ALWAYS_INLINE vec load_f32_part(const float *p, int n)
{
    float padded[VEC] = { 0 };
    memcpy(padded, p, (size_t)n * sizeof *p);
    return load_f32_vec(padded);
}
ALWAYS_INLINE void store_f32_vec(float *p, vec x)
{
    vst1q_f32(p, x.val[0]);
    vst1q_f32(p + 4, x.val[1]);
}
ALWAYS_INLINE void store_f32_part(float *p, vec x, int n)
{
    float padded[VEC];
    store_f32_vec(padded, x);
    memcpy(p, padded, (size_t)n * sizeof *p);
}

ALWAYS_INLINE uint16x8_t load_u16_part(const uint16_t *p, int n)
{
    uint16_t padded[VEC] = { 0 };
    memcpy(padded, p, (size_t)n * sizeof *p);
    return vld1q_u16(padded);
}
ALWAYS_INLINE vec vec_of_f16(uint16x8_t x)
{
    float16x8_t h = vreinterpretq_f16_u16(x);
    return (vec){ { vcvt_f32_f16(vget_low_f16(h)), vcvt_high_f32_f16(h) } };
}
ALWAYS_INLINE vec load_f16_vec(const uint16_t *p)
{
    return vec_of_f16(vld1q_u16(p));
}
ALWAYS_INLINE vec load_f16_part(const uint16_t *p, int n)
{
    return vec_of_f16(load_u16_part(p, n));
}
ALWAYS_INLINE vec vec_of_bf16(uint16x8_t x)
{
    return (vec){ { vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(x), 16)),
                    vreinterpretq_f32_u32(vshll_high_n_u16(x, 16)) } };
}
ALWAYS_INLINE vec load_bf16_vec(const uint16_t *p)
{
    return vec_of_bf16(vld1q_u16(p));
}
ALWAYS_INLINE vec load_bf16_part(const uint16_t *p, int n)
{
    return vec_of_bf16(load_u16_part(p, n));
}
ALWAYS_INLINE void store_f16_vec(uint16_t *p, vec x)
{
    float16x8_t h = vcvt_high_f16_f32(vcvt_f16_f32(x.val[0]), x.val[1]);
    vst1q_u16(p, vreinterpretq_u16_f16(h));
}
ALWAYS_INLINE void store_f16_part(uint16_t *p, vec x, int n)
{
    uint16_t padded[VEC];
    store_f16_vec(padded, x);
    memcpy(p, padded, (size_t)n * sizeof *p);
}

#endif
