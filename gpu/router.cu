/* Choosing experts: one warp per token, all in one launch.
 *
 * The scores of a token (256 for V3, 1 KB) go to shared memory once; a lane looks after every 32nd
 * expert. Each pick is a look at n / 32 candidates per lane and five exchanges between lanes, so
 * eight of 256 take about 8 * (8 + 5) steps, a microsecond or two: this stands on the critical path
 * to the CPU's experts. Picks equal those of cpu/router.c: better merit first, lower id among equals.
 * A merit that is not a number counts as the worst.
 *
 * Source: DeepSeek-V2 technical report, section 2.2; DeepSeek-V3, section 2.1.2. */
#include "gpu/common.cuh"

#define LANES 32

/* What wins so far: the larger value, the lower index among equals; index < 0: nothing. */
struct best {
    float value;
    int index;
};

DEVICE bool better(struct best a, struct best b)
{
    if (a.index < 0 || b.index < 0)
        return a.index >= 0;
    return a.value > b.value || (a.value == b.value && a.index < b.index);
}

/* The best over all lanes, for all lanes. */
DEVICE struct best warp_best(struct best mine)
{
    for (int mask = LANES / 2; mask > 0; mask >>= 1) {
        struct best other = { warp_xor(mine.value, mask), warp_xor(mine.index, mask) };
        if (better(other, mine))
            mine = other;
    }
    return mine;
}

/* Index of the best of n values that are not taken; marks it. */
DEVICE int take_best(const float *values, bool *taken, int n)
{
    struct best mine = { 0, -1 };
    for (int i = lane_id(); i < n; i += LANES) {
        struct best candidate = { values[i], i };
        if (!taken[i] && better(candidate, mine))
            mine = candidate;
    }
    int index = warp_best(mine).index;
    if (index % LANES == lane_id())
        taken[index] = true;
    warp_sync();
    return index;
}

/* p in place of the scores of one token. */
DEVICE void score_softmax(float *p, int n)
{
    float max = -INFINITY, sum = 0;
    for (int i = lane_id(); i < n; i += LANES)
        max = fmaxf(max, p[i]);
    max = warp_max(max);
    for (int i = lane_id(); i < n; i += LANES)
        sum += p[i] = expf(p[i] - max);
    sum = warp_sum(sum);
    for (int i = lane_id(); i < n; i += LANES)
        p[i] /= sum;
}

DEVICE void score_sigmoid(float *p, int n)
{
    for (int i = lane_id(); i < n; i += LANES)
        p[i] = 1 / (1 + expf(-p[i]));
}

DEVICE void score_sqrt_softplus(float *p, int n)
{
    for (int i = lane_id(); i < n; i += LANES)
        p[i] = sqrtf(p[i] > 20 ? p[i] : log1pf(expf(p[i])));
}

/* What a group competes with: its best merit, or the sum of its two best. */
DEVICE float group_merit(const float *merit, int size, bool top2)
{
    float first = -INFINITY, second = -INFINITY;
    for (int i = 0; i < size; i++) {
        if (merit[i] > first) {
            second = first;
            first = merit[i];
        } else if (merit[i] > second) {
            second = merit[i];
        }
    }
    return top2 && size > 1 ? first + second : first;
}

/* Experts outside of the best groups compete with -inf from now on. */
DEVICE void mask_groups(const struct router *r, float *merit, float *groups, bool *chosen)
{
    int size = r->n_routed / r->n_groups;
    for (int g = lane_id(); g < r->n_groups; g += LANES) {
        groups[g] = group_merit(merit + g * size, size, r->group_score == router::GROUP_TOP2_SUM);
        chosen[g] = false;
    }
    warp_sync();
    for (int i = 0; i < r->n_groups_used; i++)
        take_best(groups, chosen, r->n_groups);
    for (int i = lane_id(); i < r->n_routed; i += LANES) {
        if (!chosen[i / size])
            merit[i] = -INFINITY;
    }
    warp_sync();
}

/* Weights of the picks, normalised and scaled; lane k holds pick k, k + 32, ... */
DEVICE void write_weights(const struct router *r, const float *p, const int32_t *ids,
                          float *weights)
{
    float sum = 0;
    for (int k = 0; k < r->top_k; k++) /* in order: the sum has the bits of the CPU's */
        sum += p[ids[k]];
    float divisor = !r->normalize ? 1
                    : r->normalize_floor > 0 ? fmaxf(sum, r->normalize_floor)
                                             : sum + 1e-20f;
    for (int k = lane_id(); k < r->top_k; k += LANES)
        weights[k] = p[ids[k]] / divisor * r->scale;
}

KERNEL void choose_experts(struct router r, const float *scores, int64_t stride,
                           const int32_t *tokens, int32_t *ids, float *weights)
{
    SHARED(float, p); /* [n_routed], then the arrays below */
    int n = r.n_routed;
    float *merit = p + n, *groups = merit + n;
    int32_t *picked = (int32_t *)(groups + r.n_groups);
    bool *taken = (bool *)(picked + r.top_k), *chosen = taken + n;
    const float *bias = (const float *)r.bias.data;

    for (int i = lane_id(); i < n; i += LANES)
        p[i] = scores[blockIdx.x * stride + i];
    if (r.scoring == router::ROUTER_SOFTMAX)
        score_softmax(p, n);
    else if (r.scoring == router::ROUTER_SQRT_SOFTPLUS)
        score_sqrt_softplus(p, n);
    else
        score_sigmoid(p, n);
    for (int i = lane_id(); i < n; i += LANES) {
        float m = bias ? p[i] + bias[i] : p[i];
        merit[i] = m == m ? m : -INFINITY;
        taken[i] = false;
    }
    warp_sync();
    if (r.n_groups > 1)
        mask_groups(&r, merit, groups, chosen);

    const int32_t *table = (const int32_t *)r.table.data;
    for (int k = 0; k < r.top_k; k++) {
        int pick = table ? table[(int64_t)tokens[blockIdx.x] * r.top_k + k]
                         : take_best(merit, taken, n);
        if (lane_id() == 0)
            picked[k] = pick;
    }
    warp_sync();
    for (int k = lane_id(); k < r.top_k; k += LANES)
        ids[(int64_t)blockIdx.x * r.top_k + k] = picked[k];
    write_weights(&r, p, picked, weights + (int64_t)blockIdx.x * r.top_k);
}

void gpu_router_topk(struct gpu_stream *s, const struct router *r, struct rows scores,
                     const int32_t *tokens, int32_t *ids, float *weights, int n_tokens)
{
    assert(r->n_routed <= GPU_ROUTER_EXPERTS && r->top_k <= r->n_routed &&
           r->n_groups <= r->n_routed);
    struct router with_groups = *r;
    if (with_groups.n_groups < 1)
        with_groups.n_groups = 1;
    size_t n = (size_t)r->n_routed, groups = (size_t)with_groups.n_groups;
    size_t shared = (2 * n + groups + (size_t)r->top_k) * 4 + n + groups;
    LAUNCH(s, choose_experts, dim3((unsigned)n_tokens), LANES, shared, with_groups, scores.data,
           scores.stride, tokens, ids, weights);
}
