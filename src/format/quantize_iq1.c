/* Reference encoders of IQ1_S and IQ1_M: three values per element, from a codebook of eights.
 *
 * An element is scale * (t + delta) with t = -1, 0, 1 and delta = +1/8 or -1/8; the scale is common
 * to a run (32 elements in IQ1_S, 16 in IQ1_M) and so is delta to 32 or 8. Sorted by value, the
 * elements of t = -1, 0 and 1 follow each other, so the best assignment without a codebook is found
 * by trying all pairs of cuts, with sums prepared for every prefix. Then each eight moves to the
 * nearest point of the codebook, and at last, as everywhere, all of it is chosen once more for the
 * scales that were stored. */
#include <math.h>

#include "src/format/quant_blocks.h"
#include "src/format/quant_codec.h"
#include "src/format/quantize_fit.h"
#include "src/format/quantize_grid.h"

#define DELTA 0.125f
#define TOO_SMALL 1e-12f
#define TOP_N 7 /* of the scale of a run */

struct iq1_type {
    int run;   /* elements with a common scale: 32 or 16 */
    int group; /* elements with a common delta: 32 or 8 */
};

struct iq1_block {
    float w[256];
    uint16_t index[32]; /* points */
    bool minus[32];     /* delta of each eight is -1/8 */
    float scale[16], xq[16], q2[16];
    uint8_t n[16];
};

static float delta_of(bool minus)
{
    return minus ? -DELTA : DELTA;
}

/* Insertion sort: runs are short and the order of equal values must not depend on a library. */
static void sort_by_value(int n, const float *x, uint8_t *order)
{
    for (int i = 0; i < n; i++) {
        int k = i;
        for (; k > 0 && x[order[k - 1]] > x[i]; k--)
            order[k] = order[k - 1];
        order[k] = (uint8_t)i;
    }
}

/* Sums of w x and w over the first k elements in order, separately for the (at most two) groups
 * that choose their own delta. */
struct prefix {
    float wx[2][33], w[2][33];
};

static void prefix_sums(int n, int group, const float *x, const float *w, const uint8_t *order,
                        struct prefix *p)
{
    memset(p, 0, sizeof *p);
    for (int k = 0; k < n; k++)
        for (int g = 0; g < 2; g++) {
            bool its = order[k] / group == g;
            p->wx[g][k + 1] = p->wx[g][k] + (its ? w[order[k]] * x[order[k]] : 0);
            p->w[g][k + 1] = p->w[g][k] + (its ? w[order[k]] : 0);
        }
}

/* Least-squares sums of one group for cuts i, j: t is -1 before i, 0 before j, then 1. */
static void cut_sums(const struct prefix *p, int g, int n, int i, int j, float delta, float *xq,
                     float *q2)
{
    const float low = delta - 1, middle = delta, high = delta + 1;
    *xq += p->wx[g][i] * low + (p->wx[g][j] - p->wx[g][i]) * middle +
           (p->wx[g][n] - p->wx[g][j]) * high;
    *q2 += p->w[g][i] * low * low + (p->w[g][j] - p->w[g][i]) * middle * middle +
           (p->w[g][n] - p->w[g][j]) * high * high;
}

/* Best cuts and deltas of a run; returns the scale, 0 when there is none. */
static float fit_cuts(const struct iq1_type *t, const float *x, const float *w, int8_t *ranks,
                      bool *minus)
{
    const int n = t->run, n_groups = t->run / t->group > 1 ? 2 : 1;
    uint8_t order[32];
    struct prefix p;
    sort_by_value(n, x, order);
    prefix_sums(n, t->group, x, w, order, &p);
    float best = 0, scale = 0;
    int cut_i = 0, cut_j = 0;
    /* Equal values fit t = 0 as well as t = 1 or -1, with an eight times larger scale that suits no
     * neighbour in the codebook: this order meets the ends first, and ties do not displace them. */
    for (int i = n; i >= 0; i--)
        for (int j = i; j <= n; j++)
            for (int signs = 0; signs < 1 << n_groups; signs++) {
                float xq = 0, q2 = 0;
                for (int g = 0; g < n_groups; g++)
                    cut_sums(&p, g, n, i, j, delta_of(signs >> g & 1), &xq, &q2);
                if (xq > 0 && q2 > 0 && xq * xq > 1.000001f * best * q2) {
                    best = xq * xq / q2;
                    scale = xq / q2;
                    cut_i = i;
                    cut_j = j;
                    for (int g = 0; g < n_groups; g++)
                        minus[g] = signs >> g & 1;
                }
            }
    for (int k = 0; k < n; k++)
        ranks[order[k]] = k < cut_i ? 0 : k < cut_j ? 1 : 2;
    return scale;
}

