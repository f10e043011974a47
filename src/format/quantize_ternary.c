/* Reference encoders of the types with one scale and one to four levels: Q1_0, Q2_0, TQ1_0, TQ2_0.
 * They have an exact best answer, or nearly so, without a search over scales; importance is used
 * where a fit takes weights. */
#include <math.h>
#include <stdlib.h>

#include "src/format/quant_blocks.h"
#include "src/format/quant_codec.h"
#include "src/format/quantize_fit.h"

#define QUANTIZE(type, elements)                                                                   \
    void quantize_##type(const float *in, void *blocks, int64_t n, const float *importance)        \
    {                                                                                              \
        struct block_##type *b = blocks;                                                           \
        for (int64_t i = 0; i < n; i += (elements))                                                \
            type(in + i, b++, importance ? importance + i : NULL);                                 \
    }

/* Signs only: the mean magnitude is the best scale. */
static void q1_0(const float *x, struct block_q1_0 *b, const float *importance)
{
    (void)importance;
    float sum = 0;
    memset(b->qs, 0, sizeof b->qs);
    for (int i = 0; i < 128; i++) {
        sum += fabsf(x[i]);
        b->qs[i / 8] |= (uint8_t)((x[i] >= 0) << i % 8);
    }
    block_put_f16(b->d, sum / 128);
}
QUANTIZE(q1_0, 128)

/* Four levels -1, 0, 1, 2: the symmetric fit with its sign turned. */
static void q2_0(const float *x, struct block_q2_0 *b, const float *importance)
{
    float w[64];
    int8_t l[64];
    if (!fit_weigh(64, x, importance, fit_mean_square(x, 64), w))
        for (int i = 0; i < 64; i++)
            w[i] = 1;
    const float d = block_put_f16(b->d, -fit_symmetric(64, x, w, 2, l)), inverse = fit_inverse(d);
    memset(b->qs, 0, sizeof b->qs);
    for (int i = 0; i < 64; i++)
        b->qs[i / 4] |= (uint8_t)((fit_round(x[i] * inverse, -1, 2) + 1) << 2 * (i % 4));
}
QUANTIZE(q2_0, 64)

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Scale for levels -1, 0, 1. When the k largest magnitudes become 1, their mean is the best scale
 * and (their sum)^2 / k the error it removes: try every k. Weights that are ternary already come
 * back exactly. */
static float ternary_scale(const float *x)
{
    float sorted[256], sum = 0, best = 0, scale = 0;
    for (int i = 0; i < 256; i++)
        sorted[i] = fabsf(x[i]);
    qsort(sorted, 256, sizeof *sorted, descending);
    for (int k = 1; k <= 256; k++) {
        sum += sorted[k - 1];
        if (sum * sum > best * (float)k) {
            best = sum * sum / (float)k;
            scale = sum / (float)k;
        }
    }
    return scale;
}

/* Levels as 0, 1, 2. */
static void ternary_levels(const float *x, uint8_t *d_field, uint8_t *q)
{
    const float inverse = fit_inverse(block_put_f16(d_field, ternary_scale(x)));
    for (int i = 0; i < 256; i++)
        q[i] = (uint8_t)(fit_round(x[i] * inverse, -1, 1) + 1);
}

/* n digits of base 3, the first at q[0], the next `stride` further, as a fraction of 256 that is
 * rounded up, so that multiplying by 3 brings each digit to the top in turn. */
static uint8_t pack_trits(const uint8_t *q, int n, int stride)
{
    int value = 0;
    for (int k = 0; k < 5; k++)
        value = value * 3 + (k < n ? q[stride * k] : 0);
    return (uint8_t)((value * 256 + 242) / 243);
}

static void tq1_0(const float *x, struct block_tq1_0 *b, const float *importance)
{
    (void)importance;
    uint8_t q[256];
    ternary_levels(x, b->d, q);
    for (int i = 0; i < 32; i++)
        b->qs[i] = pack_trits(q + i, 5, 32);
    for (int i = 0; i < 16; i++)
        b->qs[32 + i] = pack_trits(q + 160 + i, 5, 16);
    for (int i = 0; i < 4; i++)
        b->qh[i] = pack_trits(q + 240 + i, 4, 4);
}
QUANTIZE(tq1_0, 256)

static void tq2_0(const float *x, struct block_tq2_0 *b, const float *importance)
{
    (void)importance;
    uint8_t q[256];
    ternary_levels(x, b->d, q);
    memset(b->qs, 0, sizeof b->qs);
    for (int i = 0; i < 256; i++)
        b->qs[32 * (i / 128) + i % 32] |= (uint8_t)(q[i] << 2 * (i / 32 % 4));
}
QUANTIZE(tq2_0, 256)
