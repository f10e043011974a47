/* Dot products of quantized rows, AVX2.
 *
 * Integers are exact, so only the float part has an order, and it is the same in every version of
 * this file (AVX-512, matrix tiles): block b adds
 *
 *     (d_w * d_a) * isum - (dmin * d_a) * msum        or, types of 32,   (d_w * d_a) * isum
 *                                                                      + (m * d_a) * asum
 *
 * to partial sum b mod 4, each operation rounded, but types of 32 multiply and add in one (first
 * isum, then asum); the result is (p0 + p2) + (p1 + p3). So a token gets the same bits from each of
 * them, alone or in a batch.
 *
 * Four blocks make one step: each is unpacked once and multiplied with every token of the tile, the
 * vectors of products wait in a small array, and one transposing sum per token turns four of them
 * into the four isums. Bytes are multiplied by maddubs, unsigned times signed: pair sums stay
 * within 16 bits as the unsigned side is at most 128 and activations are never -128. */
#include "cpu/avx2/sums.h"
#include "cpu/avx2/table.h"
#include "cpu/avx2/unpack.h"

#define TILE 8 /* tokens per unpacked block: their products wait in 2 KiB */
#define ISA_NAME(name) name##_avx2

ALWAYS_INLINE __m256i dot_bytes(__m256i u, __m256i s)
{
    return _mm256_madd_epi16(_mm256_maddubs_epi16(u, s), _mm256_set1_epi16(1));
}

/* Scales of run pairs as words beside their products: lane l of vector k takes run 2k (low half) or
 * 2k + 1 (high half). */
ALWAYS_INLINE void spread_scales(__m256i scale, __m256i spread[8])
{
    __m256i low = _mm256_permute2x128_si256(scale, scale, 0x00);
    __m256i high = _mm256_permute2x128_si256(scale, scale, 0x11);
    for (int k = 0; k < 4; k++) {
        __m256i pick = _mm256_set_m128i(_mm_set1_epi16((short)(0x0100 * (4 * k + 3) + 4 * k + 2)),
                                        _mm_set1_epi16((short)(0x0100 * (4 * k + 1) + 4 * k)));
        spread[k] = _mm256_shuffle_epi8(low, pick);
        spread[k + 4] = _mm256_shuffle_epi8(high, pick);
    }
}

/* `count` blocks of a row, at most 4, times those of n_tokens activations: added to sum[]. */
ALWAYS_INLINE void step256(const uint8_t *w4, const uint8_t *a4, size_t act_stride, int n_tokens,
                           const int count, __m128 sum[], const struct format256 f,
                           unpack256_fn *unpack, scales_fn *scales)
{
    __m256i isum[TILE][4], msum[TILE][4];
    for (int j = 0; j < count; j++) {
        struct block256 w;
        __m256i scale[8], magnitude[8];
        prefetch_ahead(w4 + j * f.bytes, f.bytes);
        unpack(w4 + j * f.bytes, &w);
        spread_scales(w.scale, scale);
        __m256i correction = _mm256_mullo_epi16(w.scale, _mm256_set1_epi16((short)-f.offset));
        for (int k = 0; k < 8; k++)
            magnitude[k] = f.is_signed ? _mm256_abs_epi8(w.q[k]) : w.q[k];

        for (int t = 0; t < n_tokens; t++) {
            const uint8_t *a = a4 + t * act_stride + j * Q8_K_BYTES;
            __m256i bsums = load256(a + Q8_K_BSUMS), products = _mm256_setzero_si256();
            if (f.offset)
                products = _mm256_madd_epi16(bsums, correction);
            for (int k = 0; k < 8; k++) {
                __m256i q = load256(a + Q8_K_QS + 32 * k);
                if (f.is_signed)
                    q = _mm256_sign_epi8(q, w.q[k]);
                __m256i p = _mm256_maddubs_epi16(magnitude[k], q);
                products = _mm256_add_epi32(products, _mm256_madd_epi16(p, scale[k]));
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
        for (int j = count; j < 4; j++)
            isum[t][j] = msum[t][j] = _mm256_setzero_si256();
        __m128 da = f32x4(a4 + t * act_stride, Q8_K_BYTES, count);
        __m128 s = scaled(d, da, sums4(isum[t]));
        if (f.dmin_at >= 0)
            s = _mm_sub_ps(s, scaled(dmin, da, sums4(msum[t])));
        sum[t] = _mm_add_ps(sum[t], s);
    }
}

#include "cpu/avx2/dot_kernels.h"
