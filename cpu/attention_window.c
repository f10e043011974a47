/* Attention over a window of recent rows and rows of blocks, with sinks.
 *
 * All heads of a token read the same rows, so these are gathered once and meet a tile of heads in
 * two matrix products, KEY_BLOCK rows at a time: for V4 Flash 64 heads x 640 rows x 512 twice over
 * are 84 million operations for 0.3 million elements gathered. Where the hardware multiplies BF16
 * and the cache holds halves, queries, rows and weights are rounded to that (as in
 * cpu/attention_bf16.c); otherwise rows become floats. */
#include <assert.h>
#include <string.h>

#include "cpu/attention_bf16.h"
#include "cpu/sparse.h"

#define FEW_HEADS SIDE /* at least, per unit when few tokens attend: each gathers the rows for itself */

struct window_job {
    struct device_cpu *d;
    const struct window_attention *a;
    const struct kv_sparse *cache;
    struct rows dst, q, row;
    bool f16;
    bool bf16; /* rows of this step lie as halves in d->act, one per activation */
    int heads; /* of a unit */
    int units; /* of a token */
};

/* The rows that a token sees: n_recent positions from `first` on, then n_blocks blocks. */
struct seen {
    int64_t first, n_recent, n_blocks;
    const int32_t *ids; /* of the blocks; NULL: 0, 1, ... */
};

static struct seen seen_by(const struct window_job *j, int64_t t)
{
    const struct window_attention *a = j->a;
    const struct selection *s = &j->d->selection;
    int64_t position = j->d->step.n_past + t;
    struct seen seen = { .first = max_of(position + 1 - a->window, 0) };
    seen.n_recent = position + 1 - seen.first;
    if (a->ratio && a->selected) {
        seen.n_blocks = s->count[t];
        seen.ids = s->ids + t * s->top_k;
    } else if (a->ratio) {
        seen.n_blocks = (position + 1) / a->ratio;
    }
    return seen;
}

/* Row i of those as floats. */
static void gather(const struct window_job *j, const struct seen *seen, int64_t i, float *to)
{
    int64_t n_past = j->d->step.n_past, width = j->a->head_dim, position = seen->first + i, at;
    const void *from = j->cache->window;
    if (i < seen->n_recent && position >= n_past) {
        memcpy(to, j->row.data + (position - n_past) * j->row.stride, (size_t)width * sizeof *to);
        return;
    }
    if (i < seen->n_recent) {
        at = position % j->cache->n_window;
    } else {
        at = i - seen->n_recent;
        at = seen->ids ? seen->ids[at] : at;
        from = j->cache->blocks;
    }
    if (j->f16)
        j->d->kernels.decode[TYPE_F16]((const uint16_t *)from + at * width, to, width);
    else
        memcpy(to, (const float *)from + at * width, (size_t)width * sizeof *to);
}

/* Unit: some heads of one token. */
static void attend(const struct window_job *j, int worker, int64_t t, int head)
{
    const struct window_attention *a = j->a;
    const struct worker_scratch *s = &j->d->scratch[worker];
    const float *sinks = a->sinks.data;
    int64_t width = a->head_dim;
    struct seen seen = seen_by(j, t);
    int64_t n_rows = seen.n_recent + seen.n_blocks;
    struct tile tile = { .n = min_of(a->n_heads - head, j->heads), .queries = s->queries,
                         .max = s->states, .sum = s->states + QUERY_TILE, .out = s->outputs,
                         .out_stride = width };
    const float *q = j->q.data + t * j->q.stride + head * width;
    for (int64_t i = 0; i < tile.n * width; i++)
        s->queries[i] = q[i] * a->scale;
    attention_tile_clear(&tile, width);
    for (int i = 0; i < tile.n; i++) { /* the sink weighs 1 and has no value */
        tile.end[i] = n_rows;
        tile.max[i] = sinks[head + i];
        tile.sum[i] = 1;
    }
    struct block rows = { s->latents, false, width, width };
    for (int64_t first = 0; first < n_rows && !step_cancelled(j->d); first += KEY_BLOCK) {
        int64_t n = min_of(n_rows - first, KEY_BLOCK);
        for (int64_t i = 0; i < n; i++)
            gather(j, &seen, first + i, s->latents + i * width);
        attention_meet_matrix(&j->d->kernels, &tile, rows, rows, first, n, s->scores);
    }
    attention_tile_finish(&tile, width);
    memcpy(j->dst.data + t * j->dst.stride + head * width, tile.out,
           (size_t)(tile.n * width) * sizeof(float));
}

/* ---- on BF16 ---- */

static uint16_t *halves_of_step(const struct window_job *j, int64_t t)
{
    return (uint16_t *)(void *)(j->d->act + (size_t)t * j->d->act_stride);
}

/* Row i of those where it lies. */
static const uint16_t *halves_at(const struct window_job *j, const struct seen *seen, int64_t i)
{
    int64_t width = j->a->head_dim, position = seen->first + i, at = i - seen->n_recent;
    if (at >= 0)
        return (const uint16_t *)j->cache->blocks + (seen->ids ? seen->ids[at] : at) * width;
    if (position >= j->d->step.n_past)
        return halves_of_step(j, position - j->d->step.n_past);
    return (const uint16_t *)j->cache->window + position % j->cache->n_window * width;
}

