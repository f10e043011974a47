/* A vector of floats, AVX2: the verbs in which float_kernels.h is written. cpu/avx512/vec.h has the
 * same verbs at twice the width. "part" verbs touch only the first n < VEC elements and read 0 for
 * the others. */
#ifndef TANDEM_CPU_AVX2_VEC_H
#define TANDEM_CPU_AVX2_VEC_H

#include <immintrin.h>
#include <string.h>

#include "cpu/avx2/unpack.h"

#define VEC 8
#define ISA_NAME(name) name##_avx2
typedef __m256 vec;

ALWAYS_INLINE vec vec_zero(void)
{
    return _mm256_setzero_ps();
}
ALWAYS_INLINE vec vec_set(float x)
{
    return _mm256_set1_ps(x);
}
ALWAYS_INLINE vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}
ALWAYS_INLINE vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}
ALWAYS_INLINE vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}
ALWAYS_INLINE vec vec_div(vec a, vec b)
{
    return _mm256_div_ps(a, b);
}
ALWAYS_INLINE vec vec_fma(vec a, vec b, vec c) /* a b + c, rounded once */
{
    return _mm256_fmadd_ps(a, b, c);
}
/* A NaN in x stays. */
ALWAYS_INLINE vec vec_at_most(vec x, float bound)
{
    return _mm256_min_ps(vec_set(bound), x);
}
ALWAYS_INLINE vec vec_at_least(vec x, float bound)
{
    return _mm256_max_ps(vec_set(bound), x);
}
/* max(a, b); b where a is NaN */
ALWAYS_INLINE vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}
ALWAYS_INLINE vec vec_round(vec x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* 2^n for whole n in -127..127; -127 gives 0 */
ALWAYS_INLINE vec vec_pow2(vec n)
{
    __m256i bits = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
}
/* x, but 0 where x < bound; NaN stays */
ALWAYS_INLINE vec vec_zero_below(vec x, float bound)
{
    return _mm256_and_ps(x, _mm256_cmp_ps(x, vec_set(bound), _CMP_NLT_UQ));
}

/* Reductions in a fixed tree. */
ALWAYS_INLINE float vec_sum(vec x)
{
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
ALWAYS_INLINE float vec_max_of(vec x)
{
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

ALWAYS_INLINE __m256i vec_mask(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

ALWAYS_INLINE vec load_f32_vec(const float *p)
{
    return _mm256_loadu_ps(p);
}
ALWAYS_INLINE vec load_f32_part(const float *p, int n)
{
    return _mm256_maskload_ps(p, vec_mask(n));
}
ALWAYS_INLINE void store_f32_vec(float *p, vec x)
{
    _mm256_storeu_ps(p, x);
}
ALWAYS_INLINE void store_f32_part(float *p, vec x, int n)
{
    _mm256_maskstore_ps(p, vec_mask(n), x);
}

ALWAYS_INLINE __m128i load_u16_part(const uint16_t *p, int n)
{
    uint16_t padded[VEC] = { 0 };
    memcpy(padded, p, (size_t)n * sizeof *p);
    return load128(padded);
}
ALWAYS_INLINE vec load_f16_vec(const uint16_t *p)
{
    return _mm256_cvtph_ps(load128(p));
}
ALWAYS_INLINE vec load_f16_part(const uint16_t *p, int n)
{
    return _mm256_cvtph_ps(load_u16_part(p, n));
}
ALWAYS_INLINE vec vec_of_bf16(__m128i x)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
ALWAYS_INLINE vec load_bf16_vec(const uint16_t *p)
{
    return vec_of_bf16(load128(p));
}
ALWAYS_INLINE vec load_bf16_part(const uint16_t *p, int n)
{
    return vec_of_bf16(load_u16_part(p, n));
}
ALWAYS_INLINE void store_f16_vec(uint16_t *p, vec x)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
ALWAYS_INLINE void store_f16_part(uint16_t *p, vec x, int n)
{
    uint16_t padded[VEC];
    store_f16_vec(padded, x);
    memcpy(p, padded, (size_t)n * sizeof *p);
}

#endif
