/* The dot products' part that is the same for every vector width: types of 32 elements, and one
 * function per type. The including file has defined
 *
 *   TILE             tokens per unpacked block
 *   ISA_NAME(name)   the name with its ISA
 *   dot_bytes(u, s)  products of unsigned and signed bytes, four to a sum
 *   dot256()         the loop for types of 256
 *
 * and gets ISA_NAME(use_dot). */
#ifndef TANDEM_CPU_AVX2_DOT_KERNELS_H
#define TANDEM_CPU_AVX2_DOT_KERNELS_H

#include "cpu/avx2/sums.h"

/* ---- 32 elements, activations Q8_0 or Q8_1 ---- */

ALWAYS_INLINE void dot32(int64_t n, const uint8_t *row, const uint8_t *act, size_t act_stride,
                         int n_tokens, float *out, const struct format32 f, unpack32_fn *unpack,
                         scales_fn *scales)
{
    const bool has_m = f.m_at >= 0;
    const int act_bytes = has_m ? Q8_1_BYTES : Q8_0_BYTES, qs = has_m ? Q8_1_QS : Q8_0_QS;
    const __m256i ones = _mm256_set1_epi8(1);
    __m128 sum[TILE];
    for (int t = 0; t < n_tokens; t++)
        sum[t] = _mm_setzero_ps();

    for (int64_t b = 0, n_blocks = n / 32; b < n_blocks; b += 4) {
        int count = n_blocks - b < 4 ? (int)(n_blocks - b) : 4;
        const uint8_t *w4 = row + b * f.bytes, *a4 = act + b * act_bytes;
        prefetch_ahead(w4, 4 * f.bytes);
        __m256i w[4], magnitude[4];
        for (int j = 0; j < 4; j++) {
            w[j] = j < count ? unpack(w4 + j * f.bytes) : _mm256_setzero_si256();
            magnitude[j] = has_m ? w[j] : _mm256_abs_epi8(w[j]);
        }
        __m128 d = scales(w4, f.bytes, count), m = _mm_setzero_ps();
        if (has_m)
            m = f16x4(w4 + f.m_at, f.bytes, count);

        for (int t = 0; t < n_tokens; t++) {
            const uint8_t *a = a4 + t * act_stride;
            __m256i isum[4], asum[4];
            for (int j = 0; j < 4; j++) {
                __m256i q = j < count ? load256(a + j * act_bytes + qs) : _mm256_setzero_si256();
                isum[j] = dot_bytes(magnitude[j], has_m ? q : _mm256_sign_epi8(q, w[j]));
                if (has_m)
                    asum[j] = dot_bytes(ones, q);
            }
            __m128 da = f16x4(a, act_bytes, count);
            __m128 s = scaled(d, da, sums4(isum));
            if (has_m)
                s = _mm_add_ps(s, scaled(m, da, sums4(asum)));
            sum[t] = _mm_add_ps(sum[t], s);
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
    static void ISA_NAME(dot_##name)(DOT_PARAMETERS)                                              \
    {                                                                                             \
        const struct format256 f = { __VA_ARGS__ };                                               \
        TILES_OF_TOKENS(dot256(n, row, a, act_stride, tokens, out + t, f, unpack_##name,          \
                               scales_##scales))                                                  \
    }
TYPES_256(DEFINE_256)

#define DEFINE_32(T, name, scales, ...)                                                           \
    static void ISA_NAME(dot_##name)(DOT_PARAMETERS)                                              \
    {                                                                                             \
        const struct format32 f = { __VA_ARGS__ };                                                \
        TILES_OF_TOKENS(                                                                          \
            dot32(n, row, a, act_stride, tokens, out + t, f, unpack_##name, scales_##scales))     \
    }
TYPES_32(DEFINE_32)

void ISA_NAME(use_dot)(struct kernels *k)
{
#define SET_DOT(T, name, ...) k->dot[TYPE_##T] = ISA_NAME(dot_##name);
    TYPES_256(SET_DOT)
    TYPES_32(SET_DOT)
}

#endif
