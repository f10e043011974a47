/* Scores of an indexer's keys, AVX2. Lanes are heads: four columns of eight heads lie in a vector,
 * the same four of a key in all its lanes. Signs move from the key to the query, since one operand of
 * the multiplication is unsigned: twice 127 * 127 still fits into 16 bits. */
#include <string.h>

#include "cpu/avx2/table.h"
#include "cpu/avx2/unpack.h"

#define LANES 8
#define GROUPS (INDEX_GROUP / LANES)

/* q_h . key for the heads from h0 on. */
ALWAYS_INLINE void multiply_group(const struct index_query *q, int h0, const int8_t *key,
                                  __m256i dot[GROUPS])
{
    const __m256i ones = _mm256_set1_epi16(1);
    const int8_t *at = q->q + 4 * h0;
    for (int g = 0; g < GROUPS; g++)
        dot[g] = _mm256_setzero_si256();
    for (int c = 0; c < q->dim; c += 4, at += 4 * q->n_heads) {
        int32_t columns;
        memcpy(&columns, key + c, sizeof columns);
        __m256i k = _mm256_set1_epi32(columns), size = _mm256_abs_epi8(k);
        for (int g = 0; g < GROUPS; g++) {
            __m256i x = _mm256_sign_epi8(load256(at + 4 * LANES * g), k);
            x = _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), ones);
            dot[g] = _mm256_add_epi32(dot[g], x);
        }
    }
}

ALWAYS_INLINE __m256 weigh(__m256 sum, __m256i dot, const float *weights)
{
    __m256 positive = _mm256_cvtepi32_ps(_mm256_max_epi32(dot, _mm256_setzero_si256()));
    return _mm256_fmadd_ps(_mm256_loadu_ps(weights), positive, sum);
}

static void index_scores_avx2(const struct index_query *q, const int8_t *keys, const float *scales,
                              int64_t n, float *scores)
{
    for (int64_t i = 0; i < n; i++, keys += q->dim) {
        __m256 low = _mm256_setzero_ps(), high = low; /* lanes 0 .. 7 and 8 .. 15 */
        for (int h = 0; h < q->n_heads; h += INDEX_GROUP) {
            __m256i dot[GROUPS];
            multiply_group(q, h, keys, dot);
            for (int g = 0; g < GROUPS; g += 2) {
                low = weigh(low, dot[g], q->weights + h + LANES * g);
                high = weigh(high, dot[g + 1], q->weights + h + LANES * (g + 1));
            }
        }
        __m256 by8 = _mm256_add_ps(low, high);
        __m128 by4 = _mm_add_ps(_mm256_castps256_ps128(by8), _mm256_extractf128_ps(by8, 1));
        __m128 by2 = _mm_add_ps(by4, _mm_movehl_ps(by4, by4));
        __m128 by1 = _mm_add_ss(by2, _mm_movehdup_ps(by2));
        scores[i] = scales[i] * _mm_cvtss_f32(by1);
    }
}

void use_index_avx2(struct kernels *k)
{
    k->index_scores = index_scores_avx2;
}
