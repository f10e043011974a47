/* The dot products' part that is the same for every vector width: types of 32 elements, and one
 * function per type. The including file has defined
 *
 *   TILE             tokens per unpacked block
 *   ISA_NAME(name)   the name with its ISA
 *   dot_bytes(u, s)  products of unsigned and signed bytes, four to a sum
 *   step256()        four blocks of 256, see step32
 *
 * and gets ISA_NAME(use_dot). */
#ifndef TANDEM_CPU_AVX2_DOT_KERNELS_H
#define TANDEM_CPU_AVX2_DOT_KERNELS_H

#include "cpu/avx2/sums.h"

/* ---- 32 elements, activations Q8_0 or Q8_1 ---- */

/* `count` blocks of a row, at most 4, times those of n_tokens activations: added to sum[]. */
ALWAYS_INLINE void step32(const uint8_t *w4, const uint8_t *a4, size_t act_stride, int n_tokens,
                          const int count, __m128 sum[], const struct format32 f,
                          unpack32_fn *unpack, scales_fn *scales)
{
    const bool has_m = f.m_at >= 0;
    const int act_bytes = has_m ? Q8_1_BYTES : Q8_0_BYTES, qs = has_m ? Q8_1_QS : Q8_0_QS;
    const __m256i ones = _mm256_set1_epi8(1), zero = _mm256_setzero_si256();
    prefetch_ahead(w4, 4 * f.bytes);
    __m256i w[4], magnitude[4];
    for (int j = 0; j < 4; j++) {
        w[j] = j < count ? unpack(w4 + j * f.bytes) : zero;
        magnitude[j] = has_m ? w[j] : _mm256_abs_epi8(w[j]);
    }
    __m128 d = scales(w4, f.bytes, count), m = _mm_setzero_ps();
    if (has_m)
        m = f16x4(w4 + f.m_at, f.bytes, count);

    for (int t = 0; t < n_tokens; t++) {
        const uint8_t *a = a4 + t * act_stride;
        __m256i isum[4], asum[4];
        for (int j = 0; j < 4; j++) {
            __m256i q = j < count ? load256(a + j * act_bytes + qs) : zero;
            isum[j] = dot_bytes(magnitude[j], has_m ? q : _mm256_sign_epi8(q, w[j]));
            if (has_m)
                asum[j] = dot_bytes(ones, q);
        }
        __m128 da = f16x4(a, act_bytes, count);
        sum[t] = plus_scaled(sum[t], d, da, sums4(isum));
        if (has_m)
            sum[t] = plus_scaled(sum[t], m, da, sums4(asum));
    }
}

/* ---- One function per type ---- */

#define DOT_PARAMETERS                                                                            \
    int64_t n, const void *row, const void *act, size_t act_stride, int n_tokens, float *out

/* One token is the case of every decode step: with constants for the numbers of tokens and blocks
 * of a step its sums stay in registers, which is worth a tenth for types of 256 and a third for
 * types of 32. */
#define DEFINE_DOT(name, step, f, block, act_bytes, scales)                                       \
    ALWAYS_INLINE void name##_tile(int64_t n, const uint8_t *row, const uint8_t *act,             \
                                   size_t act_stride, const int n_tokens, float *out)             \
    {                                                                                             \
        __m128 sum[TILE];                                                                         \
        int64_t b = 0, n_blocks = n / (block);                                                    \
        for (int t = 0; t < n_tokens; t++)                                                        \
            sum[t] = _mm_setzero_ps();                                                            \
        for (; b + 4 <= n_blocks; b += 4)                                                         \
            step(row + b * (f).bytes, act + b * (act_bytes), act_stride, n_tokens, 4, sum, f,     \
                 unpack_##name, scales_##scales);                                                 \
        if (b < n_blocks)                                                                         \
            step(row + b * (f).bytes, act + b * (act_bytes), act_stride, n_tokens,                \
                 (int)(n_blocks - b), sum, f, unpack_##name, scales_##scales);                    \
        for (int t = 0; t < n_tokens; t++)                                                        \
            out[t] = fold4(sum[t]);                                                               \
    }                                                                                             \
    static void ISA_NAME(dot_##name)(DOT_PARAMETERS)                                              \
    {                                                                                             \
        if (n_tokens == 1)                                                                        \
            name##_tile(n, row, act, 0, 1, out);                                                  \
        for (int t = 0; n_tokens > 1 && t < n_tokens; t += TILE)                                  \
            name##_tile(n, row, (const uint8_t *)act + (size_t)t * act_stride, act_stride,        \
                        n_tokens - t < TILE ? n_tokens - t : TILE, out + t);                      \
    }

#define DEFINE_256(T, name, scales, ...)                                                          \
    DEFINE_DOT(name, step256, ((const struct format256){ __VA_ARGS__ }), 256, Q8_K_BYTES, scales)
TYPES_256(DEFINE_256)

#define DEFINE_32(T, name, scales, bytes, m_at, most)                                             \
    DEFINE_DOT(name, step32, ((const struct format32){ bytes, m_at, most }), 32,                  \
               (m_at) >= 0 ? Q8_1_BYTES : Q8_0_BYTES, scales)
TYPES_32(DEFINE_32)

void ISA_NAME(use_dot)(struct kernels *k)
{
#define SET_DOT(T, name, ...) k->dot[TYPE_##T] = ISA_NAME(dot_##name);
    TYPES_256(SET_DOT)
    TYPES_32(SET_DOT)
}

#endif
