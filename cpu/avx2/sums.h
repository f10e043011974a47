/* What the dot products of both vector widths share: where the parts of an activation block lie,
 * and the four-block step that turns integer sums into floats. */
#ifndef TANDEM_CPU_AVX2_SUMS_H
#define TANDEM_CPU_AVX2_SUMS_H

#include "cpu/avx2/unpack.h"

enum {
    Q8_0_BYTES = 34, Q8_0_QS = 2,
    Q8_1_BYTES = 36, Q8_1_QS = 4,
    Q8_K_BYTES = 292, Q8_K_QS = 4, Q8_K_BSUMS = 260,
};

/* Ask early for the weights that come next. Hardware does so too but stops at every page; 2 KiB
 * ahead took Q4_K on one core of a Xeon from 70 to 93 % of the rate of plain reading. */
#define AHEAD 2048
ALWAYS_INLINE void prefetch_ahead(const uint8_t *p, int bytes)
{
    for (int i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)p + AHEAD + i, _MM_HINT_T0);
}

/* (d_w * d_a) * sum, in this order everywhere. */
ALWAYS_INLINE __m128 scaled(__m128 d_w, __m128 d_a, __m128i sum)
{
    return _mm_mul_ps(_mm_mul_ps(d_w, d_a), _mm_cvtepi32_ps(sum));
}

/* sum + (d_w * d_a) * isum, the last two operations as one. */
ALWAYS_INLINE __m128 plus_scaled(__m128 sum, __m128 d_w, __m128 d_a, __m128i isum)
{
    return _mm_fmadd_ps(_mm_mul_ps(d_w, d_a), _mm_cvtepi32_ps(isum), sum);
}

/* (p0 + p2) + (p1 + p3) */
ALWAYS_INLINE float fold4(__m128 p)
{
    p = _mm_add_ps(p, _mm_movehl_ps(p, p));
    return _mm_cvtss_f32(_mm_add_ss(p, _mm_movehdup_ps(p)));
}

ALWAYS_INLINE float load_f32(const uint8_t *p)
{
    float f;
    memcpy(&f, p, sizeof f);
    return f;
}

/* 4 floats at p + k * stride, k < count, 0 in the other lanes. */
ALWAYS_INLINE __m128 f32x4(const uint8_t *p, size_t stride, int count)
{
    return _mm_setr_ps(load_f32(p), count > 1 ? load_f32(p + stride) : 0,
                       count > 2 ? load_f32(p + 2 * stride) : 0,
                       count > 3 ? load_f32(p + 3 * stride) : 0);
}

/* The sums of four vectors of 8 dwords, in order. */
ALWAYS_INLINE __m128i sums4(const __m256i v[4])
{
    __m256i ab = _mm256_hadd_epi32(v[0], v[1]), cd = _mm256_hadd_epi32(v[2], v[3]);
    __m256i abcd = _mm256_hadd_epi32(ab, cd);
    return _mm_add_epi32(_mm256_castsi256_si128(abcd), _mm256_extracti128_si256(abcd, 1));
}

/* ---- for matrix tiles ---- */

/* Rows past the last repeat it; their scales are 0 and nobody stores their sums. */
ALWAYS_INLINE const uint8_t *row_of(const uint8_t *rows, size_t row_stride, int n_rows, int r)
{
    return rows + (size_t)(r < n_rows ? r : n_rows - 1) * row_stride;
}

/* The next chunk of a row, in time for the next panel: no hardware follows 64 rows at once. */
ALWAYS_INLINE void prefetch_next(const uint8_t *p, int chunk_bytes, int bytes)
{
    for (int i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)p + chunk_bytes + i, _MM_HINT_T0);
}

#endif
