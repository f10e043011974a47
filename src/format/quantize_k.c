/* Reference encoders of the K-quants: 256 elements in runs of 16 or 32, each run with a small
 * integer scale (and minimum) in units of the block's d (and dmin).
 *
 * All of them go the same way: fit each run, fit the integers of the scales, store, and compute the
 * elements again for what was stored. See quantize.c for the rules. */
#include <math.h>

#include "src/format/quant_blocks.h"
#include "src/format/quant_codec.h"
#include "src/format/quantize_fit.h"

/* Two bits of each element, as "crumbs" in quant_blocks.h. */
static void pack_crumbs(const uint8_t *q, uint8_t *qs)
{
    memset(qs, 0, 64);
    for (int i = 0; i < 256; i++)
        qs[32 * (i / 128) + i % 32] |= (uint8_t)((q[i] & 3) << 2 * (i / 32 % 4));
}

/* ---- with minima: Q2_K, Q4_K, Q5_K ---- */

/* What a block with minima holds, before it is packed. */
struct affine {
    uint8_t scale[16], min[16]; /* integers per run */
    uint8_t q[256];
};

struct affine_type {
    int run;      /* elements per run */
    int nmax;     /* largest integer of an element */
    int scale_nmax;
    struct fit_search plain, weighted;
};

static void weigh_affine(const struct affine_type *t, const float *x, const float *importance,
                         float s2, float *w, bool *weighted)
{
    *weighted = fit_weigh(t->run, x, importance, s2, w);
    if (*weighted)
        return;
    /* Q2_K judges absolute errors, weighted by magnitude alone */
    float base = t->plain.absolute ? 0 : sqrtf(fit_mean_square(x, t->run));
    for (int i = 0; i < t->run; i++)
        w[i] = base + fabsf(x[i]);
}

static void encode_affine(const struct affine_type *t, const float *x, const float *importance,
                          float s2, uint8_t *d_field, uint8_t *dmin_field, struct affine *a)
{
    float scales[16], mins[16], sums[16];
    const int n_runs = 256 / t->run;
    for (int r = 0; r < n_runs; r++) {
        float w[32];
        bool weighted;
        const float *v = x + t->run * r;
        weigh_affine(t, v, importance ? importance + t->run * r : NULL, s2, w, &weighted);
        scales[r] = fit_affine(t->run, v, w, t->nmax, weighted ? t->weighted : t->plain,
                               a->q + t->run * r, &mins[r]);
        sums[r] = fit_sum(t->run, w);
    }
    const int top = t->scale_nmax;
    const float d = block_put_f16(d_field, fit_positive(n_runs, scales, sums, top, a->scale));
    const float dmin = block_put_f16(dmin_field, fit_positive(n_runs, mins, sums, top, a->min));
    for (int r = 0; r < n_runs; r++) {
        const float inverse = fit_inverse(d * (float)a->scale[r]), min = dmin * (float)a->min[r];
        for (int i = t->run * r; i < t->run * (r + 1); i++)
            a->q[i] = (uint8_t)fit_round((x[i] + min) * inverse, 0, t->nmax);
    }
}

static const struct affine_type type_q2_k = {
    16, 3, 15, { -0.5f, 0.1f, 15, true }, { -0.9f, 0.05f, 36, false }
};
static const struct affine_type type_q4_k = {
    32, 15, 63, { -1.0f, 0.1f, 20, false }, { -0.9f, 0.05f, 36, false }
};
static const struct affine_type type_q5_k = {
    32, 31, 63, { -0.5f, 0.1f, 15, false }, { -0.9f, 0.05f, 36, false }
};

static void q2_k(const float *x, struct block_q2_k *b, const float *importance)
{
    struct affine a;
    encode_affine(&type_q2_k, x, importance, fit_mean_square(x, 256), b->d, b->dmin, &a);
    for (int r = 0; r < 16; r++)
        b->scales[r] = (uint8_t)(a.scale[r] | a.min[r] << 4);
    pack_crumbs(a.q, b->qs);
}
QUANTIZE_BLOCKS(q2_k)

/* The inverse of block_scale_min_k4. */
static void pack_scale_min_k4(const struct affine *a, uint8_t *packed)
{
    for (int j = 0; j < 4; j++) {
        packed[j] = (uint8_t)(a->scale[j] | a->scale[j + 4] >> 4 << 6);
        packed[j + 4] = (uint8_t)(a->min[j] | a->min[j + 4] >> 4 << 6);
        packed[j + 8] = (uint8_t)((a->scale[j + 4] & 15) | (a->min[j + 4] & 15) << 4);
    }
}

