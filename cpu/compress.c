/* Rows that sum up blocks of positions. Each step makes the rows of the blocks that end in it, from
 * its own values and those of earlier positions that the ring `state` kept; then its last positions
 * go into that ring. Nothing depends on how positions are dealt out to steps. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/angles.h"
#include "cpu/matmul.h"
#include "cpu/sparse.h"
#include "src/base/util.h"

#define MOST_ENTRIES 128 /* positions that one row sums up */

struct compress_job {
    struct device_cpu *d;
    const struct compressor *k;
    struct rows values, scores;
    float *state;
    int64_t n_state, first_block;
    void *rows; /* of the cache */
    float *scales; /* NULL: rows are halves or floats, else bytes */
    bool f16;
};

/* Units: tokens. The score of a position depends on its place in the block. */
static void run_shift(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct compress_job *j = ctx;
    const float *ape = j->k->ape.data;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t place = (j->d->step.n_past + t) % j->k->ratio;
        float *score = j->scores.data + t * j->scores.stride;
        j->d->kernels.add(score, ape + place * j->scores.width, score, j->scores.width);
    }
}

/* Values and scores of a position, of this step or kept. */
static void entry(const struct compress_job *j, int64_t position, const float **value,
                  const float **score)
{
    int64_t t = position - j->d->step.n_past, width = j->values.width;
    const float *kept = j->state + position % j->n_state * 2 * width;
    *value = t >= 0 ? j->values.data + t * j->values.stride : kept;
    *score = t >= 0 ? j->scores.data + t * j->scores.stride : kept + width;
}

/* out[k] = sum of softmax over entries of score[k], times value[k]. */
static void weigh_entries(const float *const *values, const float *const *scores, int n, int64_t dim,
                          float *out)
{
    for (int64_t k = 0; k < dim; k++) {
        float max = -INFINITY, sum = 0, mean = 0;
        for (int i = 0; i < n; i++)
            max = max_of(max, scores[i][k]);
        for (int i = 0; i < n; i++) {
            float e = expf(scores[i][k] - max);
            sum += e;
            mean += e * values[i][k];
        }
        out[k] = mean / sum;
    }
}

/* The row of block b, before it is normalised. */
static void sum_up(const struct compress_job *j, int64_t b, float *out)
{
    const float *values[MOST_ENTRIES], *scores[MOST_ENTRIES];
    const struct compressor *k = j->k;
    int n = 0;
    int64_t first = b * k->ratio;
    for (int64_t p = k->overlaps ? max_of(first - k->ratio, 0) : first; p < first + k->ratio; p++) {
        const float *value, *score;
        int64_t half = k->overlaps && p >= first ? k->dim : 0;
        entry(j, p, &value, &score);
        values[n] = value + half;
        scores[n++] = score + half;
    }
    weigh_entries(values, scores, n, k->dim, out);
}

/* Units: blocks. */
static void run_blocks(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct compress_job *j = ctx;
    const struct compressor *k = j->k;
    float *row = j->d->scratch[worker].row;
    for (int64_t i = begin; i < end; i++) {
        int64_t b = j->first_block + i;
        sum_up(j, b, row);
        j->d->kernels.rmsnorm(row, k->norm.data, row, k->dim, k->rms_eps);
        rotate_at(k->rope, b * k->ratio, row + k->dim - k->rope->n_rot);
        if (j->scales)
            j->scales[b] = index_to_bytes(row, k->dim, (int8_t *)j->rows + b * k->dim);
        else if (j->f16)
            j->d->kernels.to_f16(row, (uint16_t *)j->rows + b * k->dim, k->dim);
        else
            memcpy((float *)j->rows + b * k->dim, row, (size_t)k->dim * sizeof *row);
    }
}

/* Units: of the last positions of the step, as many as the ring holds. */
static void run_keep(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct compress_job *j = ctx;
    int64_t width = j->values.width, n = j->d->step.n_tokens;
    (void)worker;
    for (int64_t t = max_of(n - j->n_state, 0) + begin; t < max_of(n - j->n_state, 0) + end; t++) {
        float *to = j->state + (j->d->step.n_past + t) % j->n_state * 2 * width;
        memcpy(to, j->values.data + t * j->values.stride, (size_t)width * sizeof *to);
        memcpy(to + width, j->scores.data + t * j->scores.stride, (size_t)width * sizeof *to);
    }
}

void compress_run(struct device_cpu *d, struct kvcache *c, int layer, struct rows values,
                  struct rows scores, const struct compressor *k)
{
    const struct kv_sparse *s = &c->sparse[layer];
    int64_t n_past = d->step.n_past, n_tokens = d->step.n_tokens;
    struct compress_job job = {
        .d = d, .k = k, .values = values, .scores = scores, .n_state = s->n_state,
        .state = k->of_index ? s->index_state : s->state,
        .rows = k->of_index ? s->index : s->blocks, .f16 = c->type == TYPE_F16 && !k->of_index,
        .scales = k->of_index ? s->index_scale : NULL,
        .first_block = n_past / k->ratio,
    };
    assert(values.width == (k->overlaps ? 2 : 1) * k->dim && scores.width == values.width);
    assert((k->overlaps ? 2 : 1) * k->ratio <= min_of((int64_t)MOST_ENTRIES, s->n_state));
    assert(n_past + n_tokens <= c->n_ctx && k->dim <= d->options.max_cols);
    int64_t n_blocks = (n_past + n_tokens) / k->ratio - job.first_block;
    int64_t grain = grain_of(values.width);
    pool_run(d->pool, run_shift, &job, n_tokens, grain);
    pool_run(d->pool, run_blocks, &job, n_blocks, 1);
    pool_run(d->pool, run_keep, &job, min_of(n_tokens, s->n_state), grain);
}
