/* Fits of small integers to floats: the mathematics that the encoders share.
 *
 * Each finds integers l and one or two real parameters that make a weighted squared error small,
 *     sum of w (x - value(l))^2,
 * by trying several scales, rounding, and solving the least squares for the parameters. All loops
 * are short and in a fixed order; n is a multiple of 4 and at most FIT_MAX.
 * Source of the methods: ggml-org/llama.cpp ggml/src/ggml-quants.c. */
#ifndef TANDEM_FORMAT_QUANTIZE_FIT_H
#define TANDEM_FORMAT_QUANTIZE_FIT_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define FIT_MAX 64

/* Values smaller than this are all zero for the fits: their squares vanish in binary32. */
#define FIT_TINY 1e-15f

/* Nearest integer, ties to even, after clamping to [low, high] (both within 2^22); NaN gives 0.
 * Adding 1.5 * 2^23 leaves the integer in the low bits of the mantissa, which vectorizes. */
static inline int fit_round(float v, int low, int high)
{
    v = v < (float)low ? (float)low : v;
    v = v > (float)high ? (float)high : v;
    float shifted = v + 12582912.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return (int)(bits & 0x7fffff) - 0x400000;
}

/* 1/d, or 0 where d is 0 or too small to invert: then all integers become 0. */
float fit_inverse(float d);

float fit_sum(int n, const float *w);
float fit_mean_square(const float *x, int64_t n);

/* Weights: importance times magnitude, the latter softened by s2 so that small values keep some.
 * False when `importance` is NULL or zero in all these columns; then w is not to be used. */
bool fit_weigh(int n, const float *x, const float *importance, float s2, float *w);
void fit_weigh_squares(int n, const float *x, float *w);

/* x ~ scale * l, l in -nmax .. nmax-1: best of 19 scales around (largest x) = -nmax. Returns the
 * scale, which may be negative. */
float fit_symmetric(int n, const float *x, const float *w, int nmax, int8_t *l);

/* The same from one start, improved by moving single integers while that helps, for at most five
 * rounds. */
float fit_symmetric_by_moves(int n, const float *x, const float *w, int nmax, int8_t *l);

/* x ~ scale * l - min, l in 0 .. nmax, min >= 0: scales are (first + step*i + nmax) / (range of x),
 * i = 0 .. n_steps; `absolute` judges by sum of w |error| instead of squares. Returns the scale. */
struct fit_search {
    float first, step;
    int n_steps;
    bool absolute;
};
float fit_affine(int n, const float *x, const float *w, int nmax, struct fit_search search,
                 uint8_t *l, float *min);

/* x >= 0, x ~ scale * l, l in 0 .. nmax: for scales of scales. Returns the scale. */
float fit_positive(int n, const float *x, const float *w, int nmax, uint8_t *l);

#endif
