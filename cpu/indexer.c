/* The indexer: scores of all cached rows for a tile of tokens, then the best of each token.
 *
 * A token has many narrow query heads and all heads meet the same keys, so the heads of a tile of
 * tokens against a block of keys are one matrix product; its result is cut at zero and summed over
 * the heads, weighted. Keys in bytes have a kernel for all of that; of floats OpenBLAS multiplies.
 * Tokens that see no more rows than they may select take all, unscored. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/blas.h"
#include "cpu/matmul.h"
#include "cpu/sparse.h"
#include "src/base/util.h"

struct indexer_job {
    struct device_cpu *d;
    const struct indexer *x;
    struct rows queries, weights;
    const struct kv_sparse *cache;
    struct index_query bytes[INDEX_TILE]; /* where keys are bytes: of the tile's tokens */
    int first, n; /* the tile's tokens */
};

/* Rows that are complete at token t of the step. */
static int64_t n_visible(const struct indexer_job *j, int64_t t)
{
    return (j->d->step.n_past + t + 1) / j->x->ratio;
}

static float *scores_of(const struct indexer_job *j, int64_t t)
{
    return j->d->index_scores + (t - j->first) * j->d->options.n_ctx;
}

/* Scores of one token with n keys of floats. */
static void score(const struct indexer_job *j, int worker, int64_t t, const float *keys, int64_t n,
                  float *out)
{
    int heads = j->x->n_heads, dim = j->x->dim;
    float *products = j->d->scratch[worker].scores; /* [QUERY_TILE, KEY_BLOCK] */
    const float *w = j->weights.data + t * j->weights.stride;
    memset(out, 0, (size_t)n * sizeof *out);
    for (int h0 = 0; h0 < heads; h0 += QUERY_TILE) {
        int many = min_of(heads - h0, QUERY_TILE);
        blas_nt(many, n, dim, j->queries.data + t * j->queries.stride + (int64_t)h0 * dim, dim,
                keys, dim, products, KEY_BLOCK);
        for (int h = 0; h < many; h++) {
            const float *p = products + h * KEY_BLOCK;
            float weight = w[h0 + h];
            for (int64_t i = 0; i < n; i++)
                out[i] += weight * (p[i] > 0 ? p[i] : 0);
        }
    }
}

/* Units: blocks of KEY_BLOCK keys, against all tokens of the tile that see any of them. */
static void run_scores(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct indexer_job *j = ctx;
    const struct kv_sparse *c = j->cache;
    int64_t dim = j->x->dim;
    for (int64_t unit = begin; unit < end && !step_cancelled(j->d); unit++) {
        int64_t first = unit * KEY_BLOCK;
        for (int64_t t = j->first; t < j->first + j->n; t++) {
            int64_t seen = min_of(n_visible(j, t) - first, KEY_BLOCK);
            float *out = scores_of(j, t) + first;
            if (seen <= 0 || n_visible(j, t) <= j->x->top_k)
                continue;
            if (c->index_scale)
                j->d->kernels.index_scores(&j->bytes[t - j->first],
                                           (const int8_t *)c->index + first * dim,
                                           c->index_scale + first, seen, out);
            else
                score(j, worker, t, (const float *)c->index + first * dim, seen, out);
        }
    }
}

/* An integer in the order of the floats; what is not a number comes first. */
static uint32_t order_of(float x)
{
    uint32_t bits;
    if (x != x)
        return 0;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/* The top_k-th largest image, and how many are larger: digit by digit from the top. The first digit,
 * sign, exponent and three bits, already leaves few. */
static uint32_t threshold(const float *scores, int64_t n, int64_t top_k, int64_t *n_above)
{
    enum { FIRST = 12, OTHERS = 10 };
    uint32_t prefix = 0, mask = 0, count[1 << FIRST];
    int64_t wanted = top_k;
    *n_above = 0;
    for (int shift = 32 - FIRST; shift >= 0; shift -= OTHERS) {
        uint32_t digits = shift == 32 - FIRST ? 1 << FIRST : 1 << OTHERS, digit = digits - 1;
        memset(count, 0, digits * sizeof *count);
        for (int64_t i = 0; i < n; i++) {
            uint32_t image = order_of(scores[i]);
            if ((image & mask) == prefix)
                count[image >> shift & (digits - 1)]++;
        }
        for (; count[digit] < wanted; digit--) {
            wanted -= count[digit];
            *n_above += count[digit];
        }
        prefix |= digit << shift;
        mask |= (digits - 1) << shift;
    }
    return prefix;
}

/* A score that somewhat more than `wanted` of n reach, by a sample; anything where that fails. */
static float likely_limit(const float *scores, int64_t n, int64_t wanted)
{
    enum { SAMPLE = 1024 };
    float sample[SAMPLE], limit;
    int64_t n_above, rank = wanted * SAMPLE / n;
    rank += 3 * (int64_t)sqrtf((float)rank) + 3; /* three times the deviation of a sample's count */
    if (n < 2 * SAMPLE || rank >= SAMPLE)
        return NAN;
    for (int64_t i = 0; i < SAMPLE; i++)
        sample[i] = scores[i * (n / SAMPLE)];
    uint32_t image = threshold(sample, SAMPLE, rank, &n_above);
    image = image & 0x80000000u ? image & 0x7fffffffu : ~image;
    memcpy(&limit, &image, sizeof limit);
    return limit;
}

/* The indices of scores that reach the limit, in order; -1: more than there is room for. */
static int64_t reaching(const float *scores, int64_t n, float limit, int32_t *ids, int64_t room)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++) {
        if (count == room)
            return -1;
        ids[count] = (int32_t)i;
        count += scores[i] >= limit;
    }
    return count;
}

