/* Activations to int8 blocks, AVX2. Every operation is one that plain C performs in the same order
 * (largest magnitude, one division, one multiplication, one rounding), so the bits agree. */
#include <float.h>
#include <math.h>

#include "cpu/avx2/sums.h"
#include "cpu/avx2/table.h"

ALWAYS_INLINE __m256 magnitude(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

ALWAYS_INLINE float largest(__m256 x)
{
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

/* Four vectors of whole floats within int8 -> 32 bytes in order. */
ALWAYS_INLINE __m256i pack_bytes(__m256i a, __m256i b, __m256i c, __m256i d)
{
    __m256i x = _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
    return _mm256_permutevar8x32_epi32(x, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

/* Round half away from zero: add the largest float below one half, with the sign of x, and cut. */
ALWAYS_INLINE __m256i round_away(__m256 x)
{
    __m256 half = _mm256_or_ps(_mm256_and_ps(x, _mm256_set1_ps(-0.0f)),
                               _mm256_set1_ps(0x1.fffffep-2f));
    return _mm256_cvttps_epi32(_mm256_add_ps(x, half));
}

/* Adds to `broken` the lanes of a magnitude that are infinite or NaN. */
ALWAYS_INLINE __m256 mark_broken(__m256 broken, __m256 size)
{
    return _mm256_or_ps(broken, _mm256_cmp_ps(size, _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ));
}

/* 32 floats to bytes; returns d = amax / 127, not yet rounded to f16. A block with an infinite value
 * or NaN gets zeros and d = NaN, so that nothing broken goes unnoticed. */
ALWAYS_INLINE float encode32(const float *x, __m256i *q)
{
    __m256 v[4], most = _mm256_setzero_ps(), broken = _mm256_setzero_ps();
    for (int k = 0; k < 4; k++) {
        v[k] = _mm256_loadu_ps(x + 8 * k);
        most = _mm256_max_ps(most, magnitude(v[k]));
        broken = mark_broken(broken, magnitude(v[k]));
    }
    if (_mm256_movemask_ps(broken)) {
        *q = _mm256_setzero_si256();
        return NAN;
    }
    float d = largest(most) / 127.0f, exact = 1.0f / d;
    __m256 inverse = _mm256_set1_ps(exact <= FLT_MAX ? exact : 0);
    __m256i r[4];
    for (int k = 0; k < 4; k++)
        r[k] = round_away(_mm256_mul_ps(v[k], inverse));
    *q = pack_bytes(r[0], r[1], r[2], r[3]);
    return d;
}

ALWAYS_INLINE void store_f16(uint8_t *p, float x)
{
    block_put_u16(p, _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT));
}

static void quantize_q8_0_avx2(const float *x, void *blocks, int64_t n)
{
    uint8_t *block = blocks;
    for (int64_t b = 0; b < n / 32; b++, x += 32, block += Q8_0_BYTES) {
        __m256i q;
        store_f16(block, encode32(x, &q));
        _mm256_storeu_si256((__m256i *)(block + Q8_0_QS), q);
    }
}

ALWAYS_INLINE int sum_bytes(__m256i q)
{
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
    __m256i s = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

static void quantize_q8_1_avx2(const float *x, void *blocks, int64_t n)
{
    uint8_t *block = blocks;
    for (int64_t b = 0; b < n / 32; b++, x += 32, block += Q8_1_BYTES) {
        __m256i q;
        float d = encode32(x, &q);
        store_f16(block, d);
        store_f16(block + 2, d * (float)sum_bytes(q));
        _mm256_storeu_si256((__m256i *)(block + Q8_1_QS), q);
    }
}

/* The first of 256 values whose magnitude is the largest; NaN if any is infinite or NaN. */
ALWAYS_INLINE float first_largest(const float *x)
{
    __m256 most = _mm256_setzero_ps(), broken = _mm256_setzero_ps();
    for (int k = 0; k < 32; k++) {
        __m256 size = magnitude(_mm256_loadu_ps(x + 8 * k));
        most = _mm256_max_ps(most, size);
        broken = mark_broken(broken, size);
    }
    if (_mm256_movemask_ps(broken))
        return NAN;
    most = _mm256_set1_ps(largest(most));
    for (int k = 0; k < 32; k++) {
        __m256 same = _mm256_cmp_ps(magnitude(_mm256_loadu_ps(x + 8 * k)), most, _CMP_EQ_OQ);
        int mask = _mm256_movemask_ps(same);
        if (mask)
            return x[8 * k + __builtin_ctz((unsigned)mask)];
    }
    return 0;
}

/* Sums of 16 bytes each, of 64 bytes -> 4 words. */
ALWAYS_INLINE uint64_t run_sums(__m256i a, __m256i b)
{
    const __m256i ones8 = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    __m256i s = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, a), ones16);
    __m256i t = _mm256_madd_epi16(_mm256_maddubs_epi16(ones8, b), ones16);
    s = _mm256_hadd_epi32(s, t);                   /* a0 a0 b0 b0 | a1 a1 b1 b1 */
    s = _mm256_hadd_epi32(s, s);                   /* a0 b0 .. | a1 b1 .. */
    s = _mm256_packs_epi32(s, s);
    uint32_t low = (uint32_t)_mm256_extract_epi32(s, 0);
    uint32_t high = (uint32_t)_mm256_extract_epi32(s, 4);
    return (low & 0xffff) | (uint64_t)(high & 0xffff) << 16 | (uint64_t)(low >> 16) << 32 |
           (uint64_t)(high >> 16) << 48;
}

static void quantize_q8_k_avx2(const float *x, void *blocks, int64_t n)
{
    uint8_t *block = blocks;
    for (int64_t b = 0; b < n / 256; b++, x += 256, block += Q8_K_BYTES) {
        float max = first_largest(x), scale = -127.0f / max, d = 1.0f / scale;
        if (!(fabsf(scale) <= FLT_MAX)) { /* zeros or nearly so; or NaN */
            d = isnan(max) ? NAN : 0;
            memset(block, 0, Q8_K_BYTES);
            memcpy(block, &d, sizeof d);
            continue;
        }
        memcpy(block, &d, sizeof d);
        __m256 s = _mm256_set1_ps(scale);
        __m256i q[8];
        for (int k = 0; k < 8; k++) {
            __m256i r[4];
            for (int i = 0; i < 4; i++)
                r[i] = _mm256_cvtps_epi32(_mm256_mul_ps(s, _mm256_loadu_ps(x + 32 * k + 8 * i)));
            q[k] = pack_bytes(r[0], r[1], r[2], r[3]);
            _mm256_storeu_si256((__m256i *)(block + Q8_K_QS + 32 * k), q[k]);
        }
        for (int k = 0; k < 4; k++) {
            uint64_t sums = run_sums(q[2 * k], q[2 * k + 1]);
            memcpy(block + Q8_K_BSUMS + 8 * k, &sums, sizeof sums);
        }
    }
}

void use_quantize_avx2(struct kernels *k)
{
    k->quantize[TYPE_Q8_0] = quantize_q8_0_avx2;
    k->quantize[TYPE_Q8_1] = quantize_q8_1_avx2;
    k->quantize[TYPE_Q8_K] = quantize_q8_k_avx2;
}
