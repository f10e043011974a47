/* Scores of an indexer's keys, AVX-512 with VNNI. Lanes are heads: four columns of sixteen heads meet
 * the same four of a key, which is all there is in a lane: nothing is added up across lanes before the
 * end. KEYS keys at a time, so that a vector of heads is loaded once for them.
 *
 * The instruction wants an unsigned operand: keys are raised by 128, and 128 times the sum of a head is
 * taken off beforehand. 64 heads of 128 take 128 multiplications per key. */
#include <string.h>

#include "cpu/avx512/index.h"
#include "cpu/avx512/table.h"

#define KEYS 8
#define GROUPS (INDEX_GROUP / INDEX_LANES)

/* dot[k][g] = q_h . key k for the heads from h0 on; raised [KEYS, dim] are the keys plus 128. */
ALWAYS_INLINE void multiply_group(const struct index_query *q, int h0, const uint8_t *raised,
                                  __m512i dot[KEYS][GROUPS])
{
    const int8_t *at = q->q + 4 * h0;
#pragma GCC unroll 2
    for (int g = 0; g < GROUPS; g++) {
        __m512i sums = _mm512_loadu_si512(q->sums + h0 + INDEX_LANES * g);
        __m512i start = _mm512_sub_epi32(_mm512_setzero_si512(), _mm512_slli_epi32(sums, 7));
#pragma GCC unroll 8
        for (int k = 0; k < KEYS; k++)
            dot[k][g] = start;
    }
    for (int c = 0; c < q->dim; c += 4, at += 4 * q->n_heads) {
        __m512i heads0 = _mm512_loadu_si512(at), heads1 = _mm512_loadu_si512(at + 4 * INDEX_LANES);
#pragma GCC unroll 8
        for (int k = 0; k < KEYS; k++) {
            int32_t word;
            memcpy(&word, raised + k * q->dim + c, sizeof word);
            __m512i columns = _mm512_set1_epi32(word);
            dot[k][0] = _mm512_dpbusd_epi32(dot[k][0], columns, heads0);
            dot[k][1] = _mm512_dpbusd_epi32(dot[k][1], columns, heads1);
        }
    }
}

/* Sums over heads of KEYS keys. */
ALWAYS_INLINE void score_keys(const struct index_query *q, const uint8_t *raised, __m512 rows[KEYS])
{
    for (int k = 0; k < KEYS; k++)
        rows[k] = _mm512_setzero_ps();
    for (int h = 0; h < q->n_heads; h += INDEX_GROUP) {
        __m512i dot[KEYS][GROUPS];
        multiply_group(q, h, raised, dot);
        for (int g = 0; g < GROUPS; g++) {
            __m512 weights = _mm512_loadu_ps(q->weights + h + INDEX_LANES * g);
            for (int k = 0; k < KEYS; k++)
                rows[k] = index_weigh(rows[k], dot[k][g], weights);
        }
    }
}

static void raise_keys(const int8_t *keys, int64_t bytes, uint8_t *raised)
{
    for (int64_t i = 0; i < bytes; i++)
        raised[i] = (uint8_t)(keys[i] ^ -128);
}

void index_scores_avx512(const struct index_query *q, const int8_t *keys, const float *scales,
                         int64_t n, float *scores)
{
    uint8_t raised[INDEX_LANES * INDEX_MAX_DIM];
    for (int64_t i = 0; i < n; i += INDEX_LANES) {
        int many = n - i < INDEX_LANES ? (int)(n - i) : INDEX_LANES;
        __mmask16 lanes = (__mmask16)((1u << many) - 1);
        __m512 rows[INDEX_LANES];
        raise_keys(keys + i * q->dim, (int64_t)many * q->dim, raised);
        for (int k = many * q->dim; k < INDEX_LANES * q->dim && many < INDEX_LANES; k++)
            raised[k] = 0;
        for (int k = 0; k < INDEX_LANES; k += KEYS)
            score_keys(q, raised + k * q->dim, rows + k);
        __m512 scale = _mm512_maskz_loadu_ps(lanes, scales + i);
        _mm512_mask_storeu_ps(scores + i, lanes, _mm512_mul_ps(scale, index_fold(rows)));
    }
}

void use_index_avx512(struct kernels *k)
{
    k->index_scores = index_scores_avx512;
}
