/* Activations to int8 blocks, NEON. Every operation is one that plain C performs in the same order
 * (largest magnitude, one division, one multiplication, one rounding), so the bits agree; the
 * hardware has both roundings, half away from zero and half to even.
 *
 * Magnitudes are compared as integers: without their sign, floats order like their bits, and what
 * is not finite comes behind all that is. */
#include <math.h>

#include "cpu/neon/sums.h"
#include "cpu/neon/table.h"

#define INFINITE_BITS 0x7f800000u

ALWAYS_INLINE uint32x4_t magnitude_bits(const float *x)
{
    return vreinterpretq_u32_f32(vabsq_f32(vld1q_f32(x)));
}

/* Bits of the largest magnitude of n values, n a multiple of 16. */
ALWAYS_INLINE uint32_t largest_bits(const float *x, int n)
{
    uint32x4_t most[4] = { vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0), vdupq_n_u32(0) };
    for (int i = 0; i < n; i += 16)
        for (int k = 0; k < 4; k++)
            most[k] = vmaxq_u32(most[k], magnitude_bits(x + i + 4 * k));
    return vmaxvq_u32(vmaxq_u32(vmaxq_u32(most[0], most[1]), vmaxq_u32(most[2], most[3])));
}

ALWAYS_INLINE float float_of_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Four vectors of whole numbers within int8 -> 16 bytes in order. */
ALWAYS_INLINE int8x16_t pack_bytes(const int32x4_t v[4])
{
    int16x8_t low = vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1]));
    int16x8_t high = vcombine_s16(vmovn_s32(v[2]), vmovn_s32(v[3]));
    return vcombine_s8(vmovn_s16(low), vmovn_s16(high));
}

/* 32 floats to bytes; returns d = amax / 127, not yet rounded to f16. */
ALWAYS_INLINE float encode32(const float *x, int8x16_t q[2])
{
    uint32_t most = largest_bits(x, 32);
    float d = most < INFINITE_BITS ? float_of_bits(most) / 127.0f : NAN;
    float inverse = 1.0f / d;
    if (!isfinite(inverse))
        inverse = 0; /* then every product below is zero or NaN, and both become 0 */
    for (int h = 0; h < 2; h++) {
        int32x4_t r[4];
        for (int k = 0; k < 4; k++) /* to nearest, ties away from zero */
            r[k] = vcvtaq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * h + 4 * k), inverse));
        q[h] = pack_bytes(r);
    }
    return d;
}

ALWAYS_INLINE void store_f16(uint8_t *p, float x)
{
    float16x4_t h = vcvt_f16_f32(vdupq_n_f32(x));
    block_put_u16(p, vget_lane_u16(vreinterpret_u16_f16(h), 0));
}

ALWAYS_INLINE void store_bytes(uint8_t *p, int8x16_t q)
{
    vst1q_s8((int8_t *)p, q);
}

static void quantize_q8_0_neon(const float *x, void *blocks, int64_t n)
{
    uint8_t *block = blocks;
    for (int64_t b = 0; b < n / 32; b++, x += 32, block += Q8_0_BYTES) {
        int8x16_t q[2];
        store_f16(block, encode32(x, q));
        store_bytes(block + Q8_0_QS, q[0]);
        store_bytes(block + Q8_0_QS + 16, q[1]);
    }
}

static void quantize_q8_1_neon(const float *x, void *blocks, int64_t n)
{
    uint8_t *block = blocks;
    for (int64_t b = 0; b < n / 32; b++, x += 32, block += Q8_1_BYTES) {
        int8x16_t q[2];
        float d = encode32(x, q);
        store_f16(block, d);
        store_f16(block + 2, d * (float)(vaddlvq_s8(q[0]) + vaddlvq_s8(q[1])));
        store_bytes(block + Q8_1_QS, q[0]);
        store_bytes(block + Q8_1_QS + 16, q[1]);
    }
}

/* The first of 256 values that has the magnitude with these bits; one has. */
ALWAYS_INLINE float first_with(const float *x, uint32_t bits)
{
    for (int i = 0; i < 256; i += 4) {
        uint16x4_t same = vmovn_u32(vceqq_u32(magnitude_bits(x + i), vdupq_n_u32(bits)));
        uint64_t mask = vget_lane_u64(vreinterpret_u64_u16(same), 0);
        if (mask)
            return x[i + __builtin_ctzll(mask) / 16];
    }
    return 0;
}

static void quantize_q8_k_neon(const float *x, void *blocks, int64_t n)
{
    uint8_t *block = blocks;
    for (int64_t b = 0; b < n / 256; b++, x += 256, block += Q8_K_BYTES) {
        uint32_t most = largest_bits(x, 256);
        float inverse = -127.0f / first_with(x, most), d = 1.0f / inverse;
        if (most >= INFINITE_BITS || !isfinite(inverse)) {
            d = most >= INFINITE_BITS ? NAN : 0;
            memset(block, 0, Q8_K_BYTES);
            memcpy(block, &d, sizeof d);
            continue;
        }
        memcpy(block, &d, sizeof d);
        for (int run = 0; run < 16; run++) {
            int32x4_t r[4];
            for (int k = 0; k < 4; k++) /* to nearest, ties to even */
                r[k] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + 16 * run + 4 * k), inverse));
            int8x16_t q = pack_bytes(r);
            store_bytes(block + Q8_K_QS + 16 * run, q);
            block_put_u16(block + Q8_K_BSUMS + 2 * run, (uint16_t)vaddlvq_s8(q));
        }
    }
}

void use_quantize_neon(struct kernels *k)
{
    k->quantize[TYPE_Q8_0] = quantize_q8_0_neon;
    k->quantize[TYPE_Q8_1] = quantize_q8_1_neon;
    k->quantize[TYPE_Q8_K] = quantize_q8_k_neon;
}
