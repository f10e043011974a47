/* Reference encoders of IQ2 and IQ3: magnitudes from a codebook, signs apart, two levels of scales.
 *
 * A block has runs of 16 or 32 elements with one small integer n each; the magnitude of an element
 * is d * (2n+1) * (2r+1), r its rank in the chosen point. For each run several scales are tried,
 * then d is fitted to all runs at once, and at last the points are chosen again for the scales that
 * were stored. Types with "parity signs" store seven of eight: where the number of minus signs is
 * odd, the least important element of the eight changes its sign. */
#include <math.h>

#include "src/format/quant_blocks.h"
#include "src/format/quant_codec.h"
#include "src/format/quantize_fit.h"
#include "src/format/quantize_grid.h"

#define TOO_SMALL 1e-8f /* a run without a larger value is zero */
#define TOP_N 15        /* of the scale of a run */

/* What sets a type apart. */
struct iq_type {
    enum grid_id grid;
    int run;         /* elements with a common scale */
    bool parity;     /* seven signs of eight are stored */
    int n_trials;    /* scales tried: 2 * n_trials + 1, */
    float step;      /* so far apart, in units of the largest odd number */
    float s2_factor; /* of the mean square, in weights */
};

/* A block before it is packed. */
struct iq_block {
    float x[256], w[256]; /* magnitudes (one of eight may be negative), weights */
    uint8_t signs[32];    /* of 8 elements each */
    uint16_t index[64];   /* points */
    float scale[16], xq[16], q2[16]; /* per run: fit, sum of w x q, sum of w q^2 (q = 2r+1) */
    uint8_t n[16];
    float d;
};

static void take_weights(const struct iq_type *t, const float *x, const float *importance,
                         struct iq_block *b)
{
    const float s2 = t->s2_factor * fit_mean_square(x, 256);
    for (int i = 0; i < 256; i += t->run) {
        if (fit_weigh(t->run, x + i, importance ? importance + i : NULL, s2, b->w + i))
            continue;
        for (int k = i; k < i + t->run; k++)
            b->w[k] = x[k] * x[k] + (t->grid == GRID_IQ2S ? 0.5f * s2 : 0);
    }
}

static void take_signs(const struct iq_type *t, const float *x, struct iq_block *b)
{
    for (int k = 0; k < 32; k++) {
        unsigned signs = 0;
        int weakest = 8 * k, n_minus = 0;
        float least = 0;
        for (int i = 8 * k; i < 8 * k + 8; i++) {
            b->x[i] = fabsf(x[i]);
            if (x[i] < 0) {
                signs |= 1u << i % 8;
                n_minus++;
            }
            float cost = b->w[i] * x[i] * x[i];
            if (i == 8 * k || cost < least) {
                least = cost;
                weakest = i;
            }
        }
        if (t->parity && n_minus % 2) {
            signs ^= 1u << weakest % 8;
            b->x[weakest] = -b->x[weakest];
        }
        b->signs[k] = (uint8_t)signs;
    }
}

/* Points for one run at a given scale, and the sums of the least squares. */
static void pick_points(const struct grid *g, int n, const float *x, const float *w,
                        const float *judge, float scale, uint16_t *index, float *xq, float *q2)
{
    const float inverse = fit_inverse(scale);
    *xq = *q2 = 0;
    for (int at = 0; at < n; at += g->dims) {
        int8_t ranks[8];
        for (int k = 0; k < g->dims; k++)
            ranks[k] = (int8_t)fit_round(0.5f * (inverse * x[at + k] - 1), 0, g->ranks - 1);
        int point = grid_nearest(g, ranks, x + at, judge + at, scale, 1);
        *index++ = (uint16_t)point;
        for (int k = 0; k < g->dims; k++) {
            float q = (float)(2 * g->rank[point][k] + 1);
            *xq += w[at + k] * x[at + k] * q;
            *q2 += w[at + k] * q * q;
        }
    }
}

