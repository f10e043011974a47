/* Blocks to floats, NEON: the unpacked bytes times their scales, in the order of the formulas of
 * quant_blocks.h, so that the bits are those of plain C. The scale of a run, d * scale, and its
 * minimum, dmin * min, are exact in binary32; so is their product with q: rounding happens only in
 * the last subtraction or addition, if there is one. */
#include "cpu/neon/table.h"
#include "cpu/neon/unpack.h"

/* 16 bytes -> 16 floats. */
ALWAYS_INLINE float32x4x4_t floats_of(int8x16_t q)
{
    int16x8_t low = vmovl_s8(vget_low_s8(q)), high = vmovl_high_s8(q);
    return (float32x4x4_t){ { vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                              vcvtq_f32_s32(vmovl_high_s16(low)),
                              vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                              vcvtq_f32_s32(vmovl_high_s16(high)) } };
}

/* d times 8 words. */
ALWAYS_INLINE void store_scaled(float out[8], float d, int16x8_t words)
{
    vst1q_f32(out, vmulq_n_f32(vcvtq_f32_s32(vmovl_s16(vget_low_s16(words))), d));
    vst1q_f32(out + 4, vmulq_n_f32(vcvtq_f32_s32(vmovl_high_s16(words)), d));
}

ALWAYS_INLINE void decode256(const uint8_t *block, float *out, int64_t n, const struct format256 f,
                             unpack256_fn *unpack, scales_fn *scales)
{
    for (int64_t b = 0; b < n / 256; b++, block += f.bytes) {
        struct block256 w;
        unpack(block, &w);
        float scale[16], min[16];
        float d = vgetq_lane_f32(scales(block, 0, 1), 0), dmin = 0;
        if (f.dmin_at >= 0)
            dmin = vgetq_lane_f32(f16x4(block + f.dmin_at, 0, 1), 0);
        for (int k = 0; k < 32 / f.run; k++) {
            store_scaled(scale + 8 * k, d, w.scale[k]);
            if (f.dmin_at >= 0)
                store_scaled(min + 8 * k, dmin, w.min[k]);
        }
        for (int j = 0; j < 16; j++) {
            int run = 16 * j / f.run;
            float32x4x4_t x = floats_of(w.q[j]);
            for (int k = 0; k < 4; k++, out += 4) {
                float32x4_t y = vmulq_n_f32(x.val[k], scale[run]);
                if (f.dmin_at >= 0)
                    y = vsubq_f32(y, vdupq_n_f32(min[run]));
                vst1q_f32(out, y);
            }
        }
    }
}

ALWAYS_INLINE void decode32(const uint8_t *block, float *out, int64_t n, const struct format32 f,
                            unpack32_fn *unpack, scales_fn *scales)
{
    for (int64_t b = 0; b < n / 32; b++, block += f.bytes) {
        int8x16x2_t w = unpack(block);
        float d = vgetq_lane_f32(scales(block, 0, 1), 0), m = 0;
        if (f.m_at >= 0)
            m = vgetq_lane_f32(f16x4(block + f.m_at, 0, 1), 0);
        for (int h = 0; h < 2; h++) {
            float32x4x4_t x = floats_of(w.val[h]);
            for (int k = 0; k < 4; k++, out += 4) {
                float32x4_t y = vmulq_n_f32(x.val[k], d);
                if (f.m_at >= 0)
                    y = vaddq_f32(y, vdupq_n_f32(m));
                vst1q_f32(out, y);
            }
        }
    }
}

#define DEFINE_256(T, name, scales, ...)                                                          \
    static void decode_##name##_neon(const void *blocks, float *out, int64_t n)                   \
    {                                                                                             \
        const struct format256 f = { __VA_ARGS__ };                                               \
        decode256(blocks, out, n, f, unpack_##name, scales_##scales);                             \
    }
TYPES_256(DEFINE_256)

#define DEFINE_32(T, name, scales, ...)                                                           \
    static void decode_##name##_neon(const void *blocks, float *out, int64_t n)                   \
    {                                                                                             \
        const struct format32 f = { __VA_ARGS__ };                                                \
        decode32(blocks, out, n, f, unpack_##name, scales_##scales);                              \
    }
TYPES_32(DEFINE_32)

void use_decode_neon(struct kernels *k)
{
#define SET(T, name, ...) k->decode[TYPE_##T] = decode_##name##_neon;
    TYPES_256(SET)
    TYPES_32(SET)
}
