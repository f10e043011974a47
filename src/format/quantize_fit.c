#include "src/format/quantize_fit.h"

#include <math.h>

float fit_inverse(float d)
{
    float inverse = 1.0f / d;
    return isfinite(inverse) ? inverse : 0;
}

float fit_sum(int n, const float *w)
{
    float sum = 0;
    for (int i = 0; i < n; i++)
        sum += w[i];
    return sum;
}

float fit_mean_square(const float *x, int64_t n)
{
    float sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return n ? sum / (float)n : 0;
}

bool fit_weigh(int n, const float *x, const float *importance, float s2, float *w)
{
    if (!importance)
        return false;
    for (int i = 0; i < n; i++)
        w[i] = importance[i] * sqrtf(s2 + x[i] * x[i]);
    return fit_sum(n, w) > 0;
}

void fit_weigh_squares(int n, const float *x, float *w)
{
    for (int i = 0; i < n; i++)
        w[i] = x[i] * x[i];
}

/* The value of largest magnitude, with its sign. */
static float extreme(int n, const float *x)
{
    float largest = 0, value = 0;
    for (int i = 0; i < n; i++)
        if (fabsf(x[i]) > largest) {
            largest = fabsf(x[i]);
            value = x[i];
        }
    return value;
}

/* For a given l the best scale is xl / l2, and it removes xl^2 / l2 of the error. */
struct sums {
    float xl, l2; /* sum of w x l and of w l^2 */
};

static bool better(struct sums a, struct sums b)
{
    return a.l2 > 0 && a.xl * a.xl * b.l2 > b.xl * b.xl * a.l2;
}

/* Sums run in four lanes: n is a multiple of four, and the processor adds four at a time. */
static struct sums round_all(int n, const float *x, const float *w, float inverse, int low,
                             int high, int8_t *l)
{
    float xl[4] = { 0 }, l2[4] = { 0 };
    for (int i = 0; i < n; i += 4)
        for (int k = i; k < i + 4; k++) {
            int rounded = fit_round(inverse * x[k], low, high);
            float v = (float)rounded, wv = w[k] * v;
            l[k] = (int8_t)rounded;
            xl[k - i] += wv * x[k];
            l2[k - i] += wv * v;
        }
    return (struct sums){ (xl[0] + xl[2]) + (xl[1] + xl[3]), (l2[0] + l2[2]) + (l2[1] + l2[3]) };
}

float fit_symmetric(int n, const float *x, const float *w, int nmax, int8_t *l)
{
    float m = extreme(n, x);
    memset(l, 0, (size_t)(unsigned)n);
    if (fabsf(m) < FIT_TINY)
        return 0;
    int8_t trial[FIT_MAX];
    struct sums best = round_all(n, x, w, -(float)nmax / m, -nmax, nmax - 1, l);
    for (int step = -9; step <= 9; step++) {
        if (step == 0)
            continue;
        float inverse = -((float)nmax + 0.1f * (float)step) / m;
        struct sums s = round_all(n, x, w, inverse, -nmax, nmax - 1, trial);
        if (better(s, best)) {
            best = s;
            memcpy(l, trial, (size_t)n);
        }
    }
    return best.l2 > 0 ? best.xl / best.l2 : 0;
}

/* Move single integers to where the other ones want them, while the error falls. */
static struct sums move_singly(int n, const float *x, const float *w, int low, int high, int8_t *l,
                               struct sums s)
{
    for (int round = 0; round < 5; round++) {
        bool moved = false;
        for (int i = 0; i < n; i++) {
            float v = (float)l[i];
            struct sums rest = { s.xl - w[i] * x[i] * v, s.l2 - w[i] * v * v };
            if (rest.xl == 0 || !(rest.l2 > 0))
                continue;
            int wanted = fit_round(x[i] * rest.l2 / rest.xl, low, high);
            if (wanted == l[i])
                continue;
            v = (float)wanted;
            struct sums with = { rest.xl + w[i] * x[i] * v, rest.l2 + w[i] * v * v };
            if (better(with, s)) {
                s = with;
                l[i] = (int8_t)wanted;
                moved = true;
            }
        }
        if (!moved)
            break;
    }
    return s;
}

float fit_symmetric_by_moves(int n, const float *x, const float *w, int nmax, int8_t *l)
{
    float m = extreme(n, x);
    memset(l, 0, (size_t)(unsigned)n);
    if (fabsf(m) < FIT_TINY)
        return 0;
    struct sums s = round_all(n, x, w, -(float)nmax / m, -nmax, nmax - 1, l);
    s = move_singly(n, x, w, -nmax, nmax - 1, l, s);
    return s.l2 > 0 ? s.xl / s.l2 : 0;
}

/* Sums of w l, w l^2 and w x l. */
struct affine_sums {
    float l, l2, xl;
};

