/* The indexer (struct indexer of src/device.h): scores of all cached keys for some tokens, then the
 * best of each token.
 *
 * Scoring: a block takes one token and LANES keys, which it lays into shared memory; lane i of every
 * warp holds key i, and the warps share out the query heads. V4 Flash at 128 K positions scores 32 K
 * keys with 64 heads of 128: 0.5 GFLOP and 4 MB of keys a layer. Keys are bytes in a cache of halves,
 * multiplied four at a time; in one of floats they are floats.
 * Selecting: one block per token finds the top_k-th largest score digit by digit, eight bits of its
 * order-preserving image at a time, then writes the indices above it in their order, and of those at
 * it the first. The set is that of cpu/indexer.c for equal scores. */
#include "gpu/index_bytes.cuh"

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
    /* Keys in bytes: their scales, the queries of tokens from `first` on and the weights with theirs. */
    const float *key_scales;
    int8_t *bytes; /* [n, n_heads, dim] */
    float *scaled; /* [n, n_heads] */
};

/* Keys that are complete at a token of the step. */
DEVICE int64_t n_visible(const struct gpu_step *step, int64_t token, int ratio)
{
    return (step->n_past + token + 1) / ratio;
}

/* A block per head and token. */
KERNEL void encode_queries(struct index_scores x)
{
    SHARED(float, row); /* [dim], then block_max's */
    int64_t token = x.first + blockIdx.y, at = (int64_t)blockIdx.y * x.n_heads + blockIdx.x;
    if (n_visible(x.step, token, x.ratio) <= x.top_k)
        return; /* the whole block */
    const float *q = x.queries + token * x.queries_stride + (int64_t)blockIdx.x * x.dim;
    for (int i = threadIdx.x; i < x.dim; i += blockDim.x)
        row[i] = q[i];
    block_sync();
    float scale = index_to_bytes(row, x.dim, x.bytes + at * x.dim, row + x.dim);
    if (threadIdx.x == 0)
        x.scaled[at] = x.weights[token * x.weights_stride + blockIdx.x] * scale;
}

/* A block per token of the step. */
KERNEL void store_keys(int8_t *keys, float *scales, const float *src, int64_t stride, int dim,
                       const struct gpu_step *step)
{
    SHARED(float, row); /* [dim], then block_max's */
    int64_t position = step->n_past + blockIdx.x;
    for (int i = threadIdx.x; i < dim; i += blockDim.x)
        row[i] = src[blockIdx.x * stride + i];
    block_sync();
    float scale = index_to_bytes(row, dim, keys + position * dim, row + dim);
    if (threadIdx.x == 0)
        scales[position] = scale;
}

/* Rows of words in shared memory are one longer than a key: lanes read a column, from other banks. */
DEVICE void load_keys(const float *keys, const struct index_scores *x, int64_t key0, int64_t n,
                      float *tile)
{
    for (int i = threadIdx.x; i < LANES * x->dim; i += blockDim.x) {
        int64_t key = key0 + i / x->dim;
        tile[i / x->dim * (x->dim + 1) + i % x->dim] = key < n ? keys[key * x->dim + i % x->dim] : 0;
    }
}
DEVICE void load_keys(const int8_t *keys, const struct index_scores *x, int64_t key0, int64_t n,
                      float *tile)
{
    int words = x->dim / 4, *to = (int *)tile;
    for (int i = threadIdx.x; i < LANES * words; i += blockDim.x) {
        int64_t key = key0 + i / words;
        to[i / words * (words + 1) + i % words] = key < n ? ((const int *)keys)[key * words + i % words] : 0;
    }
}

/* The product of head h of token `row` of the batch with this lane's key, its weight, the key's scale. */
DEVICE float multiply(const float *, const struct index_scores *x, int row, int h, const float *tile)
{
    const float *q = x->queries + (x->first + row) * x->queries_stride + (int64_t)h * x->dim;
    const float *key = tile + lane_id() * (x->dim + 1);
    float product = 0;
    for (int i = 0; i < x->dim; i++)
        product = multiply_add(q[i], key[i], product);
    return x->weights[(x->first + row) * x->weights_stride + h] * fmaxf(product, 0);
}
DEVICE float multiply(const int8_t *, const struct index_scores *x, int row, int h, const float *tile)
{
    int words = x->dim / 4, product = 0;
    int64_t at = (int64_t)row * x->n_heads + h;
    const int *q = (const int *)x->bytes + at * words, *key = (const int *)tile + lane_id() * (words + 1);
    for (int i = 0; i < words; i++)
        product = dot4_i8(q[i], key[i], product);
    return x->scaled[at] * (float)(product > 0 ? product : 0);
}
DEVICE float scale_of(const float *, const struct index_scores *, int64_t) { return 1; }
DEVICE float scale_of(const int8_t *, const struct index_scores *x, int64_t key)
{
    return x->key_scales[key];
}
DEVICE int words_of(const float *, int dim) { return dim; }
DEVICE int words_of(const int8_t *, int dim) { return dim / 4; }

