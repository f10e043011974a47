/* Keys and queries of the indexer in bytes (struct indexer of src/device.h): turned by a Hadamard
 * matrix, then one scale for each vector. 128 elements take 132 bytes instead of 512, and whole
 * numbers give the same products on every machine.
 *
 * With q and k of n independent elements the rounding of both is worth 2^-7.5 of |q| |k| / sqrt(n) in a
 * product: less than what encoded activations have done to q and k before. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/matmul.h"
#include "cpu/sparse.h"
#include "src/base/util.h"

/* Sums and differences of elements 1, 2, 4, ... apart. */
static void hadamard(float *x, int dim, int block)
{
    for (int apart = 1; apart < block; apart *= 2) {
        for (int i = 0; i < dim; i += 2 * apart) {
            for (int j = i; j < i + apart; j++) {
                float a = x[j], b = x[j + apart];
                x[j] = a + b;
                x[j + apart] = a - b;
            }
        }
    }
}

float index_to_bytes(float *x, int dim, int8_t *bytes)
{
    int block = dim & -dim;
    float largest = 0, finite = 0;
    hadamard(x, dim, block);
    for (int i = 0; i < dim; i++) {
        largest = max_of(largest, fabsf(x[i]));
        finite += x[i] * 0; /* NaN unless all are finite */
    }
    bool usable = finite == 0 && largest > 0;
    float steps = usable ? 127 / largest : 0;
    for (int i = 0; i < dim; i++)
        bytes[i] = usable ? (int8_t)(int)(x[i] * steps + copysignf(0.5f, x[i])) : 0;
    return finite == 0 ? largest / 127 / sqrtf((float)block) : NAN;
}

/* ---- queries ---- */

struct encode_job {
    struct device_cpu *d;
    const struct indexer *x;
    struct rows queries, weights;
    int first, n_heads; /* n_heads: with those that fill up the last group */
};

/* Units: heads, token by token. */
static void run_encode(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct encode_job *j = ctx;
    struct device_cpu *d = j->d;
    int dim = j->x->dim;
    float *turned = d->scratch[worker].row;
    int8_t bytes[INDEX_MAX_DIM];
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t t = unit / j->n_heads, token = j->first + t;
        int h = (int)(unit % j->n_heads);
        int32_t *words = d->index_words + (t * dim / 4 * j->n_heads) + h;
        float scale = 0, weight = 0;
        memset(bytes, 0, (size_t)dim);
        if (h < j->x->n_heads) {
            memcpy(turned, j->queries.data + token * j->queries.stride + (int64_t)h * dim,
                   (size_t)dim * sizeof *turned);
            scale = index_to_bytes(turned, dim, bytes);
            weight = j->weights.data[token * j->weights.stride + h];
        }
        int32_t sum = 0;
        for (int c = 0; c < dim; c += 4) {
            memcpy(words + (int64_t)(c / 4) * j->n_heads, bytes + c, sizeof *words);
            sum += bytes[c] + bytes[c + 1] + bytes[c + 2] + bytes[c + 3];
        }
        d->index_sums[unit] = sum;
        d->index_weights[unit] = weight * scale;
    }
}

void index_encode(struct device_cpu *d, const struct indexer *x, struct rows queries,
                  struct rows weights, int first, int n, struct index_query *q)
{
    int heads = (int)align_up((size_t)x->n_heads, INDEX_GROUP);
    struct encode_job job = { d, x, queries, weights, first, heads };
    assert(x->dim % 4 == 0 && x->dim <= INDEX_MAX_DIM && x->dim <= d->options.max_cols);
    assert((int64_t)x->n_heads * x->dim <= d->options.max_rows && n <= INDEX_TILE);
    pool_run(d->pool, run_encode, &job, (int64_t)n * heads, grain_of(32 * x->dim));
    for (int t = 0; t < n; t++)
        q[t] = (struct index_query){
            .n_heads = heads, .dim = x->dim,
            .q = (const int8_t *)(d->index_words + (int64_t)t * x->dim / 4 * heads),
            .sums = d->index_sums + (int64_t)t * heads,
            .weights = d->index_weights + (int64_t)t * heads,
        };
}

/* ---- keys ---- */

struct store_job {
    struct device_cpu *d;
    const struct kv_sparse *cache;
    struct rows keys;
};

static void run_store(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct store_job *j = ctx;
    int64_t dim = j->keys.width;
    float *turned = j->d->scratch[worker].row;
    for (int64_t t = begin; t < end; t++) {
        int64_t position = j->d->step.n_past + t;
        const float *key = j->keys.data + t * j->keys.stride;
        if (!j->cache->index_scale) {
            memcpy((float *)j->cache->index + position * dim, key, (size_t)dim * sizeof *key);
            continue;
        }
        memcpy(turned, key, (size_t)dim * sizeof *key);
        j->cache->index_scale[position] =
            index_to_bytes(turned, (int)dim, (int8_t *)j->cache->index + position * dim);
    }
}

void index_store(struct device_cpu *d, const struct kv_sparse *s, struct rows keys)
{
    struct store_job job = { d, s, keys };
    assert(keys.width <= d->options.max_cols);
    pool_run(d->pool, run_store, &job, d->step.n_tokens, grain_of(16 * keys.width));
}
