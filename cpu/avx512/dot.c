/* Dot products of quantized rows, AVX-512 with VNNI. The plan, the order of the sums and the bits
 * are those of cpu/avx2/dot.c; here 64 bytes of a block of 256 go in one step. */
#include "cpu/avx2/sums.h"
#include "cpu/avx512/table.h"

#define TILE 8 /* tokens per unpacked block */
#define ISA_NAME(name) name##_avx512

/* Two vectors of 32 bytes side by side. */
ALWAYS_INLINE __m512i pair(__m256i low, __m256i high)
{
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* Minus q where the weight is negative. */
ALWAYS_INLINE __m512i signed_by(__m512i q, __mmask64 minus)
{
    return _mm512_mask_sub_epi8(q, minus, _mm512_setzero_si512(), q);
}

/* The sums of four vectors of 16 dwords, in order. */
ALWAYS_INLINE __m128i sums4_wide(const __m512i v[4])
{
    __m512i ab = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]),
                                  _mm512_unpackhi_epi32(v[0], v[1]));
    __m512i cd = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]),
                                  _mm512_unpackhi_epi32(v[2], v[3]));
    __m512i abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(abcd),
                                    _mm512_extracti64x4_epi64(abcd, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

/* Scales of runs as words beside their products: 64 bytes are four runs, a word is two bytes. */
ALWAYS_INLINE void spread_scales(__m256i scale, __m512i spread[4])
{
    const __m512i pick = pair(_mm256_set_m128i(_mm_set1_epi16(1), _mm_set1_epi16(0)),
                              _mm256_set_m128i(_mm_set1_epi16(3), _mm_set1_epi16(2)));
    __m512i all = _mm512_castsi256_si512(scale);
    for (int k = 0; k < 4; k++) {
        __m512i runs = _mm512_add_epi16(pick, _mm512_set1_epi16((short)(4 * k)));
        spread[k] = _mm512_permutexvar_epi16(runs, all);
    }
}

/* `count` blocks of a row, at most 4, times those of n_tokens activations: added to sum[]. */
ALWAYS_INLINE void step256(const uint8_t *w4, const uint8_t *a4, size_t act_stride, int n_tokens,
                           const int count, __m128 sum[], const struct format256 f,
                           unpack256_fn *unpack, scales_fn *scales)
{
    __m512i isum[TILE][4];
    __m256i msum[TILE][4];
    for (int j = 0; j < count; j++) {
        struct block256 w;
        __m512i q[4], scale[4];
        __mmask64 minus[4];
        prefetch_ahead(w4 + j * f.bytes, f.bytes);
        unpack(w4 + j * f.bytes, &w);
        spread_scales(w.scale, scale);
        __m256i correction = _mm256_mullo_epi16(w.scale, _mm256_set1_epi16((short)-f.offset));
        for (int k = 0; k < 4; k++) {
            q[k] = pair(w.q[2 * k], w.q[2 * k + 1]);
            minus[k] = _mm512_movepi8_mask(q[k]);
            if (f.is_signed)
                q[k] = _mm512_abs_epi8(q[k]);
        }
        for (int t = 0; t < n_tokens; t++) {
            const uint8_t *a = a4 + t * act_stride + j * Q8_K_BYTES;
            __m256i bsums = load256(a + Q8_K_BSUMS);
            __m512i products = _mm512_setzero_si512();
            if (f.offset)
                products = _mm512_zextsi256_si512(_mm256_madd_epi16(bsums, correction));
            for (int k = 0; k < 4; k++) {
                __m512i x = _mm512_loadu_si512(a + Q8_K_QS + 64 * k);
                if (f.is_signed)
                    x = signed_by(x, minus[k]);
                products = _mm512_dpwssd_epi32(products, _mm512_maddubs_epi16(q[k], x),
                                               scale[k]);
            }
            isum[t][j] = products;
            if (f.dmin_at >= 0)
                msum[t][j] = _mm256_madd_epi16(bsums, w.min);
        }
    }
    __m128 d = scales(w4, f.bytes, count), dmin = _mm_setzero_ps();
    if (f.dmin_at >= 0)
        dmin = f16x4(w4 + f.dmin_at, f.bytes, count);
    for (int t = 0; t < n_tokens; t++) {
        for (int j = count; j < 4; j++) {
            isum[t][j] = _mm512_setzero_si512();
            msum[t][j] = _mm256_setzero_si256();
        }
        __m128 da = f32x4(a4 + t * act_stride, Q8_K_BYTES, count);
        __m128 s = scaled(d, da, sums4_wide(isum[t]));
        if (f.dmin_at >= 0)
            s = _mm_sub_ps(s, scaled(dmin, da, sums4(msum[t])));
        sum[t] = _mm_add_ps(sum[t], s);
    }
}

/* Two blocks of 32 side by side would cost more to bring together than they save, so those types
 * stay at 32 bytes a step. */
ALWAYS_INLINE __m256i dot_bytes(__m256i u, __m256i s)
{
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), u, s);
}

#include "cpu/avx2/dot_kernels.h"
