/* One block of every quantized type, spread out to bytes. This is the only place that knows how
 * each type packs its bits for NEON; dot products and decoding both start from what is made here.
 * Layouts: src/format/quant_blocks.h.
 *
 * Types of 256 elements become 16 vectors of 16 signed bytes and one scale per run, so that for
 * element i of run j = i / run
 *
 *     value = d * scale[j] * q[i] - dmin * min[j]
 *
 * Types of 32 elements become two vectors: value = d * q[i] + m.
 *
 * The dot product instruction multiplies signed by signed bytes, so offsets (Q3_K, Q6_K) are taken off
 * here. d and dmin are floats of the block, fetched for four blocks at a time; constants that the
 * formulas of a type put outside (a quarter, an eighth) go into d, which is exact. */
#ifndef TANDEM_CPU_NEON_UNPACK_H
#define TANDEM_CPU_NEON_UNPACK_H

#include <arm_neon.h>

#include "src/format/quant_blocks.h"

#define ALWAYS_INLINE static inline __attribute__((always_inline))

struct block256 {
    int8x16_t q[16];    /* elements in order */
    int16x8_t scale[2]; /* one per run: types with runs of 32 fill the first vector only */
    int16x8_t min[2];   /* likewise; left alone by types without */
};

typedef void unpack256_fn(const uint8_t *block, struct block256 *w);
typedef int8x16x2_t unpack32_fn(const uint8_t *block);
/* d of `count` (1..4) blocks at this stride, 0 in the other lanes. */
typedef float32x4_t scales_fn(const uint8_t *block, size_t stride, int count);

/* What a kernel must know of a type besides its unpack function; all constants at compile time. */
struct format256 {
    int bytes;
    int run;     /* elements per scale: 16 or 32 */
    int dmin_at; /* byte of dmin, or -1: no minimum */
};
struct format32 {
    int bytes;
    int m_at;    /* byte of m, or -1: none */
};

/* ---- Small pieces ---- */

#define signed_bytes(x) vreinterpretq_s8_u8(x)
#define and_bytes(x, mask) vandq_u8(x, vdupq_n_u8(mask))
#define shr_and(x, n, mask) and_bytes(vshrq_n_u8(x, n), mask)
#define shl_and(x, n, mask) and_bytes(vshlq_n_u8(x, n), mask)
#define or_signed(x, y) signed_bytes(vorrq_u8(x, y))

/* 16 bytes of nibbles -> 32 bytes: the low ones, then the high ones. */
ALWAYS_INLINE uint8x16x2_t nibbles(const uint8_t *p)
{
    uint8x16_t x = vld1q_u8(p);
    return (uint8x16x2_t){ { and_bytes(x, 15), vshrq_n_u8(x, 4) } };
}

/* The 16 values of a codebook at 32 places. */
ALWAYS_INLINE int8x16x2_t look_up(const int8_t values[16], uint8x16x2_t index)
{
    int8x16_t table = vld1q_s8(values);
    return (int8x16x2_t){ { vqtbl1q_s8(table, index.val[0]), vqtbl1q_s8(table, index.val[1]) } };
}

/* Each of 16 bits -> a byte, 0xff where it is set. */
ALWAYS_INLINE uint8x16_t bits_to_bytes(uint32_t bits)
{
    const uint8x8_t bit = vcreate_u8(0x8040201008040201);
    uint8x16_t x = vcombine_u8(vdup_n_u8((uint8_t)bits), vdup_n_u8((uint8_t)(bits >> 8)));
    return vtstq_u8(x, vcombine_u8(bit, bit));
}

/* Negate the bytes whose bit is set. */
ALWAYS_INLINE int8x16_t apply_signs(uint8x16_t q, uint32_t signs)
{
    uint8x16_t minus = bits_to_bytes(signs);
    return signed_bytes(vsubq_u8(veorq_u8(q, minus), minus));
}

