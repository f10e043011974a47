/* Sums over heads for scores of an indexer, on vectors of sixteen heads. */
#ifndef TANDEM_CPU_AVX512_INDEX_H
#define TANDEM_CPU_AVX512_INDEX_H

#include <immintrin.h>

#include "cpu/avx2/unpack.h"
#include "cpu/kernels.h"

/* cpu/avx512/index.c, where AMX has too few keys for a tile. */
void index_scores_avx512(const struct index_query *q, const int8_t *keys, const float *scales,
                         int64_t n, float *scores);

/* sum + weights * max(0, dot) */
ALWAYS_INLINE __m512 index_weigh(__m512 sum, __m512i dot, __m512 weights)
{
    __m512i positive = _mm512_max_epi32(dot, _mm512_setzero_si512());
    return _mm512_fmadd_ps(weights, _mm512_cvtepi32_ps(positive), sum);
}

/* Lanes 8 apart of two keys: a in the lower half, b in the upper. */
ALWAYS_INLINE __m512 index_fold8(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}
/* Lanes 4 apart of each half: quarters are a0, b0, a1, b1. */
ALWAYS_INLINE __m512 index_fold4(__m512 a, __m512 b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

/* Lane l of the result: all lanes of row[l], added 8, 4, 2 and 1 apart. */
ALWAYS_INLINE __m512 index_fold(const __m512 row[INDEX_LANES])
{
    __m512 half[8], quarter[4], pair[2];
    for (int i = 0; i < 8; i++)
        half[i] = index_fold8(row[2 * i], row[2 * i + 1]);
    for (int i = 0; i < 4; i++) /* quarters: rows 4 i, 4 i + 1, 4 i + 2, 4 i + 3 */
        quarter[i] = index_fold4(half[2 * i], half[2 * i + 1]);
    for (int i = 0; i < 2; i++) /* in each quarter two rows, two lanes of each */
        pair[i] = _mm512_add_ps(_mm512_shuffle_ps(quarter[2 * i], quarter[2 * i + 1], 0x44),
                                _mm512_shuffle_ps(quarter[2 * i], quarter[2 * i + 1], 0xee));
    __m512 sums = _mm512_add_ps(_mm512_shuffle_ps(pair[0], pair[1], 0x88),
                                _mm512_shuffle_ps(pair[0], pair[1], 0xdd));
    /* quarter r holds rows r, 4 + r, 8 + r, 12 + r */
    const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
    return _mm512_permutexvar_ps(order, sums);
}

#endif