template <typename T>
KERNEL void score_keys(const T *keys, struct index_scores x)
{
    SHARED(float, tile); /* [LANES, words + 1], then [warps, LANES] */
    int64_t token = x.first + blockIdx.y, n = n_visible(x.step, token, x.ratio);
    int64_t key0 = (int64_t)blockIdx.x * LANES, key = key0 + lane_id();
    if (key0 >= n || n <= x.top_k)
        return; /* the whole block */
    int n_warps = blockDim.x / LANES;
    float *sums = tile + LANES * (words_of(keys, x.dim) + 1);
    load_keys(keys, &x, key0, n, tile);
    block_sync();
    float sum = 0;
    for (int h = warp_id(); h < x.n_heads; h += n_warps)
        sum += multiply(keys, &x, blockIdx.y, h, tile);
    sums[threadIdx.x] = sum;
    block_sync();
    if (threadIdx.x < LANES && key < n) {
        float all = 0;
        for (int w = 0; w < n_warps; w++)
            all += sums[w * LANES + threadIdx.x];
        x.scores[blockIdx.y * x.stride + key] = all * scale_of(keys, &x, key);
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

/* Tokens whose scores the scratch memory holds, and what it holds of each: scores, queries in bytes,
 * weights; a head has at least four elements. */
static int64_t rows_of_scores(const struct gpu_limits *l)
{
    int64_t rows = (int64_t)(SCORE_BYTES / sizeof(float)) / (l->n_ctx > 0 ? l->n_ctx : 1);
    return rows < 1 ? 1 : rows > l->max_tokens ? l->max_tokens : rows;
}

static int64_t query_room(const struct gpu_limits *l) { return (l->max_rows + 15) / 16 * 16; }

void gpu_index_store(struct gpu_stream *s, const struct kv_sparse *to, struct rows keys,
                     const struct gpu_step *step, int n_tokens)
{
    size_t shared = (size_t)(keys.width + BLOCK_SCRATCH) * sizeof(float);
    if (to->index_scale)
        LAUNCH(s, store_keys, dim3((unsigned)n_tokens), gpu_threads(s, keys.width), shared,
               (int8_t *)to->index, to->index_scale, keys.data, keys.stride, (int)keys.width, step);
    else
        gpu_cache_store(s, to->index, TYPE_F32, keys, step, n_tokens);
}

void gpu_indexer(struct gpu_stream *s, int32_t *ids, int32_t *n_ids, struct rows queries,
                 struct rows weights, const struct kv_sparse *c, const struct indexer *x,
                 const struct gpu_step *step, int64_t kv_bound, int n_tokens)
{
    int64_t most = kv_bound / x->ratio, rows = rows_of_scores(&s->limits);
    int threads = gpu_threads(s, 128), wide = gpu_threads(s, most), narrow = gpu_threads(s, x->dim);
    int words = c->index_scale ? x->dim / 4 : x->dim;
    size_t shared = (size_t)(LANES * (words + 1) + threads) * sizeof(float);
    size_t encoding = (size_t)(x->dim + BLOCK_SCRATCH) * sizeof(float);
    size_t counts = (size_t)(2 * wide > DIGITS ? 2 * wide : DIGITS) * sizeof(int);
    float *scores = (float *)s->scratch, *scaled = scores + rows * s->limits.n_ctx;
    int8_t *bytes = (int8_t *)(scaled + rows * query_room(&s->limits) / 4);
    assert(x->top_k <= s->limits.index_top_k);
    assert(x->n_heads * (int64_t)x->dim <= s->limits.max_rows && (x->dim % 4 == 0 || !c->index_scale));
    for (int64_t first = 0; first < n_tokens; first += rows) {
        unsigned n = (unsigned)(n_tokens - first < rows ? n_tokens - first : rows);
        struct index_scores a = {
            queries.data, weights.data, queries.stride, weights.stride, x->n_heads, x->dim,
            x->top_k, x->ratio, (int)first, scores, s->limits.n_ctx, step, c->index_scale, bytes, scaled,
        };
        dim3 tiles(most > x->top_k ? (unsigned)divide_up(most, LANES) : 0, n);
        dim3 heads(most > x->top_k ? (unsigned)x->n_heads : 0, n);
        if (c->index_scale) {
            LAUNCH(s, encode_queries, heads, narrow, encoding, a);
            LAUNCH(s, score_keys<int8_t>, tiles, threads, shared, (const int8_t *)c->index, a);
        } else {
            LAUNCH(s, score_keys<float>, tiles, threads, shared, (const float *)c->index, a);
        }
        LAUNCH(s, select_keys, dim3(n), wide, counts, ids, n_ids, a);
    }
}

size_t gpu_indexer_scratch(const struct gpu_limits *l)
{
    int64_t row = l->n_ctx * (int64_t)sizeof(float) + 2 * query_room(l);
    return l->index_top_k ? (size_t)(rows_of_scores(l) * row) : 0;
}