/* 8 bytes -> 8 words. */
ALWAYS_INLINE int16x8_t words_of(uint8x8_t x)
{
    return vreinterpretq_s16_u16(vmovl_u8(x));
}

ALWAYS_INLINE int16x8_t odd(int16x8_t n) /* 2n + 1 */
{
    return vaddq_s16(vshlq_n_s16(n, 1), vdupq_n_s16(1));
}

/* 4 f16 at p + k * stride, k < count, 0 in the other lanes. */
ALWAYS_INLINE float32x4_t f16x4(const uint8_t *p, size_t stride, int count)
{
    uint64_t bits = block_u16(p);
    if (count > 1)
        bits |= (uint64_t)block_u16(p + stride) << 16;
    if (count > 2)
        bits |= (uint64_t)block_u16(p + 2 * stride) << 32;
    if (count > 3)
        bits |= (uint64_t)block_u16(p + 3 * stride) << 48;
    return vcvt_f32_f16(vreinterpret_f16_u64(vcreate_u64(bits)));
}

#define DEFINE_SCALES(name, at, factor)                                                           \
    ALWAYS_INLINE float32x4_t scales_##name(const uint8_t *block, size_t stride, int count)       \
    {                                                                                             \
        return vmulq_n_f32(f16x4(block + (at), stride, count), factor);                           \
    }

/* ---- 32 elements ---- */

ALWAYS_INLINE int8x16x2_t unpack_q4_0(const uint8_t *block)
{
    uint8x16x2_t q = nibbles(block + 2);
    const uint8x16_t eight = vdupq_n_u8(8);
    return (int8x16x2_t){ { signed_bytes(vsubq_u8(q.val[0], eight)),
                            signed_bytes(vsubq_u8(q.val[1], eight)) } };
}

ALWAYS_INLINE int8x16x2_t unpack_q4_1(const uint8_t *block)
{
    uint8x16x2_t q = nibbles(block + 4);
    return (int8x16x2_t){ { signed_bytes(q.val[0]), signed_bytes(q.val[1]) } };
}

ALWAYS_INLINE int8x16x2_t unpack_q5_1(const uint8_t *block)
{
    uint8x16x2_t q = nibbles(block + 8);
    uint32_t fifth = block_u32(block + 4);
    return (int8x16x2_t){ { or_signed(q.val[0], and_bytes(bits_to_bytes(fifth), 16)),
                            or_signed(q.val[1], and_bytes(bits_to_bytes(fifth >> 16), 16)) } };
}

ALWAYS_INLINE int8x16x2_t unpack_q5_0(const uint8_t *block)
{
    /* minus 16 where the fifth bit is clear: 0xf0 is both its sign extension and its value */
    uint8x16x2_t q = nibbles(block + 6);
    uint32_t clear = ~block_u32(block + 2);
    return (int8x16x2_t){ { or_signed(q.val[0], and_bytes(bits_to_bytes(clear), 0xf0)),
                            or_signed(q.val[1], and_bytes(bits_to_bytes(clear >> 16), 0xf0)) } };
}

ALWAYS_INLINE int8x16x2_t unpack_q8_0(const uint8_t *block)
{
    return (int8x16x2_t){ { signed_bytes(vld1q_u8(block + 2)), signed_bytes(vld1q_u8(block + 18)) } };
}

ALWAYS_INLINE int8x16x2_t unpack_iq4_nl(const uint8_t *block)
{
    return look_up(quant_iq4_values, nibbles(block + 2));
}

ALWAYS_INLINE int8x16x2_t unpack_mxfp4(const uint8_t *block)
{
    return look_up(quant_fp4_values, nibbles(block + 1));
}

DEFINE_SCALES(first, 0, 1.0f)

