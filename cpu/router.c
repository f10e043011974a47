#include "cpu/router.h"

#include <assert.h>
#include <math.h>

#include "src/base/util.h"

static void score_softmax(float *p, int n)
{
    float max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = p[i] > max ? p[i] : max;
    for (int i = 0; i < n; i++)
        sum += p[i] = expf(p[i] - max);
    for (int i = 0; i < n; i++)
        p[i] /= sum;
}

static void score_sigmoid(float *p, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = 1 / (1 + expf(-p[i]));
}

/* softplus(z) = ln(1 + e^z), which is z where e^z is large. */
static void score_sqrt_softplus(float *p, int n)
{
    for (int i = 0; i < n; i++)
        p[i] = sqrtf(p[i] > 20 ? p[i] : log1pf(expf(p[i])));
}

/* What an expert or group competes with: p plus bias where there is one. */
static inline float merit(const struct router *r, const float *p, int expert)
{
    return r->bias.data ? p[expert] + ((const float *)r->bias.data)[expert] : p[expert];
}

static float group_merit(const struct router *r, const float *p, int group)
{
    int size = r->n_routed / r->n_groups, first = group * size;
    float best = -INFINITY, second = -INFINITY;
    for (int i = first; i < first + size; i++) {
        float c = merit(r, p, i);
        if (c > best) {
            second = best;
            best = c;
        } else if (c > second) {
            second = c;
        }
    }
    return r->group_score == GROUP_TOP2_SUM && size > 1 ? best + second : best;
}

/* The first of the largest values not taken yet; marks it. Comparisons with NaN are false, so a NaN
 * never wins against a number that stands before it, and some index always does. */
static int take_best(const float *values, bool *taken, int n)
{
    int best = -1;
    for (int i = 0; i < n; i++) {
        if (!taken[i] && (best < 0 || values[i] > values[best]))
            best = i;
    }
    taken[best] = true;
    return best;
}

static void choose_groups(const struct router *r, const float *p, bool *chosen)
{
    float merits[ROUTER_MAX_GROUPS];
    for (int g = 0; g < r->n_groups; g++) {
        merits[g] = group_merit(r, p, g);
        chosen[g] = false;
    }
    for (int i = 0; i < r->n_groups_used; i++)
        take_best(merits, chosen, r->n_groups);
}

/* Index of the next pick: best among what is neither taken nor masked; when only masked experts are
 * left, the first of those. */
static int next_pick(const struct router *r, const float *p, const bool *group_ok,
                     const int32_t *ids, int n_taken)
{
    int best = -1, size = r->n_groups > 1 ? r->n_routed / r->n_groups : r->n_routed;
    float best_merit = -INFINITY;
    for (int i = 0; i < r->n_routed; i++) {
        float c = group_ok && !group_ok[i / size] ? -INFINITY : merit(r, p, i);
        if (best >= 0 && !(c > best_merit))
            continue;
        bool taken = false;
        for (int k = 0; k < n_taken; k++)
            taken |= ids[k] == i;
        if (!taken) {
            best = i;
            best_merit = c;
        }
    }
    return best;
}

void router_choose(const struct router *r, float *scores, int32_t token, int32_t *ids,
                   float *weights)
{
    assert(r->n_groups <= ROUTER_MAX_GROUPS && r->top_k <= r->n_routed);
    bool group_ok[ROUTER_MAX_GROUPS];
    bool grouped = r->n_groups > 1;
    const int32_t *fixed = r->table.data;
    if (r->scoring == ROUTER_SOFTMAX)
        score_softmax(scores, r->n_routed);
    else if (r->scoring == ROUTER_SQRT_SOFTPLUS)
        score_sqrt_softplus(scores, r->n_routed);
    else
        score_sigmoid(scores, r->n_routed);
    if (grouped)
        choose_groups(r, scores, group_ok);

    float sum = 0;
    for (int k = 0; k < r->top_k; k++) {
        ids[k] = fixed ? fixed[(int64_t)token * r->top_k + k]
                       : next_pick(r, scores, grouped ? group_ok : NULL, ids, k);
        weights[k] = scores[ids[k]];
        sum += weights[k];
    }
    float divisor = !r->normalize ? 1
                    : r->normalize_floor > 0 ? max_of(sum, r->normalize_floor)
                                             : sum + 1e-20f;
    for (int k = 0; k < r->top_k; k++)
        weights[k] = weights[k] / divisor * r->scale;
}