static float point_error(const struct grid *g, int point, const float *x, const float *w,
                         float scale, float delta, float *xq, float *q2)
{
    float error = 0;
    *xq = *q2 = 0;
    for (int k = 0; k < 8; k++) {
        float q = (float)(g->rank[point][k] - 1) + delta, difference = scale * q - x[k];
        *xq += w[k] * x[k] * q;
        *q2 += w[k] * q * q;
        error += w[k] * difference * difference;
    }
    return error;
}

/* The point for eight elements; `ranks` when they are known, else by rounding. */
static int point_of(const struct grid *g, const float *x, const float *w, const int8_t *known,
                    float scale, float delta)
{
    int8_t ranks[8];
    const float inverse = fit_inverse(scale);
    for (int k = 0; k < 8; k++)
        ranks[k] = known ? known[k] : (int8_t)fit_round(x[k] * inverse - delta + 1, 0, 2);
    /* scale * (r - 1 + delta) as half of it times (2r + offset) */
    return grid_nearest(g, ranks, x, w, 0.5f * scale, 2 * (delta - 1));
}

static void take_weights(const struct iq1_type *t, const float *x, const float *importance,
                         struct iq1_block *b)
{
    const float s2 = 2 * fit_mean_square(x, 256);
    for (int i = 0; i < 256; i += t->run)
        if (!fit_weigh(t->run, x + i, importance ? importance + i : NULL, s2, b->w + i))
            fit_weigh_squares(t->run, x + i, b->w + i);
}

static void fit_run(const struct iq1_type *t, const struct grid *g, const float *x, int r,
                    struct iq1_block *b)
{
    const int eights = t->run / 8, per_group = t->group / 8;
    const float *w = b->w + t->run * r;
    int8_t ranks[32];
    bool minus[2] = { false, false };
    float largest = 0;
    x += t->run * r;
    for (int i = 0; i < t->run; i++)
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    if (largest < TOO_SMALL)
        return;
    const float scale = fit_cuts(t, x, w, ranks, minus);
    for (int e = 0; e < eights; e++) {
        float xq, q2, delta = delta_of(minus[e / per_group]);
        int point = point_of(g, x + 8 * e, w + 8 * e, ranks + 8 * e, scale, delta);
        point_error(g, point, x + 8 * e, w + 8 * e, scale, delta, &xq, &q2);
        b->minus[eights * r + e] = minus[e / per_group];
        b->index[eights * r + e] = (uint16_t)point;
        b->xq[r] += xq;
        b->q2[r] += q2;
    }
    b->scale[r] = b->xq[r] > 0 && b->q2[r] > 0 ? b->xq[r] / b->q2[r] : 0;
}

static int scale_integer(float scale, float inverse_d)
{
    return fit_round(0.5f * (scale * inverse_d - 1), 0, TOP_N);
}