/* 2^(e-128) from its bits; below e = 2 it is subnormal; 255 is NaN. */
ALWAYS_INLINE float32x4_t scales_mxfp4(const uint8_t *block, size_t stride, int count)
{
    uint32_t bytes = block[0];
    for (int k = 1; k < count; k++)
        bytes |= (uint32_t)block[(size_t)k * stride] << 8 * k;
    uint32x4_t e = vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes))));
    uint32x4_t normal = vshlq_n_u32(vsubq_u32(e, vdupq_n_u32(1)), 23);
    uint32x4_t subnormal = vshlq_u32(vdupq_n_u32(0x200000), vreinterpretq_s32_u32(e));
    uint32x4_t nan = vandq_u32(vceqq_u32(e, vdupq_n_u32(255)), vdupq_n_u32(0x7fc00000));
    uint32x4_t bits = vbslq_u32(vcltq_u32(e, vdupq_n_u32(2)), subnormal, normal);
    return vreinterpretq_f32_u32(vorrq_u32(bits, nan));
}

/* ---- K-quants ---- */

ALWAYS_INLINE void unpack_q2_k(const uint8_t *block, struct block256 *w)
{
    uint8x16_t packed = vld1q_u8(block), scale = and_bytes(packed, 15), min = vshrq_n_u8(packed, 4);
    w->scale[0] = words_of(vget_low_u8(scale));
    w->scale[1] = words_of(vget_high_u8(scale));
    w->min[0] = words_of(vget_low_u8(min));
    w->min[1] = words_of(vget_high_u8(min));
    for (int k = 0; k < 4; k++) { /* 16 columns of half a block: every second run */
        uint8x16_t x = vld1q_u8(block + 16 + 16 * k);
        int8x16_t *q = w->q + 8 * (k / 2) + k % 2;
        q[0] = signed_bytes(and_bytes(x, 3));
        q[2] = signed_bytes(shr_and(x, 2, 3));
        q[4] = signed_bytes(shr_and(x, 4, 3));
        q[6] = signed_bytes(vshrq_n_u8(x, 6));
    }
}

ALWAYS_INLINE void unpack_q3_k(const uint8_t *block, struct block256 *w)
{
    const uint32_t nib = 0x0f0f0f0f, two = 0x03030303;
    uint32_t a = block_u32(block + 96), b = block_u32(block + 100), c = block_u32(block + 104);
    uint32_t s0 = (a & nib) | (c & two) << 4, s1 = (b & nib) | (c >> 2 & two) << 4;
    uint32_t s2 = (a >> 4 & nib) | (c >> 4 & two) << 4, s3 = (b >> 4 & nib) | (c >> 6 & two) << 4;
    const int16x8_t middle = vdupq_n_s16(32);
    w->scale[0] = vsubq_s16(words_of(vcreate_u8(s0 | (uint64_t)s1 << 32)), middle);
    w->scale[1] = vsubq_s16(words_of(vcreate_u8(s2 | (uint64_t)s3 << 32)), middle);

    const uint8x16_t four = vdupq_n_u8(4);
#define Q3_RUN(crumb, bit) signed_bytes(vsubq_u8(vorrq_u8(crumb, bit), four))
    for (int k = 0; k < 2; k++) {
        uint8x16_t high = vld1q_u8(block + 16 * k);
        uint8x16_t x = vld1q_u8(block + 32 + 16 * k), y = vld1q_u8(block + 64 + 16 * k);
        int8x16_t *q = w->q + k;
        q[0] = Q3_RUN(and_bytes(x, 3), shl_and(high, 2, 4));
        q[2] = Q3_RUN(shr_and(x, 2, 3), shl_and(high, 1, 4));
        q[4] = Q3_RUN(shr_and(x, 4, 3), and_bytes(high, 4));
        q[6] = Q3_RUN(vshrq_n_u8(x, 6), shr_and(high, 1, 4));
        q[8] = Q3_RUN(and_bytes(y, 3), shr_and(high, 2, 4));
        q[10] = Q3_RUN(shr_and(y, 2, 3), shr_and(high, 3, 4));
        q[12] = Q3_RUN(shr_and(y, 4, 3), shr_and(high, 4, 4));
        q[14] = Q3_RUN(vshrq_n_u8(y, 6), shr_and(high, 5, 4));
    }
#undef Q3_RUN
}

