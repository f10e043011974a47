/* Dot products of quantized rows, NEON with the dot product extension.
 *
 * Integers are exact, so only the float part has an order, and it is that of the other vector
 * instruction sets (cpu/avx2/dot.c): block b adds
 *
 *     (d_w * d_a) * isum - (dmin * d_a) * msum        or, types of 32,   (d_w * d_a) * isum
 *                                                                      + (m * d_a) * asum
 *
 * to partial sum b mod 4, each operation rounded, but types of 32 multiply and add in one (first
 * isum, then asum); the result is (p0 + p2) + (p1 + p3). So a token gets the same bits alone or in a
 * batch, on ARM or on x86.
 *
 * Four blocks make one step: each is unpacked once into registers (16 of the 32 for a block of 256)
 * and multiplied with every token of the tile; sdot adds four products of signed bytes to each lane,
 * one multiply-add applies the scale of a run. The vectors of sums wait in a small array, and one
 * pairwise addition per token turns four of them into the four isums. */
#include "cpu/neon/sums.h"
#include "cpu/neon/table.h"

#define TILE 8 /* tokens per unpacked block: their sums wait in 1 KiB */

/* ---- 256 elements, activations Q8_K ---- */

/* Products of one run, unscaled. */
ALWAYS_INLINE int32x4_t dot_run(const struct block256 *w, const int8_t *a, int j, const int run)
{
    int32x4_t p = vdotq_s32(vdupq_n_s32(0), w->q[j], vld1q_s8(a + 16 * j));
    return run == 32 ? vdotq_s32(p, w->q[j + 1], vld1q_s8(a + 16 * j + 16)) : p;
}

/* Products of a block, each run times its scale. */
ALWAYS_INLINE int32x4_t dot_block(const struct block256 *w, const int32x4_t scale[4],
                                  const int8_t *a, const int run)
{
    const int step = run / 16;
    int32x4_t sum = vdupq_n_s32(0);
    for (int k = 0; k < 4 / step; k++) {
        int j = 4 * k * step;
        sum = vmlaq_laneq_s32(sum, dot_run(w, a, j, run), scale[k], 0);
        sum = vmlaq_laneq_s32(sum, dot_run(w, a, j + step, run), scale[k], 1);
        sum = vmlaq_laneq_s32(sum, dot_run(w, a, j + 2 * step, run), scale[k], 2);
        sum = vmlaq_laneq_s32(sum, dot_run(w, a, j + 3 * step, run), scale[k], 3);
    }
    return sum;
}

/* Sums of activations times minima; the activation has a sum for every 16 elements. */
ALWAYS_INLINE int32x4_t dot_minima(const struct block256 *w, const uint8_t *bsums, const int run)
{
    int16x8_t a = vreinterpretq_s16_u8(vld1q_u8(bsums));
    int16x8_t b = vreinterpretq_s16_u8(vld1q_u8(bsums + 16));
    if (run == 32)
        a = vpaddq_s16(a, b);
    int32x4_t sum = vmull_s16(vget_low_s16(a), vget_low_s16(w->min[0]));
    sum = vmlal_high_s16(sum, a, w->min[0]);
    if (run == 16) {
        sum = vmlal_s16(sum, vget_low_s16(b), vget_low_s16(w->min[1]));
        sum = vmlal_high_s16(sum, b, w->min[1]);
    }
    return sum;
}

ALWAYS_INLINE void dot256(int64_t n, const uint8_t *row, const uint8_t *act, size_t act_stride,
                          int n_tokens, float *out, const struct format256 f,
                          unpack256_fn *unpack, scales_fn *scales)
{
    const bool has_min = f.dmin_at >= 0;
    float32x4_t sum[TILE];
    int32x4_t isum[TILE][4], msum[TILE][4];
    for (int t = 0; t < n_tokens; t++)
        sum[t] = vdupq_n_f32(0);

    for (int64_t b = 0, n_blocks = n / 256; b < n_blocks; b += 4) {
        int count = n_blocks - b < 4 ? (int)(n_blocks - b) : 4;
        const uint8_t *w4 = row + b * f.bytes, *a4 = act + b * Q8_K_BYTES;
        for (int j = 0; j < count; j++) {
            struct block256 w;
            int32x4_t scale[4];
            prefetch_ahead(w4 + j * f.bytes, f.bytes);
            unpack(w4 + j * f.bytes, &w);
            for (int k = 0; k < 32 / f.run; k++) {
                scale[2 * k] = vmovl_s16(vget_low_s16(w.scale[k]));
                scale[2 * k + 1] = vmovl_high_s16(w.scale[k]);
            }
            for (int t = 0; t < n_tokens; t++) {
                const uint8_t *a = a4 + (size_t)t * act_stride + j * Q8_K_BYTES;
                isum[t][j] = dot_block(&w, scale, (const int8_t *)a + Q8_K_QS, f.run);
                if (has_min)
                    msum[t][j] = dot_minima(&w, a + Q8_K_BSUMS, f.run);
            }
        }
        float32x4_t d = scales(w4, f.bytes, count), dmin = vdupq_n_f32(0);
        if (has_min)
            dmin = f16x4(w4 + f.dmin_at, f.bytes, count);
        for (int t = 0; t < n_tokens; t++) {
            for (int j = count; j < 4; j++)
                isum[t][j] = msum[t][j] = vdupq_n_s32(0);
            float32x4_t da = f32x4(a4 + (size_t)t * act_stride, Q8_K_BYTES, count);
            float32x4_t s = scaled(d, da, sums4(isum[t]));
            if (has_min)
                s = vsubq_f32(s, scaled(dmin, da, sums4(msum[t])));
            sum[t] = vaddq_f32(sum[t], s);
        }
    }
    for (int t = 0; t < n_tokens; t++)
        out[t] = fold4(sum[t]);
}

