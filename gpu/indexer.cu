/* The indexer (struct indexer of src/device.h): scores of all cached keys for some tokens, then the
 * best of each token.
 *
 * Scoring: a block takes one token and LANES keys, which it lays into shared memory; lane i of every
 * warp holds key i, and the warps share out the query heads. V4 Flash at 128 K positions scores 32 K
 * keys with 64 heads of 128: 0.5 GFLOP and 8 MB of keys a layer.
 * Selecting: one block per token finds the top_k-th largest score digit by digit, eight bits of its
 * order-preserving image at a time, then writes the indices above it in their order, and of those at
 * it the first. The set is that of cpu/indexer.c for equal scores. */
#include "gpu/common.cuh"

#define LANES 32
#define DIGITS 256
#define SCORE_BYTES ((size_t)16 << 20) /* of scratch memory, at least one token */

struct index_scores {
    const float *queries, *weights;
    int64_t queries_stride, weights_stride;
    int n_heads, dim, top_k, ratio, first; /* first: the token that row 0 of the scores is for */
    float *scores;
    int64_t stride;
    const struct gpu_step *step;
};

DEVICE float get_key(const float *p) { return *p; }
DEVICE float get_key(const uint16_t *p) { return f16_to_float(*p); }

/* Keys that are complete at a token of the step. */
DEVICE int64_t n_visible(const struct gpu_step *step, int64_t token, int ratio)
{
    return (step->n_past + token + 1) / ratio;
}

template <typename T>
KERNEL void score_keys(const T *keys, struct index_scores x)
{
    SHARED(float, tile); /* [LANES, dim + 1], then [warps, LANES] */
    int64_t token = x.first + blockIdx.y, n = n_visible(x.step, token, x.ratio);
    int64_t key0 = (int64_t)blockIdx.x * LANES;
    if (key0 >= n || n <= x.top_k)
        return; /* the whole block */
    int stride = x.dim + 1, n_warps = blockDim.x / LANES; /* lanes read a column: other banks */
    float *sums = tile + LANES * stride;
    for (int i = threadIdx.x; i < LANES * x.dim; i += blockDim.x) {
        int64_t key = key0 + i / x.dim;
        tile[i / x.dim * stride + i % x.dim] = key < n ? get_key(keys + key * x.dim + i % x.dim) : 0;
    }
    block_sync();
    const float *key = tile + lane_id() * stride, *q = x.queries + token * x.queries_stride;
    float sum = 0;
    for (int h = warp_id(); h < x.n_heads; h += n_warps) {
        float product = 0;
        for (int i = 0; i < x.dim; i++)
            product = multiply_add(q[h * x.dim + i], key[i], product);
        sum += x.weights[token * x.weights_stride + h] * fmaxf(product, 0);
    }
    sums[threadIdx.x] = sum;
    block_sync();
    if (threadIdx.x < LANES && key0 + threadIdx.x < n) {
        float all = 0;
        for (int w = 0; w < n_warps; w++)
            all += sums[w * LANES + threadIdx.x];
        x.scores[blockIdx.y * x.stride + key0 + threadIdx.x] = all;
    }
}

/* An integer in the order of the floats; what is not a number comes first. */
DEVICE uint32_t order_of(float x)
{
    uint32_t bits = float_to_bits(x);
    if (x != x)
        return 0;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The image of the wanted-th largest of n scores; *above: how many are larger. */
DEVICE uint32_t threshold(const float *scores, int64_t n, int wanted, int *count, int *above)
{
    uint32_t prefix = 0, mask = 0;
    *above = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < DIGITS; i += blockDim.x)
            count[i] = 0;
        block_sync();
        for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
            uint32_t image = order_of(scores[i]);
            if ((image & mask) == prefix)
                atomic_add(&count[image >> shift & 255], 1);
        }
        block_sync();
        int digit = DIGITS - 1, left = wanted - *above;
        for (; count[digit] < left; digit--) { /* every thread for itself: the same */
            left -= count[digit];
            *above += count[digit];
        }
        prefix |= (uint32_t)digit << shift;
        mask |= 255u << shift;
        block_sync();
    }
    return prefix;
}