static void pack_run_nibbles(const uint8_t *q, uint8_t *qs)
{
    for (int pair = 0; pair < 4; pair++)
        for (int i = 0; i < 32; i++)
            qs[32 * pair + i] =
                (uint8_t)((q[64 * pair + i] & 15) | (q[64 * pair + 32 + i] & 15) << 4);
}

static void q4_k(const float *x, struct block_q4_k *b, const float *importance)
{
    struct affine a;
    encode_affine(&type_q4_k, x, importance, 2 * fit_mean_square(x, 256), b->d, b->dmin, &a);
    pack_scale_min_k4(&a, b->scales);
    pack_run_nibbles(a.q, b->qs);
}
QUANTIZE_BLOCKS(q4_k)

static void q5_k(const float *x, struct block_q5_k *b, const float *importance)
{
    struct affine a;
    encode_affine(&type_q5_k, x, importance, 2 * fit_mean_square(x, 256), b->d, b->dmin, &a);
    pack_scale_min_k4(&a, b->scales);
    pack_run_nibbles(a.q, b->qs);
    memset(b->qh, 0, sizeof b->qh);
    for (int i = 0; i < 256; i++)
        b->qh[i % 32] |= (uint8_t)(a.q[i] >> 4 << i / 32);
}
QUANTIZE_BLOCKS(q5_k)

/* ---- symmetric: Q3_K, Q6_K ---- */

static void q3_k(const float *x, struct block_q3_k *b, const float *importance)
{
    float scales[16], sums[16];
    int8_t l[16], scale[16];
    const float s2 = 2 * fit_mean_square(x, 256);
    for (int r = 0; r < 16; r++) {
        float w[16];
        const float *v = x + 16 * r;
        if (fit_weigh(16, v, importance ? importance + 16 * r : NULL, s2, w)) {
            scales[r] = fit_symmetric(16, v, w, 4, l);
        } else {
            fit_weigh_squares(16, v, w);
            scales[r] = fit_symmetric_by_moves(16, v, w, 4, l);
        }
        sums[r] = fit_sum(16, w);
    }
    const float d = block_put_f16(b->d, fit_symmetric(16, scales, sums, 32, scale));
    uint8_t q[256];
    memset(b->hmask, 0, sizeof b->hmask);
    memset(b->scales, 0, sizeof b->scales);
    for (int r = 0; r < 16; r++) {
        const int stored = scale[r] + 32;
        b->scales[r % 8] |= (uint8_t)((stored & 15) << 4 * (r / 8));
        b->scales[8 + r % 4] |= (uint8_t)(stored >> 4 << 2 * (r / 4));
        const float inverse = fit_inverse(d * (float)scale[r]);
        for (int i = 16 * r; i < 16 * r + 16; i++) {
            q[i] = (uint8_t)(fit_round(x[i] * inverse, -4, 3) + 4);
            b->hmask[i % 32] |= (uint8_t)(q[i] >> 2 << i / 32);
        }
    }
    pack_crumbs(q, b->qs);
}
QUANTIZE_BLOCKS(q3_k)

static void q6_k(const float *x, struct block_q6_k *b, const float *importance)
{
    float scales[16], largest = 0;
    int8_t l[16];
    for (int r = 0; r < 16; r++) {
        float w[16], sum = 0;
        const float *v = x + 16 * r;
        for (int i = 0; importance && i < 16; i++)
            sum += w[i] = importance[16 * r + i];
        if (!(sum > 0))
            fit_weigh_squares(16, v, w);
        scales[r] = fit_symmetric(16, v, w, 32, l);
        largest = fabsf(scales[r]) > fabsf(largest) ? scales[r] : largest;
    }
    const float d = block_put_f16(b->d, -largest / 128.0f), inverse_d = fit_inverse(d);
    memset(b->ql, 0, sizeof b->ql);
    memset(b->qh, 0, sizeof b->qh);
    for (int r = 0; r < 16; r++) {
        b->scales[r] = (int8_t)fit_round(scales[r] * inverse_d, -128, 127);
        const float inverse = fit_inverse(d * (float)b->scales[r]);
        for (int i = 16 * r; i < 16 * r + 16; i++) {
            const int q = fit_round(x[i] * inverse, -32, 31) + 32;
            const int half = i / 128, run = i / 32 % 4, at = i % 32;
            b->ql[64 * half + 32 * (run % 2) + at] |= (uint8_t)((q & 15) << 4 * (run / 2));
            b->qh[32 * half + at] |= (uint8_t)(q >> 4 << 2 * run);
        }
    }
}
QUANTIZE_BLOCKS(q6_k)