/* ---- 32 elements, activations Q8_0 or Q8_1 ---- */

/* Four sums whose total is the product of 32 bytes. */
ALWAYS_INLINE int32x4_t dot_bytes(int8x16x2_t w, int8x16_t a0, int8x16_t a1)
{
    return vdotq_s32(vdotq_s32(vdupq_n_s32(0), w.val[0], a0), w.val[1], a1);
}

ALWAYS_INLINE void dot32(int64_t n, const uint8_t *row, const uint8_t *act, size_t act_stride,
                         int n_tokens, float *out, const struct format32 f, unpack32_fn *unpack,
                         scales_fn *scales)
{
    const bool has_m = f.m_at >= 0;
    const int act_bytes = has_m ? Q8_1_BYTES : Q8_0_BYTES, qs = has_m ? Q8_1_QS : Q8_0_QS;
    const int8x16x2_t zeros = { { vdupq_n_s8(0), vdupq_n_s8(0) } };
    const int8x16x2_t ones = { { vdupq_n_s8(1), vdupq_n_s8(1) } };
    float32x4_t sum[TILE];
    for (int t = 0; t < n_tokens; t++)
        sum[t] = vdupq_n_f32(0);

    for (int64_t b = 0, n_blocks = n / 32; b < n_blocks; b += 4) {
        int count = n_blocks - b < 4 ? (int)(n_blocks - b) : 4;
        const uint8_t *w4 = row + b * f.bytes, *a4 = act + b * act_bytes;
        int8x16x2_t w[4];
        prefetch_ahead(w4, 4 * f.bytes);
        for (int j = 0; j < 4; j++)
            w[j] = j < count ? unpack(w4 + j * f.bytes) : zeros;
        float32x4_t d = scales(w4, f.bytes, count), m = vdupq_n_f32(0);
        if (has_m)
            m = f16x4(w4 + f.m_at, f.bytes, count);

        for (int t = 0; t < n_tokens; t++) {
            const uint8_t *a = a4 + (size_t)t * act_stride;
            int32x4_t isum[4], asum[4];
            for (int j = 0; j < 4; j++) {
                const int8_t *q = (const int8_t *)a + j * act_bytes + qs;
                int8x16_t q0 = j < count ? vld1q_s8(q) : zeros.val[0];
                int8x16_t q1 = j < count ? vld1q_s8(q + 16) : zeros.val[0];
                isum[j] = dot_bytes(w[j], q0, q1);
                if (has_m)
                    asum[j] = dot_bytes(ones, q0, q1);
            }
            float32x4_t da = f16x4(a, act_bytes, count);
            sum[t] = plus_scaled(sum[t], d, da, sums4(isum));
            if (has_m)
                sum[t] = plus_scaled(sum[t], m, da, sums4(asum));
        }
    }
    for (int t = 0; t < n_tokens; t++)
        out[t] = fold4(sum[t]);
}

/* ---- One function per type ---- */

#define DOT_PARAMETERS                                                                            \
    int64_t n, const void *row, const void *act, size_t act_stride, int n_tokens, float *out

#define TILES_OF_TOKENS(call)                                                                     \
    for (int t = 0; t < n_tokens; t += TILE) {                                                    \
        const uint8_t *a = (const uint8_t *)act + (size_t)t * act_stride;                         \
        int tokens = n_tokens - t < TILE ? n_tokens - t : TILE;                                   \
        call;                                                                                     \
    }

#define DEFINE_256(T, name, scales, ...)                                                          \
    static void dot_##name##_neon(DOT_PARAMETERS)                                                 \
    {                                                                                             \
        const struct format256 f = { __VA_ARGS__ };                                               \
        TILES_OF_TOKENS(dot256(n, row, a, act_stride, tokens, out + t, f, unpack_##name,          \
                               scales_##scales))                                                  \
    }
TYPES_256(DEFINE_256)

#define DEFINE_32(T, name, scales, ...)                                                           \
    static void dot_##name##_neon(DOT_PARAMETERS)                                                 \
    {                                                                                             \
        const struct format32 f = { __VA_ARGS__ };                                                \
        TILES_OF_TOKENS(                                                                          \
            dot32(n, row, a, act_stride, tokens, out + t, f, unpack_##name, scales_##scales))     \
    }
TYPES_32(DEFINE_32)

void use_dot_neon(struct kernels *k)
{
#define SET_DOT(T, name, ...) k->dot[TYPE_##T] = dot_##name##_neon;
    TYPES_256(SET_DOT)
    TYPES_32(SET_DOT)
}