/* Each thread looks after a run of neighbours: it counts what it has above and at the limit, learns
 * from the runs before it where its own go, and writes them. */
DEVICE void write_best(const float *scores, int64_t n, uint32_t limit, int equal, int *counts,
                       int32_t *ids)
{
    int64_t run = (n + blockDim.x - 1) / blockDim.x, begin = threadIdx.x * run;
    int64_t end = begin + run < n ? begin + run : n;
    int larger = 0, same = 0;
    for (int64_t i = begin; i < end; i++) {
        uint32_t image = order_of(scores[i]);
        larger += image > limit;
        same += image == limit;
    }
    counts[2 * threadIdx.x] = larger;
    counts[2 * threadIdx.x + 1] = same;
    block_sync();
    int above = 0, at = 0;
    for (int i = 0; i < (int)threadIdx.x; i++) {
        above += counts[2 * i];
        at += counts[2 * i + 1];
    }
    for (int64_t i = begin; i < end; i++) {
        uint32_t image = order_of(scores[i]);
        if (image > limit || (image == limit && at < equal))
            ids[above + (at < equal ? at : equal)] = (int32_t)i;
        above += image > limit;
        at += image == limit;
    }
}

KERNEL void select_keys(int32_t *ids, int32_t *n_ids, struct index_scores x)
{
    SHARED(int, count); /* [DIGITS] or [2 * threads] */
    int64_t token = x.first + blockIdx.x, n = n_visible(x.step, token, x.ratio);
    const float *scores = x.scores + blockIdx.x * x.stride;
    int above;
    ids += token * x.top_k;
    if (threadIdx.x == 0)
        n_ids[token] = (int32_t)(n < x.top_k ? n : x.top_k);
    if (n <= x.top_k) { /* the whole block */
        for (int i = threadIdx.x; i < n; i += blockDim.x)
            ids[i] = i;
        return;
    }
    uint32_t limit = threshold(scores, n, x.top_k, count, &above);
    write_best(scores, n, limit, x.top_k - above, count, ids);
}

/* Tokens whose scores the scratch memory holds. */
static int64_t rows_of_scores(const struct gpu_limits *l)
{
    int64_t rows = (int64_t)(SCORE_BYTES / sizeof(float)) / (l->n_ctx > 0 ? l->n_ctx : 1);
    return rows < 1 ? 1 : rows > l->max_tokens ? l->max_tokens : rows;
}

void gpu_indexer(struct gpu_stream *s, int32_t *ids, int32_t *n_ids, struct rows queries,
                 struct rows weights, const void *keys, enum tensor_type type,
                 const struct indexer *x, const struct gpu_step *step, int64_t kv_bound,
                 int n_tokens)
{
    int64_t most = kv_bound / x->ratio, rows = rows_of_scores(&s->limits);
    int threads = gpu_threads(s, 128), wide = gpu_threads(s, most);
    size_t shared = (size_t)(LANES * (x->dim + 1) + threads) * sizeof(float);
    size_t counts = (size_t)(2 * wide > DIGITS ? 2 * wide : DIGITS) * sizeof(int);
    assert(x->top_k <= s->limits.index_top_k);
    for (int64_t first = 0; first < n_tokens; first += rows) {
        unsigned n = (unsigned)(n_tokens - first < rows ? n_tokens - first : rows);
        struct index_scores a = {
            queries.data, weights.data, queries.stride, weights.stride, x->n_heads, x->dim,
            x->top_k, x->ratio, (int)first, (float *)s->scratch, s->limits.n_ctx, step,
        };
        dim3 tiles(most > x->top_k ? (unsigned)divide_up(most, LANES) : 0, n);
        if (type == TYPE_F32)
            LAUNCH(s, score_keys<float>, tiles, threads, shared, (const float *)keys, a);
        else
            LAUNCH(s, score_keys<uint16_t>, tiles, threads, shared, (const uint16_t *)keys, a);
        LAUNCH(s, select_keys, dim3(n), wide, counts, ids, n_ids, a);
    }
}

size_t gpu_indexer_scratch(const struct gpu_limits *l)
{
    return l->index_top_k ? (size_t)(rows_of_scores(l) * l->n_ctx) * sizeof(float) : 0;
}
