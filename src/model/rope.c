/* Rotary frequencies, with the scaling of a file resolved into them once, in double. */
#include <math.h>

#include "src/base/util.h"
#include "src/model/params.h"

#define PI 3.14159265358979323846

/* The pair index whose wave turns `turns` times over the original context. */
static double pair_of_turns(const struct keys *k, double n_rot, double turns)
{
    return n_rot * log((double)k->rope_original_context / (2 * PI * turns)) /
           (2 * log(k->rope_base));
}

/* Part of the unscaled frequency kept by pair i: 1 below the ramp, 0 above it. */
static double yarn_keep(double i, double low, double high)
{
    double along = (i - low) / fmax(0.001, high - low);
    return 1 - fmin(1, fmax(0, along));
}

bool rope_solve(struct rope *r, const struct keys *k, enum rope_pairing pairing, int64_t n_rot,
                double yarn_beta_fast, double yarn_beta_slow, double magnitude,
                const float *divisors, struct error *err)
{
    if (n_rot < 2 || n_rot % 2 || n_rot > 2 * ROPE_MAX_PAIRS)
        return fail(err, ERR_FILE, "rotary dimensions: %lld, expected an even number up to %d",
                    (long long)n_rot, 2 * ROPE_MAX_PAIRS);
    *r = (struct rope){ .pairing = pairing, .n_rot = (int)n_rot, .magnitude = (float)magnitude };

    double low = 0, high = 0;
    if (k->rope_scaling == ROPE_SCALING_YARN && k->rope_base > 1) {
        low = fmax(0, floor(pair_of_turns(k, (double)n_rot, yarn_beta_fast)));
        high = fmin((double)n_rot - 1, ceil(pair_of_turns(k, (double)n_rot, yarn_beta_slow)));
    }
    for (int i = 0; i < n_rot / 2; i++) {
        double f = pow(k->rope_base, -2.0 * i / (double)n_rot);
        if (divisors) {
            if (!isfinite(divisors[i]) || !(divisors[i] > 0))
                return fail(err, ERR_FILE, "rope_freqs.weight: entry %d is %g, expected a positive "
                            "number", i, (double)divisors[i]);
            f /= (double)divisors[i];
        }
        double keep = 1;
        if (k->rope_scaling == ROPE_SCALING_LINEAR)
            keep = 0;
        else if (k->rope_scaling == ROPE_SCALING_YARN)
            keep = yarn_keep(i, low, high);
        r->frequency[i] = f * keep + f / k->rope_factor * (1 - keep);
    }
    return true;
}