/* The 8 scales and 8 minima of Q4_K and Q5_K (block_scale_min_k4). */
ALWAYS_INLINE void unpack_scales_k4(const uint8_t *packed, struct block256 *w)
{
    const uint32_t six = 0x3f3f3f3f, nib = 0x0f0f0f0f, two = 0x03030303;
    uint32_t a = block_u32(packed), b = block_u32(packed + 4), c = block_u32(packed + 8);
    uint64_t scale = (a & six) | (uint64_t)((c & nib) | (a >> 6 & two) << 4) << 32;
    uint64_t min = (b & six) | (uint64_t)((c >> 4 & nib) | (b >> 6 & two) << 4) << 32;
    w->scale[0] = words_of(vcreate_u8(scale));
    w->min[0] = words_of(vcreate_u8(min));
}

ALWAYS_INLINE void unpack_q4_k(const uint8_t *block, struct block256 *w)
{
    unpack_scales_k4(block + 4, w);
    for (int k = 0; k < 8; k++) { /* 16 columns of two runs of 32 */
        uint8x16x2_t x = nibbles(block + 16 + 16 * k);
        int8x16_t *q = w->q + 4 * (k / 2) + k % 2;
        q[0] = signed_bytes(x.val[0]);
        q[2] = signed_bytes(x.val[1]);
    }
}

ALWAYS_INLINE void unpack_q5_k(const uint8_t *block, struct block256 *w)
{
    unpack_scales_k4(block + 4, w);
    for (int k = 0; k < 2; k++) {
        uint8x16_t high = vld1q_u8(block + 16 + 16 * k);
        uint8x16_t fifth[8] = {
            shl_and(high, 4, 16), shl_and(high, 3, 16), shl_and(high, 2, 16), shl_and(high, 1, 16),
            and_bytes(high, 16),  shr_and(high, 1, 16), shr_and(high, 2, 16), shr_and(high, 3, 16),
        };
        for (int pair = 0; pair < 4; pair++) {
            uint8x16x2_t x = nibbles(block + 48 + 32 * pair + 16 * k);
            w->q[4 * pair + k] = or_signed(x.val[0], fifth[2 * pair]);
            w->q[4 * pair + 2 + k] = or_signed(x.val[1], fifth[2 * pair + 1]);
        }
    }
}

ALWAYS_INLINE void unpack_q6_k(const uint8_t *block, struct block256 *w)
{
    int8x16_t scale = signed_bytes(vld1q_u8(block + 192));
    w->scale[0] = vmovl_s8(vget_low_s8(scale));
    w->scale[1] = vmovl_s8(vget_high_s8(scale));

    const uint8x16_t middle = vdupq_n_u8(32);
#define Q6_RUN(low, high) signed_bytes(vsubq_u8(vorrq_u8(low, high), middle))
    for (int k = 0; k < 4; k++) { /* 16 columns of half a block */
        int half = k / 2, column = 16 * (k % 2);
        uint8x16x2_t a = nibbles(block + 64 * half + column);
        uint8x16x2_t b = nibbles(block + 64 * half + 32 + column);
        uint8x16_t high = vld1q_u8(block + 128 + 32 * half + column);
        int8x16_t *q = w->q + 8 * half + k % 2;
        q[0] = Q6_RUN(a.val[0], shl_and(high, 4, 48));
        q[2] = Q6_RUN(b.val[0], shl_and(high, 2, 48));
        q[4] = Q6_RUN(a.val[1], and_bytes(high, 48));
        q[6] = Q6_RUN(b.val[1], shr_and(high, 2, 48));
    }
#undef Q6_RUN
}