/* Rows [first, first + n), and zeros up to `whole`: as keys, and as values in pairs. */
static void lay_rows(const struct window_job *j, const struct seen *seen, int64_t first, int64_t n,
                     int64_t whole, const uint16_t *zeros, uint16_t *keys, uint32_t *pairs)
{
    int64_t width = j->a->head_dim, even = (n + 1) / 2 * 2;
    for (int64_t i = 0; i < n; i += 2)
        j->d->kernels.bf16_lay_halves(halves_at(j, seen, first + i),
                                      i + 1 < n ? halves_at(j, seen, first + i + 1) : zeros, width,
                                      keys + i * width, width, pairs + i / 2 * width);
    memset(keys + even * width, 0, (size_t)((whole - even) * width) * sizeof *keys);
    memset(pairs + even / 2 * width, 0, (size_t)((whole - even) / 2 * width) * sizeof *pairs);
}

/* Unit: some heads of one token, each a lane. */
static void attend_bf16(const struct window_job *j, int worker, int64_t t, int head)
{
    const struct window_attention *a = j->a;
    const struct attention parts = { .d = j->d, .scale = a->scale };
    const float *sinks = a->sinks.data, *q = j->q.data + t * j->q.stride + (int64_t)head * a->head_dim;
    int64_t width = a->head_dim;
    struct seen seen = seen_by(j, t);
    int64_t n_rows = seen.n_recent + seen.n_blocks;
    struct room r = bf16_room(&parts, worker);
    struct bench b = bf16_bench(&r, width);
    struct lanes l = bf16_lanes(&r, min_of(a->n_heads - head, j->heads), width, width);
    uint16_t *keys = (uint16_t *)(void *)b.floats;
    for (int i = 0; i < l.used; i++) {
        bf16_put_query(&parts, &b, &l, i, q + i * width, n_rows);
        l.max[i] = sinks[head + i] * LOG2_E; /* the sink weighs 1 and has no value */
        l.sum[i] = 1;
    }
    bf16_turn_queries(&parts, &b, &l);
    memset(b.even, 0, (size_t)width * sizeof *b.even);
    for (int64_t first = 0; first < n_rows && !step_cancelled(j->d); first += KEY_BLOCK) {
        int64_t n = min_of(n_rows - first, KEY_BLOCK);
        int64_t whole = (int64_t)align_up((size_t)n, DEPTH);
        lay_rows(j, &seen, first, n, whole, (const uint16_t *)(const void *)b.even, keys, b.words);
        bf16_meet_pairs(&parts, &b, &l, keys, first, (int)whole);
    }
    float *dst = j->dst.data + t * j->dst.stride + head * width;
    for (int i = 0; i < l.used; i++) {
        float share = 1 / l.sum[i];
        for (int64_t c = 0; c < width; c++)
            dst[i * width + c] = l.out[i * width + c] * share;
    }
}

/* ---- */

static void run_attend(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct window_job *j = ctx;
    for (int64_t unit = begin; unit < end; unit++)
        (j->bf16 ? attend_bf16 : attend)(j, worker, unit / j->units,
                                         (int)(unit % j->units) * j->heads);
}

/* Units: tokens. Halves and back: what later steps read. */
static void run_round(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct window_job *j = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        float *row = j->row.data + t * j->row.stride;
        uint16_t *halves = halves_of_step(j, t);
        j->d->kernels.to_f16(row, halves, j->a->head_dim);
        j->d->kernels.decode[TYPE_F16](halves, row, j->a->head_dim);
    }
}

/* Units: of the last positions of the step, as many as the ring holds. */
static void run_keep(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct window_job *j = ctx;
    int64_t n = j->d->step.n_tokens, skip = max_of(n - j->cache->n_window, 0);
    int64_t width = j->a->head_dim;
    (void)worker;
    for (int64_t t = skip + begin; t < skip + end; t++) {
        int64_t at = (j->d->step.n_past + t) % j->cache->n_window * width;
        const float *row = j->row.data + t * j->row.stride;
        if (j->f16)
            j->d->kernels.to_f16(row, (uint16_t *)j->cache->window + at, width);
        else
            memcpy((float *)j->cache->window + at, row, (size_t)width * sizeof *row);
    }
}

/* On BF16 a head's result does not depend on which others share its unit, so that may look at the
 * threads; a product of floats has its own order for every size. */
static int heads_per_unit(const struct window_job *j)
{
    int64_t n = j->d->step.n_tokens, each = j->a->n_heads * n / j->d->n_threads;
    if (!j->bf16)
        return n <= SPLIT_TOKENS ? FEW_HEADS : QUERY_TILE;
    if (n > SPLIT_TOKENS)
        return LANES;
    return (int)min_of((int64_t)align_up((size_t)max_of(each, (int64_t)1), FEW_HEADS),
                       (int64_t)LANES);
}

void attention_run_window(struct device_cpu *d, struct rows dst, struct rows q, struct rows row,
                          struct kvcache *c, int layer, const struct window_attention *a)
{
    struct window_job job = { .d = d, .a = a, .cache = &c->sparse[layer], .dst = dst, .q = q,
                              .row = row, .f16 = c->type == TYPE_F16 };
    int64_t n = d->step.n_tokens, grain = grain_of(a->head_dim);
    assert(a->head_dim <= d->options.head_width && a->head_dim <= d->options.max_cols);
    assert(d->step.n_past + n <= c->n_ctx && min_of((int64_t)a->window, c->n_ctx) <=
           job.cache->n_window);
    job.bf16 = job.f16 && d->bf16_bytes && a->head_dim % DEPTH == 0;
    job.heads = heads_per_unit(&job);
    job.units = (a->n_heads + job.heads - 1) / job.heads;
    if (job.f16)
        pool_run(d->pool, run_round, &job, n, grain);
    pool_run(d->pool, run_attend, &job, n * job.units, 1);
    pool_run(d->pool, run_keep, &job, min_of(n, job.cache->n_window), grain);
}