/* d for all runs: alternate between rounding the scales and least squares. */
static float fit_scales(int n_runs, struct iq1_block *b)
{
    float largest = 0;
    for (int r = 0; r < n_runs; r++)
        largest = b->scale[r] > largest ? b->scale[r] : largest;
    float d = largest / (float)(2 * TOP_N + 1);
    for (int round = 0; round < 4; round++) {
        float xq = 0, q2 = 0, inverse = fit_inverse(d);
        for (int r = 0; r < n_runs; r++) {
            float odd = (float)(2 * scale_integer(b->scale[r], inverse) + 1);
            xq += odd * b->xq[r];
            q2 += odd * odd * b->q2[r];
        }
        if (!(xq > 0 && q2 > 0))
            break;
        d = xq / q2;
    }
    return d;
}

/* Points and deltas of one group for its final scale. */
static void pick_again(const struct grid *g, int eights, const float *x, const float *w,
                       float scale, uint16_t *index, bool *minus)
{
    float errors[2] = { 0, 0 }, xq, q2;
    uint16_t found[2][4];
    for (int m = 0; m < 2; m++)
        for (int e = 0; e < eights; e++) {
            found[m][e] = (uint16_t)point_of(g, x + 8 * e, w + 8 * e, NULL, scale, delta_of(m));
            errors[m] += point_error(g, found[m][e], x + 8 * e, w + 8 * e, scale, delta_of(m), &xq,
                                     &q2);
        }
    const int m = errors[1] < errors[0];
    for (int e = 0; e < eights; e++) {
        index[e] = found[m][e];
        minus[e] = m;
    }
}

/* Everything but the packing; returns d as f16 bits. */
static uint16_t encode(const struct iq1_type *t, const float *x, const float *importance,
                       struct iq1_block *b)
{
    const struct grid *g = grid_get(GRID_IQ1);
    const int n_runs = 256 / t->run, eights = t->group / 8;
    memset(b, 0, sizeof *b);
    take_weights(t, x, importance, b);
    for (int r = 0; r < n_runs; r++)
        fit_run(t, g, x, r, b);
    const uint16_t bits = f32_to_f16(fit_scales(n_runs, b));
    const float d = f16_to_f32(bits), inverse = fit_inverse(d);
    for (int r = 0; r < n_runs; r++)
        b->n[r] = (uint8_t)scale_integer(b->scale[r], inverse);
    for (int i = 0; i < 256; i += t->group)
        pick_again(g, eights, x + i, b->w + i, d * (float)(2 * b->n[i / t->run] + 1),
                   b->index + i / 8, b->minus + i / 8);
    return bits;
}

static void iq1_s(const float *x, struct block_iq1_s *b, const float *importance)
{
    static const struct iq1_type type = { 32, 32 };
    struct iq1_block q;
    block_put_u16(b->d, encode(&type, x, importance, &q));
    for (int g = 0; g < 8; g++) {
        unsigned h = (unsigned)q.n[g] << 12 | (q.minus[4 * g] ? 0x8000u : 0);
        for (int k = 0; k < 4; k++) {
            b->qs[4 * g + k] = (uint8_t)q.index[4 * g + k];
            h |= (unsigned)(q.index[4 * g + k] >> 8) << 3 * k;
        }
        block_put_u16(b->qh + 2 * g, (uint16_t)h);
    }
}

static void iq1_m(const float *x, struct block_iq1_m *b, const float *importance)
{
    static const struct iq1_type type = { 16, 8 };
    struct iq1_block q;
    const unsigned d = encode(&type, x, importance, &q);
    memset(b->qh, 0, sizeof b->qh);
    for (int k = 0; k < 32; k++) {
        b->qs[k] = (uint8_t)q.index[k];
        b->qh[k / 2] |= (uint8_t)((q.index[k] >> 8 | (q.minus[k] ? 8 : 0)) << 4 * (k % 2));
    }
    for (int i = 0; i < 4; i++) {
        unsigned s = (d >> 4 * i & 15) << 12;
        for (int r = 0; r < 4; r++)
            s |= (unsigned)q.n[4 * i + r] << 3 * r;
        block_put_u16(b->scales + 2 * i, (uint16_t)s);
    }
}

QUANTIZE_BLOCKS(iq1_s)
QUANTIZE_BLOCKS(iq1_m)