static float largest_of(int n, const float *x)
{
    float largest = 0;
    for (int i = 0; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    return largest;
}

/* The value that the largest odd number stands for in the middle trial. */
static float start_of(const struct iq_type *t, int n, const float *x, const float *w)
{
    uint8_t l[FIT_MAX];
    if (t->grid == GRID_IQ2XXS) /* coarse signs make the maximum an outlier: fit it */
        return 3 * fit_positive(n, x, w, 4, l);
    return largest_of(n, x);
}

/* Best scale of run r. Neighbours are judged with the roots of the weights while the scale is open:
 * that keeps one heavy element from deciding the point alone. */
static void fit_run(const struct iq_type *t, const struct grid *g, int r, struct iq_block *b)
{
    const float *x = b->x + t->run * r, *w = b->w + t->run * r;
    const int n_points = t->run / g->dims, top = 2 * g->ranks - 1;
    uint16_t trial[8];
    float roots[FIT_MAX], best = 0;
    b->scale[r] = b->xq[r] = b->q2[r] = 0;
    if (largest_of(t->run, x) < TOO_SMALL)
        return;
    const float start = start_of(t, t->run, x, w);
    if (!(start > 0))
        return;
    for (int i = 0; i < t->run; i++)
        roots[i] = sqrtf(w[i]);
    for (int i = -t->n_trials - 2; i <= t->n_trials; i++) {
        float xq, q2, largest = (float)top + t->step * (float)i;
        if (i < -t->n_trials) /* 1 or 3, for runs of nearly equal values */
            largest = (float)(2 * (-t->n_trials - i) - 1);
        pick_points(g, t->run, x, w, roots, start / largest, trial, &xq, &q2);
        if (xq > 0 && q2 > 0 && xq * xq > best * q2) {
            best = xq * xq / q2;
            b->scale[r] = xq / q2;
            b->xq[r] = xq;
            b->q2[r] = q2;
            memcpy(b->index + n_points * r, trial, (size_t)n_points * sizeof *trial);
        }
    }
}

static int scale_integer(float scale, float inverse_d)
{
    return fit_round(0.5f * (scale * inverse_d - 1), 0, TOP_N);
}

/* d and the n of all runs together: alternate between rounding and least squares. */
static float fit_scales(int n_runs, struct iq_block *b)
{
    float d = largest_of(n_runs, b->scale) / (float)(2 * TOP_N + 1);
    for (int round = 0; round < 4; round++) {
        float xq = 0, q2 = 0, inverse = fit_inverse(d);
        for (int r = 0; r < n_runs; r++) {
            float odd = (float)(2 * scale_integer(b->scale[r], inverse) + 1);
            xq += odd * b->xq[r];
            q2 += odd * odd * b->q2[r];
        }
        if (!(q2 > 0))
            break;
        d = xq / q2;
    }
    return d;
}

static void encode(const struct iq_type *t, const float *x, const float *importance,
                   uint8_t *d_field, struct iq_block *b)
{
    const struct grid *g = grid_get(t->grid);
    const int n_runs = 256 / t->run;
    memset(b, 0, sizeof *b);
    take_weights(t, x, importance, b);
    take_signs(t, x, b);
    for (int r = 0; r < n_runs; r++)
        fit_run(t, g, r, b);
    /* IQ3_XXS writes d * (0.5 + n) / 2 * point with points of 4 times the odd numbers, IQ2 the same
     * with / 4 and 8 times: in all of them the unit is d */
    const float d = block_put_f16(d_field, fit_scales(n_runs, b)), inverse = fit_inverse(d);
    for (int r = 0; r < n_runs; r++) {
        float xq, q2, roots[FIT_MAX];
        for (int i = 0; i < t->run; i++)
            roots[i] = sqrtf(b->w[t->run * r + i]);
        b->n[r] = (uint8_t)scale_integer(b->scale[r], inverse);
        pick_points(g, t->run, b->x + t->run * r, b->w + t->run * r, roots,
                    d * (float)(2 * b->n[r] + 1), b->index + t->run / g->dims * r, &xq, &q2);
    }
}

static void iq2_xxs(const float *x, struct block_iq2_xxs *b, const float *importance)
{
    static const struct iq_type type = { GRID_IQ2XXS, 32, true, 6, 0.1f, 1 };
    struct iq_block q;
    encode(&type, x, importance, b->d, &q);
    for (int g = 0; g < 8; g++) {
        uint32_t word = (uint32_t)q.n[g] << 28;
        for (int k = 0; k < 4; k++) {
            b->groups[g].index[k] = (uint8_t)q.index[4 * g + k];
            word |= (uint32_t)(q.signs[4 * g + k] & 127) << 7 * k;
        }
        block_put_u32(b->groups[g].signs_scale, word);
    }
}
QUANTIZE_BLOCKS(iq2_xxs)

static void iq2_xs(const float *x, struct block_iq2_xs *b, const float *importance)
{
    static const struct iq_type type = { GRID_IQ2XS, 16, true, 6, 0.2f, 1 };
    struct iq_block q;
    encode(&type, x, importance, b->d, &q);
    for (int k = 0; k < 32; k++)
        block_put_u16(b->qs + 2 * k, (uint16_t)(q.index[k] | (q.signs[k] & 127) << 9));
    for (int k = 0; k < 8; k++)
        b->scales[k] = (uint8_t)(q.n[2 * k] | q.n[2 * k + 1] << 4);
}
QUANTIZE_BLOCKS(iq2_xs)

static void iq2_s(const float *x, struct block_iq2_s *b, const float *importance)
{
    static const struct iq_type type = { GRID_IQ2S, 16, false, 12, 0.2f, 2 };
    struct iq_block q;
    encode(&type, x, importance, b->d, &q);
    memset(b->qh, 0, sizeof b->qh);
    for (int k = 0; k < 32; k++) {
        b->qs[k] = (uint8_t)q.index[k];
        b->qh[k / 4] |= (uint8_t)(q.index[k] >> 8 << 2 * (k % 4));
        b->signs[k] = q.signs[k];
    }
    for (int k = 0; k < 8; k++)
        b->scales[k] = (uint8_t)(q.n[2 * k] | q.n[2 * k + 1] << 4);
}
QUANTIZE_BLOCKS(iq2_s)

static void iq3_xxs(const float *x, struct block_iq3_xxs *b, const float *importance)
{
    static const struct iq_type type = { GRID_IQ3XXS, 32, true, 8, 0.4f, 2 };
    struct iq_block q;
    encode(&type, x, importance, b->d, &q);
    for (int k = 0; k < 64; k++)
        b->qs[k] = (uint8_t)q.index[k];
    for (int g = 0; g < 8; g++) {
        uint32_t word = (uint32_t)q.n[g] << 28;
        for (int k = 0; k < 4; k++)
            word |= (uint32_t)(q.signs[4 * g + k] & 127) << 7 * k;
        block_put_u32(b->signs_scale[g], word);
    }
}
QUANTIZE_BLOCKS(iq3_xxs)

static void iq3_s(const float *x, struct block_iq3_s *b, const float *importance)
{
    static const struct iq_type type = { GRID_IQ3S, 32, false, 9, 0.2f, 2 };
    struct iq_block q;
    encode(&type, x, importance, b->d, &q);
    memset(b->qh, 0, sizeof b->qh);
    for (int k = 0; k < 64; k++) {
        b->qs[k] = (uint8_t)q.index[k];
        b->qh[k / 8] |= (uint8_t)(q.index[k] >> 8 << k % 8);
    }
    memcpy(b->signs, q.signs, sizeof b->signs);
    for (int k = 0; k < 4; k++)
        b->scales[k] = (uint8_t)(q.n[2 * k] | q.n[2 * k + 1] << 4);
}
QUANTIZE_BLOCKS(iq3_s)
