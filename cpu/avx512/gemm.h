/* The part of a matrix tile that AVX-512 and AMX share: the float work. The including file defines
 * multiply256, multiply32, begin_tiles and end_tiles, ISA_NAME and GEMM_ROWS (cpu/avx2/groups.h),
 * and what panel.h asks for. It gets ISA_NAME(use_gemm). */
#ifndef TANDEM_CPU_AVX512_GEMM_H
#define TANDEM_CPU_AVX512_GEMM_H

#include "cpu/avx512/panel.h"

#include "cpu/avx2/groups.h"

/* The float part of a block, for one token and 16 rows: see cpu/avx2/dot.c. */
ALWAYS_INLINE void add_block256(const struct panel *p, const struct slice *s, int t, __m512i isum,
                                int run, bool has_min, float *sum)
{
    __m512 da = _mm512_set1_ps(s->d[t][0]);
    __m512 x = _mm512_mul_ps(_mm512_mul_ps(p->d, da), _mm512_cvtepi32_ps(isum));
    if (has_min) {
        __m512i msum = _mm512_setzero_si512();
        for (int j = 0; j < CHUNK / run / 2; j++)
            msum = _mm512_dpwssd_epi32(msum, p->min[j], _mm512_set1_epi32(s->bsums[t][j]));
        x = _mm512_sub_ps(x, _mm512_mul_ps(_mm512_mul_ps(p->dmin, da), _mm512_cvtepi32_ps(msum)));
    }
    _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), x));
}

ALWAYS_INLINE __m512 plus_block32(__m512 sum, const struct panel *p, const struct slice *s, int t,
                                  int b, __m512i isum, bool has_m)
{
    __m512 da = _mm512_set1_ps(s->d[t][b]);
    __m512 x = _mm512_mul_ps(_mm512_mul_ps(p->block_d[b], da), _mm512_cvtepi32_ps(isum));
    if (has_m)
        x = _mm512_add_ps(x, _mm512_mul_ps(_mm512_mul_ps(p->block_m[b], da),
                                           _mm512_set1_ps(s->block_sum[t][b])));
    return _mm512_add_ps(sum, x);
}

#endif
