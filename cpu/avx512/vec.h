/* A vector of floats, AVX-512: the verbs of cpu/avx2/vec.h at sixteen floats. */
#ifndef TANDEM_CPU_AVX512_VEC_H
#define TANDEM_CPU_AVX512_VEC_H

#include <immintrin.h>

#include "cpu/avx2/unpack.h"

#define VEC 16
#define ISA_NAME(name) name##_avx512
typedef __m512 vec;

ALWAYS_INLINE vec vec_zero(void)
{
    return _mm512_setzero_ps();
}
ALWAYS_INLINE vec vec_set(float x)
{
    return _mm512_set1_ps(x);
}
ALWAYS_INLINE vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}
ALWAYS_INLINE vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}
ALWAYS_INLINE vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}
ALWAYS_INLINE vec vec_div(vec a, vec b)
{
    return _mm512_div_ps(a, b);
}
ALWAYS_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}
ALWAYS_INLINE vec vec_at_most(vec x, float bound)
{
    return _mm512_min_ps(vec_set(bound), x);
}
ALWAYS_INLINE vec vec_at_least(vec x, float bound)
{
    return _mm512_max_ps(vec_set(bound), x);
}
ALWAYS_INLINE vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}
ALWAYS_INLINE vec vec_round(vec x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
ALWAYS_INLINE vec vec_pow2(vec n)
{
    __m512i bits = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
}
ALWAYS_INLINE vec vec_zero_below(vec x, float bound)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, vec_set(bound), _CMP_NLT_UQ), x);
}

ALWAYS_INLINE float vec_sum(vec x)
{
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 y = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    y = _mm_add_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
ALWAYS_INLINE float vec_max_of(vec x)
{
    __m256 h = _mm256_max_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

ALWAYS_INLINE __mmask16 vec_mask(int n)
{
    return (__mmask16)((1u << n) - 1);
}

ALWAYS_INLINE vec load_f32_vec(const float *p)
{
    return _mm512_loadu_ps(p);
}
ALWAYS_INLINE vec load_f32_part(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(vec_mask(n), p);
}
ALWAYS_INLINE void store_f32_vec(float *p, vec x)
{
    _mm512_storeu_ps(p, x);
}
ALWAYS_INLINE void store_f32_part(float *p, vec x, int n)
{
    _mm512_mask_storeu_ps(p, vec_mask(n), x);
}

ALWAYS_INLINE vec load_f16_vec(const uint16_t *p)
{
    return _mm512_cvtph_ps(load256(p));
}
ALWAYS_INLINE vec load_f16_part(const uint16_t *p, int n)
{
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(vec_mask(n), p));
}
ALWAYS_INLINE vec vec_of_bf16(__m256i x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}
ALWAYS_INLINE vec load_bf16_vec(const uint16_t *p)
{
    return vec_of_bf16(load256(p));
}
ALWAYS_INLINE vec load_bf16_part(const uint16_t *p, int n)
{
    return vec_of_bf16(_mm256_maskz_loadu_epi16(vec_mask(n), p));
}
ALWAYS_INLINE void store_f16_vec(uint16_t *p, vec x)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
ALWAYS_INLINE void store_f16_part(uint16_t *p, vec x, int n)
{
    _mm256_mask_storeu_epi16(p, vec_mask(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}

#endif