/* All of n, where a sample told nothing. */
static int select_of_all(const float *scores, int64_t n, int top_k, int32_t *ids)
{
    int count = 0;
    int64_t n_above;
    uint32_t limit = threshold(scores, n, top_k, &n_above);
    int64_t equal = top_k - n_above;
    for (int64_t i = 0; count < top_k; i++) { /* there are so many */
        uint32_t image = order_of(scores[i]);
        int tie = image == limit && equal > 0;
        ids[count] = (int32_t)i;
        count += image > limit || tie;
        equal -= tie;
    }
    return count;
}

int select_best(const float *scores, int64_t n, int top_k, int32_t *ids, float *scratch, int64_t room)
{
    int32_t *near = (int32_t *)(void *)scratch;
    float *values = scratch + room / 2;
    if (n <= top_k) {
        for (int i = 0; i < n; i++)
            ids[i] = i;
        return (int)n;
    }
    int64_t n_near = reaching(scores, n, likely_limit(scores, n, top_k), near, room / 2);
    if (n_near < top_k) /* too few, or too many: -1 */
        return select_of_all(scores, n, top_k, ids);
    for (int64_t i = 0; i < n_near; i++)
        values[i] = scores[near[i]];
    int count = select_of_all(values, n_near, top_k, ids);
    for (int i = 0; i < count; i++)
        ids[i] = near[ids[i]];
    return count;
}

/* ---- ties of a partial sort ----
 * A heap of the best so far, the worst on top: a later row takes the top's place only when it is
 * strictly better. Which of the equal ones are lost depends on the heap's moves, so they are these: a
 * hole sinks to a leaf, the better child losing its place to the worse, then the value rises. */

struct best_heap {
    const float *scores;
    int32_t *ids;
    int64_t n;
};

/* Put `id` where the hole at `top` ends up. */
static void heap_place(struct best_heap *h, int64_t top, int32_t id)
{
    int64_t hole = top;
    for (int64_t child; (child = 2 * hole + 2) <= h->n; hole = child) {
        if (child == h->n || h->scores[h->ids[child]] > h->scores[h->ids[child - 1]])
            child--;
        h->ids[hole] = h->ids[child];
    }
    for (int64_t parent; hole > top; hole = parent) {
        parent = (hole - 1) / 2;
        if (!(h->scores[h->ids[parent]] > h->scores[id]))
            break;
        h->ids[hole] = h->ids[parent];
    }
    h->ids[hole] = id;
}

static int by_number(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

static int select_by_heap(const float *scores, int64_t n, int top_k, int32_t *ids)
{
    struct best_heap h = { scores, ids, min_of(n, (int64_t)top_k) };
    for (int32_t i = 0; i < h.n; i++)
        ids[i] = i;
    for (int64_t i = h.n / 2; i-- > 0 && n > top_k;)
        heap_place(&h, i, ids[i]);
    for (int64_t i = h.n; i < n; i++)
        if (scores[i] > scores[ids[0]])
            heap_place(&h, 0, (int32_t)i);
    qsort(ids, (size_t)h.n, sizeof *ids, by_number);
    return (int)h.n;
}

/* Units: tokens of the tile. */
static void run_select(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct indexer_job *j = ctx;
    struct selection *s = &j->d->selection;
    float *scratch = j->d->scratch[worker].latents;
    int64_t room = KEY_BLOCK * (int64_t)j->d->options.head_width;
    for (int64_t t = j->first + begin; t < j->first + end; t++) {
        int32_t *ids = s->ids + t * s->top_k;
        int64_t n = n_visible(j, t);
        s->count[t] = j->x->heap_ties
                          ? select_by_heap(scores_of(j, t), n, j->x->top_k, ids)
                          : select_best(scores_of(j, t), n, j->x->top_k, ids, scratch, room);
    }
}

void indexer_run(struct device_cpu *d, struct rows queries, struct rows weights,
                 const struct kvcache *c, int layer, const struct indexer *x)
{
    struct indexer_job job = { .d = d, .x = x, .queries = queries, .weights = weights,
                               .cache = &c->sparse[layer] };
    assert(x->top_k <= d->options.index_top_k && x->dim <= d->options.head_width);
    d->selection.top_k = x->top_k;
    for (; job.first < d->step.n_tokens; job.first += job.n) {
        job.n = min_of(d->step.n_tokens - job.first, INDEX_TILE);
        int64_t most = n_visible(&job, job.first + job.n - 1);
        if (most > x->top_k && job.cache->index_scale)
            index_encode(d, x, queries, weights, job.first, job.n, job.bytes);
        if (most > x->top_k)
            pool_run(d->pool, run_scores, &job, (most + KEY_BLOCK - 1) / KEY_BLOCK,
                     grain_of((int64_t)x->n_heads * x->dim * KEY_BLOCK));
        pool_run(d->pool, run_select, &job, job.n, grain_of(4 * most));
    }
}