DEFINE_SCALES(q2_k, 80, 1.0f)
DEFINE_SCALES(q3_k, 108, 1.0f)
DEFINE_SCALES(q6_k, 208, 1.0f)

/* ---- Codebooks ---- */

/* 8 nibbles of a word -> 8 words. */
ALWAYS_INLINE int16x8_t nibbles_of(uint32_t word)
{
    uint8x8_t x = vcreate_u8((word & 0x0f0f0f0f) | (uint64_t)(word >> 4 & 0x0f0f0f0f) << 32);
    return words_of(vzip1_u8(x, vext_u8(x, x, 4)));
}

/* 8 bytes of two nibbles, low first -> 16 scales. */
ALWAYS_INLINE void scales_of_nibbles(const uint8_t *p, struct block256 *w)
{
    w->scale[0] = odd(nibbles_of(block_u32(p)));
    w->scale[1] = odd(nibbles_of(block_u32(p + 4)));
}

/* The upper four bits of 8 words of 32 bits at p, p + stride, .. */
ALWAYS_INLINE int16x8_t top_nibbles(const uint8_t *p, int stride)
{
    uint64_t top = 0;
    for (int g = 0; g < 8; g++)
        top |= (uint64_t)(p[g * stride + 3] >> 4) << 8 * g;
    return words_of(vcreate_u8(top));
}

ALWAYS_INLINE uint8x16_t points2(const uint8_t a[8], const uint8_t b[8])
{
    return vcombine_u8(vld1_u8(a), vld1_u8(b));
}

ALWAYS_INLINE uint64_t point4(const uint8_t point[4])
{
    uint32_t p;
    memcpy(&p, point, sizeof p);
    return p;
}

ALWAYS_INLINE uint8x16_t points4(const uint8_t a[4], const uint8_t b[4], const uint8_t c[4],
                                 const uint8_t d[4])
{
    return vcombine_u8(vcreate_u8(point4(a) | point4(b) << 32),
                       vcreate_u8(point4(c) | point4(d) << 32));
}

/* Twice seven bits -> two sign bytes. */
ALWAYS_INLINE uint32_t parity_signs(uint32_t w)
{
    return (uint32_t)quant_sign_bytes[w & 127] | (uint32_t)quant_sign_bytes[w >> 7 & 127] << 8;
}

ALWAYS_INLINE void unpack_iq4_xs(const uint8_t *block, struct block256 *w)
{
    const int16x8_t shift = vcombine_s16(vcreate_s16(0xfffafffcfffe0000), /* 0 -2 -4 -6 */
                                         vcreate_s16(0xfff2fff4fff6fff8)); /* -8 -10 -12 -14 */
    uint16x8_t high = vshlq_u16(vdupq_n_u16(block_u16(block + 2)), shift);
    high = vshlq_n_u16(vandq_u16(high, vdupq_n_u16(3)), 4);
    int16x8_t scale = vorrq_s16(nibbles_of(block_u32(block + 4)), vreinterpretq_s16_u16(high));
    w->scale[0] = vsubq_s16(scale, vdupq_n_s16(32));
    for (int g = 0; g < 8; g++) {
        int8x16x2_t q = look_up(quant_iq4_values, nibbles(block + 8 + 16 * g));
        w->q[2 * g] = q.val[0];
        w->q[2 * g + 1] = q.val[1];
    }
}

ALWAYS_INLINE void unpack_iq2_xxs(const uint8_t *block, struct block256 *w)
{
    w->scale[0] = odd(top_nibbles(block + 6, 8));
    for (int g = 0; g < 8; g++) {
        const uint8_t *p = block + 2 + 8 * g;
        uint32_t signs = block_u32(p + 4);
        for (int h = 0; h < 2; h++)
            w->q[2 * g + h] = apply_signs(points2(quant_grid_iq2xxs[p[2 * h]],
                                                  quant_grid_iq2xxs[p[2 * h + 1]]),
                                          parity_signs(signs >> 14 * h));
    }
}

