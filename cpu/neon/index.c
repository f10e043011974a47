/* Scores of an indexer's keys, NEON with dot product. Lanes are heads: four columns of four heads lie
 * in a vector, the same four of a key in all its lanes, so that nothing is added up across lanes before
 * the end. The order of sums is that of struct kernels. */
#include <string.h>

#include "cpu/neon/table.h"
#include "cpu/neon/unpack.h"

#define LANES 4
#define GROUPS (INDEX_GROUP / LANES)

/* q_h . key for the heads from h0 on. */
ALWAYS_INLINE void multiply_group(const struct index_query *q, int h0, const int8_t *key,
                                  int32x4_t dot[GROUPS])
{
    const int8_t *at = q->q + 4 * h0;
    for (int g = 0; g < GROUPS; g++)
        dot[g] = vdupq_n_s32(0);
    for (int c = 0; c < q->dim; c += 4, at += 4 * q->n_heads) {
        int32_t columns;
        memcpy(&columns, key + c, sizeof columns);
        int8x16_t k = vreinterpretq_s8_s32(vdupq_n_s32(columns));
        for (int g = 0; g < GROUPS; g++)
            dot[g] = vdotq_s32(dot[g], vld1q_s8(at + 4 * LANES * g), k);
    }
}

static void index_scores_neon(const struct index_query *q, const int8_t *keys, const float *scales,
                              int64_t n, float *scores)
{
    for (int64_t i = 0; i < n; i++, keys += q->dim) {
        float32x4_t sum[INDEX_LANES / LANES];
        for (int l = 0; l < INDEX_LANES / LANES; l++)
            sum[l] = vdupq_n_f32(0);
        for (int h = 0; h < q->n_heads; h += INDEX_GROUP) {
            int32x4_t dot[GROUPS];
            multiply_group(q, h, keys, dot);
            for (int g = 0; g < GROUPS; g++) {
                float32x4_t positive = vcvtq_f32_s32(vmaxq_s32(dot[g], vdupq_n_s32(0)));
                float32x4_t *to = &sum[g % (INDEX_LANES / LANES)];
                *to = vfmaq_f32(*to, vld1q_f32(q->weights + h + LANES * g), positive);
            }
        }
        float32x4_t by4 = vaddq_f32(vaddq_f32(sum[0], sum[2]), vaddq_f32(sum[1], sum[3]));
        float32x2_t by2 = vadd_f32(vget_low_f32(by4), vget_high_f32(by4));
        scores[i] = scales[i] * (vget_lane_f32(by2, 0) + vget_lane_f32(by2, 1));
    }
}

void use_index_neon(struct kernels *k)
{
    k->index_scores = index_scores_neon;
}