static float across(const float lanes[4])
{
    return (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]);
}

/* Integers of x for an inverse scale and an offset, as floats, and their sums, in lanes as above. */
static struct affine_sums round_affine(int n, const float *x, const float *w, float inverse,
                                       float offset, int nmax, float *l)
{
    for (int i = 0; i < n; i++)
        l[i] = (float)fit_round(inverse * (x[i] - offset), 0, nmax);
    float sum_l[4] = { 0 }, sum_l2[4] = { 0 }, sum_xl[4] = { 0 };
    for (int i = 0; i < n; i += 4)
        for (int k = 0; k < 4; k++) {
            float wl = w[i + k] * l[i + k];
            sum_l[k] += wl;
            sum_l2[k] += wl * l[i + k];
            sum_xl[k] += wl * x[i + k];
        }
    return (struct affine_sums){ across(sum_l), across(sum_l2), across(sum_xl) };
}

/* Scale and offset of least weighted squares for integers with these sums. */
static bool solve_affine(struct affine_sums s, float sum_w, float sum_x, float *scale,
                         float *offset)
{
    float determinant = sum_w * s.l2 - s.l * s.l;
    if (!(determinant > 0))
        return false;
    *scale = (sum_w * s.xl - sum_x * s.l) / determinant;
    *offset = (s.l2 * sum_x - s.l * s.xl) / determinant;
    if (*offset > 0) {
        *offset = 0;
        *scale = s.xl / s.l2;
    }
    return *scale >= 0;
}

static float affine_error(int n, const float *x, const float *w, const float *l, float scale,
                          float offset, bool absolute)
{
    float sum[4] = { 0 };
    for (int i = 0; absolute && i < n; i += 4)
        for (int k = 0; k < 4; k++)
            sum[k] += w[i + k] * fabsf(scale * l[i + k] + offset - x[i + k]);
    for (int i = 0; !absolute && i < n; i += 4)
        for (int k = 0; k < 4; k++) {
            float difference = scale * l[i + k] + offset - x[i + k];
            sum[k] += w[i + k] * difference * difference;
        }
    return across(sum);
}

float fit_affine(int n, const float *x, const float *w, int nmax, struct fit_search search,
                 uint8_t *l, float *min)
{
    float low = 0, high = x[0], sum_w = 0, sum_x = 0;
    for (int i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
        sum_w += w[i];
        sum_x += w[i] * x[i];
    }
    memset(l, 0, (size_t)(unsigned)n);
    *min = -low;
    if (high - low < FIT_TINY)
        return 0;
    float best_scale = (high - low) / (float)nmax, best_offset = low, best_error = 0;
    float trial[FIT_MAX], best[FIT_MAX] = { 0 };
    for (int step = -1; step <= search.n_steps; step++) {
        float extra = step < 0 ? 0 : search.first + search.step * (float)step;
        /* from the best offset so far: the search follows the solution */
        if (!(high > best_offset))
            break;
        float inverse = (extra + (float)nmax) / (high - best_offset);
        struct affine_sums sums = round_affine(n, x, w, inverse, best_offset, nmax, trial);
        float scale = best_scale, offset = low; /* of the plain division, step -1 */
        if (step >= 0 && !solve_affine(sums, sum_w, sum_x, &scale, &offset))
            continue;
        float error = affine_error(n, x, w, trial, scale, offset, search.absolute);
        if (step < 0 || error < best_error) {
            best_error = error;
            best_scale = scale;
            best_offset = offset;
            memcpy(best, trial, (size_t)n * sizeof *best);
        }
    }
    for (int i = 0; i < n; i++)
        l[i] = (uint8_t)best[i];
    *min = -best_offset;
    return best_scale;
}

float fit_positive(int n, const float *x, const float *w, int nmax, uint8_t *l)
{
    float largest = 0;
    for (int i = 0; i < n; i++)
        largest = x[i] > largest ? x[i] : largest;
    memset(l, 0, (size_t)(unsigned)n);
    if (largest < FIT_TINY)
        return 0;
    float best_inverse = 0, best_error = 0;
    for (int step = -4; step <= 4; step++) {
        float inverse = ((float)nmax + 0.1f * (float)step) / largest, error = 0;
        for (int i = 0; i < n; i++) {
            float difference = x[i] - (float)fit_round(inverse * x[i], 0, nmax) / inverse;
            error += w[i] * difference * difference;
        }
        if (best_inverse == 0 || error < best_error) {
            best_error = error;
            best_inverse = inverse;
        }
    }
    int8_t moved[FIT_MAX];
    struct sums s = round_all(n, x, w, best_inverse, 0, nmax, moved);
    s = move_singly(n, x, w, 0, nmax, moved, s);
    for (int i = 0; i < n; i++)
        l[i] = (uint8_t)moved[i];
    return s.l2 > 0 ? s.xl / s.l2 : 0;
}