ALWAYS_INLINE void unpack_iq2_xs(const uint8_t *block, struct block256 *w)
{
    scales_of_nibbles(block + 66, w);
    for (int j = 0; j < 16; j++) {
        uint32_t a = block_u16(block + 2 + 4 * j), b = block_u16(block + 4 + 4 * j);
        w->q[j] = apply_signs(points2(quant_grid_iq2xs[a & 511], quant_grid_iq2xs[b & 511]),
                              parity_signs(a >> 9 | b >> 9 << 7));
    }
}

ALWAYS_INLINE void unpack_iq2_s(const uint8_t *block, struct block256 *w)
{
    scales_of_nibbles(block + 74, w);
    for (int j = 0; j < 16; j++) {
        const uint8_t *p = block + 2 + 2 * j;
        uint32_t high = block[66 + j / 2] >> 4 * (j % 2);
        w->q[j] = apply_signs(points2(quant_grid_iq2s[p[0] | (high << 8 & 0x300)],
                                      quant_grid_iq2s[p[1] | (high << 6 & 0x300)]),
                              block_u16(block + 34 + 2 * j));
    }
}

ALWAYS_INLINE void unpack_iq3_xxs(const uint8_t *block, struct block256 *w)
{
    w->scale[0] = odd(top_nibbles(block + 66, 4));
    for (int j = 0; j < 16; j++) {
        const uint8_t *p = block + 2 + 4 * j;
        uint32_t signs = block_u32(block + 66 + 4 * (j / 2)) >> 14 * (j % 2);
        w->q[j] = apply_signs(points4(quant_grid_iq3xxs[p[0]], quant_grid_iq3xxs[p[1]],
                                      quant_grid_iq3xxs[p[2]], quant_grid_iq3xxs[p[3]]),
                              parity_signs(signs));
    }
}

ALWAYS_INLINE void unpack_iq3_s(const uint8_t *block, struct block256 *w)
{
    w->scale[0] = odd(nibbles_of(block_u32(block + 106)));
    for (int j = 0; j < 16; j++) {
        const uint8_t *p = block + 2 + 4 * j;
        uint32_t high = block[66 + j / 2] >> 4 * (j % 2);
        w->q[j] = apply_signs(points4(quant_grid_iq3s[p[0] | (high << 8 & 256)],
                                      quant_grid_iq3s[p[1] | (high << 7 & 256)],
                                      quant_grid_iq3s[p[2] | (high << 6 & 256)],
                                      quant_grid_iq3s[p[3] | (high << 5 & 256)]),
                              block_u16(block + 74 + 2 * j));
    }
}

/* Points of IQ1 are -1, 0, 1; in eighths, with the shift of one eighth added they are whole.
 * minus_a, minus_b: the shift of each point is -1, else 1. */
ALWAYS_INLINE int8x16_t eighths(const int8_t a[8], const int8_t b[8], bool minus_a, bool minus_b)
{
    int8x16_t points = vcombine_s8(vld1_s8(a), vld1_s8(b));
    int8x16_t shift = vcombine_s8(vdup_n_s8(minus_a ? -1 : 1), vdup_n_s8(minus_b ? -1 : 1));
    return vaddq_s8(vshlq_n_s8(points, 3), shift);
}

