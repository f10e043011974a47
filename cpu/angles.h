/* Rotations: how a pair turns at a position. Private to cpu/. */
#ifndef TANDEM_CPU_ANGLES_H
#define TANDEM_CPU_ANGLES_H

#include <math.h>

#include "src/device.h"

/* cos and sin of pair i at a position: the angle in double, reduced to one turn, then in float: exact
 * to the last place at any position. */
static inline void angle_at(const struct rope *r, double position, int i, float *cosine,
                            float *sine)
{
    float angle = (float)fmod(position * r->frequency[i], 2 * M_PI);
    *cosine = cosf(angle) * r->magnitude;
    *sine = sinf(angle) * r->magnitude;
}

/* Turn the pairs of x by the angles given. */
static inline void rotate(float *x, const float *cosine, const float *sine,
                          enum rope_pairing pairing, int n_pairs)
{
    int64_t step = pairing == ROPE_NORM ? 2 : 1, partner = pairing == ROPE_NORM ? 1 : n_pairs;
    for (int i = 0; i < n_pairs; i++) {
        float *p = x + i * step, a = p[0], b = p[partner];
        p[0] = a * cosine[i] - b * sine[i];
        p[partner] = a * sine[i] + b * cosine[i];
    }
}

/* One vector of n_rot elements, turned as at `position`. */
static inline void rotate_at(const struct rope *r, int64_t position, float *x)
{
    float cosine[ROPE_MAX_PAIRS], sine[ROPE_MAX_PAIRS];
    for (int i = 0; i < r->n_rot / 2; i++)
        angle_at(r, (double)position, i, &cosine[i], &sine[i]);
    rotate(x, cosine, sine, r->pairing, r->n_rot / 2);
}

#endif