ALWAYS_INLINE void unpack_iq1_s(const uint8_t *block, struct block256 *w)
{
    uint16x8_t high = vreinterpretq_u16_u8(vld1q_u8(block + 34));
    high = vandq_u16(vshrq_n_u16(high, 12), vdupq_n_u16(7));
    w->scale[0] = odd(vreinterpretq_s16_u16(high));
    for (int g = 0; g < 8; g++) {
        const uint8_t *p = block + 2 + 4 * g;
        uint32_t h = block_u16(block + 34 + 2 * g);
        bool minus = h & 0x8000;
        w->q[2 * g] = eighths(quant_grid_iq1[p[0] | (h << 8 & 0x700)],
                              quant_grid_iq1[p[1] | (h << 5 & 0x700)], minus, minus);
        w->q[2 * g + 1] = eighths(quant_grid_iq1[p[2] | (h << 2 & 0x700)],
                                  quant_grid_iq1[p[3] | (h >> 1 & 0x700)], minus, minus);
    }
}

ALWAYS_INLINE void unpack_iq1_m(const uint8_t *block, struct block256 *w)
{
    int16_t scale[16];
    for (int j = 0; j < 16; j++) {
        scale[j] = (int16_t)(2 * (block_u16(block + 48 + 2 * (j / 4)) >> 3 * (j % 4) & 7) + 1);
        const uint8_t *p = block + 2 * j;
        uint32_t h = block[32 + j]; /* two nibbles: 3 index bits, minus */
        w->q[j] = eighths(quant_grid_iq1[p[0] | (h << 8 & 0x700)],
                          quant_grid_iq1[p[1] | (h << 4 & 0x700)], h & 8, h & 128);
    }
    w->scale[0] = vld1q_s16(scale);
    w->scale[1] = vld1q_s16(scale + 8);
}

DEFINE_SCALES(iq2, 0, 0.125f)
DEFINE_SCALES(iq3_xxs, 0, 0.25f)

ALWAYS_INLINE float32x4_t scales_iq1_m(const uint8_t *block, size_t stride, int count)
{
    uint64_t bits = 0;
    for (int k = 0; k < count; k++) {
        const uint8_t *s = block + (size_t)k * stride + 48;
        uint64_t d = s[1] >> 4 | (s[3] & 0xf0u) | (s[5] & 0xf0u) << 4 | (s[7] & 0xf0u) << 8;
        bits |= d << 16 * k;
    }
    return vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u64(vcreate_u64(bits))), 0.125f);
}

/* ---- All types, for tables: X(TYPE, name, scales, fields of the format) ---- */

#define TYPES_256(X)                                                                              \
    X(Q2_K, q2_k, q2_k, 84, 16, 82)                                                               \
    X(Q3_K, q3_k, q3_k, 110, 16, -1)                                                              \
    X(Q4_K, q4_k, first, 144, 32, 2)                                                              \
    X(Q5_K, q5_k, first, 176, 32, 2)                                                              \
    X(Q6_K, q6_k, q6_k, 210, 16, -1)                                                              \
    X(IQ4_XS, iq4_xs, first, 136, 32, -1)                                                         \
    X(IQ3_S, iq3_s, first, 110, 32, -1)                                                           \
    X(IQ3_XXS, iq3_xxs, iq3_xxs, 98, 32, -1)                                                      \
    X(IQ2_XXS, iq2_xxs, iq2, 66, 32, -1)                                                          \
    X(IQ2_XS, iq2_xs, iq2, 74, 16, -1)                                                            \
    X(IQ2_S, iq2_s, iq2, 82, 16, -1)                                                              \
    X(IQ1_S, iq1_s, iq2, 50, 32, -1)                                                              \
    X(IQ1_M, iq1_m, iq1_m, 56, 16, -1)

#define TYPES_32(X)                                                                               \
    X(Q4_0, q4_0, first, 18, -1)                                                                  \
    X(Q4_1, q4_1, first, 20, 2)                                                                   \
    X(Q5_0, q5_0, first, 22, -1)                                                                  \
    X(Q5_1, q5_1, first, 24, 2)                                                                   \
    X(Q8_0, q8_0, first, 34, -1)                                                                  \
    X(IQ4_NL, iq4_nl, first, 18, -1)                                                              \
    X(MXFP4, mxfp4, mxfp4, 17, -1)

#endif
