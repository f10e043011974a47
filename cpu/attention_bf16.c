/* Attention of many tokens on BF16 operands, for machines that multiply these much faster than
 * floats. Scores, softmax and sums stay in float; queries, keys, values and weights are rounded.
 *
 *   1  the layer's cache becomes BF16 once per step, for all workers
 *   2  latents only: a head's keys and values are expanded from it, SPAN positions at a time
 *   3  tiles of LANES queries meet blocks of KEY_BLOCK positions:
 *          scores  [positions, lanes]  = keys [positions, width] x queries
 *          weights [positions, lanes]  = online softmax down each lane
 *          out     [width, lanes]     += values transposed [width, positions] x weights
 *
 * A lane never looks at its neighbours, so the result of a query does not depend on which queries
 * share its tile, nor on the number of threads. Tiles are whole where
 * rows of keys and the positions of a block end: what they find behind a key meets queries of 0,
 * values behind the last position meet weights of 0. So these must be numbers, not NaN. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/attention_bf16.h"

struct room bf16_room(const struct attention *a, int worker)
{
    uint8_t *memory = a->d->scratch[worker].bf16;
    return (struct room){ memory, memory + a->d->bf16_bytes };
}

void *bf16_take(struct room *r, int64_t count, size_t size)
{
    void *p = r->next;
    r->next += align_up((size_t)count * size, 64);
    assert(r->next <= r->end);
    return p;
}

struct bench bf16_bench(struct room *r, int64_t width)
{
    struct bench b;
    b.scores = bf16_take(r, KEY_BLOCK * LANES, sizeof(float));
    b.weights = bf16_take(r, KEY_BLOCK / 2 * LANES, sizeof(uint32_t));
    b.floats = bf16_take(r, KEY_BLOCK * width, sizeof(float));
    b.words = bf16_take(r, KEY_BLOCK / 2 * width, sizeof(uint32_t));
    b.turned = bf16_take(r, LANES * KEY_BLOCK, sizeof *b.turned);
    b.even = bf16_take(r, width, sizeof(float));
    b.odd = bf16_take(r, width, sizeof(float));
    return b;
}

/* As the functions below cut it; see device_cpu_options for head_width. */
size_t attention_bf16_bytes(const struct device_cpu_options *o)
{
    size_t width = align_up((size_t)o->head_width, DEPTH) + DEPTH;
    size_t tiles = (size_t)attention_bf16_tiles(o);
    size_t bench = KEY_BLOCK * (2 * LANES + width + width / 2) + 2 * width;
    size_t lanes = LANES * (width / 2 + 2 + width);
    size_t span = SPAN * width / 2 + DEPTH, matrices = width * width / 2;
    size_t pieces = 16 + 4 * tiles; /* each rounded up to a cache line */
    return (bench + lanes * tiles + span + matrices) * sizeof(float) + pieces * 64;
}

int attention_bf16_tiles(const struct device_cpu_options *o)
{
    return (max_of(o->max_tokens, o->index_top_k ? o->n_heads : 0) + LANES - 1) / LANES;
}

/* ---- step 1 ---- */

static int64_t whole_blocks(int64_t n)
{
    return (int64_t)align_up((size_t)n, KEY_BLOCK);
}

size_t attention_bf16_cache_bytes(const struct device_cpu_options *o)
{
    return (size_t)(whole_blocks(o->n_ctx) * o->cache_width + o->n_heads * DEPTH) *
           sizeof(uint16_t);
}

/* Keys of a set: [n_ctx, key_width] and DEPTH more, all sets one after the other. */
static uint16_t *keys_of(const struct attention *a, int set, int64_t position)
{
    int64_t n_ctx = whole_blocks(a->d->options.n_ctx);
    return a->d->cache_bf16 + set * (n_ctx * a->key_width + DEPTH) + position * a->key_width;
}

/* Values of a set behind all keys: blocks [value_width, KEY_BLOCK] (transposed). */
static uint16_t *values_of(const struct attention *a, int set, int64_t position)
{
    int64_t n_ctx = whole_blocks(a->d->options.n_ctx);
    return keys_of(a, a->n_sets, 0) + (set * n_ctx + position) * a->value_width;
}

static const uint16_t *cached(const char *data, int64_t stride, int64_t position, int64_t column)
{
    return (const uint16_t *)(const void *)data + position * stride + column;
}

static const uint16_t *cached_key(const struct attention *a, int set, int64_t position)
{
    return cached(a->keys, a->key_stride, a->ids ? a->ids[position] : position, set * a->key_width);
}

void bf16_lay_block(const struct attention *a, const struct bench *b, int set, int64_t first,
                    uint16_t *keys, uint32_t *pairs)
{
    const struct kernels *k = &a->d->kernels;
    int64_t n = min_of(a->n_positions - first, (int64_t)KEY_BLOCK), whole = (n + 1) / 2 * 2;
    int64_t width = a->key_width, value_width = a->value_width;
    const uint16_t *zeros = memset(b->even, 0, (size_t)max_of(width, value_width) * sizeof(float));
    for (int64_t p = 0; p < n; p += 2) {
        bool last = p + 1 == n;
        const uint16_t *key = cached_key(a, set, first + p);
        const uint16_t *next = last ? zeros : cached_key(a, set, first + p + 1);
        uint16_t *rows = keys + p * width;
        uint32_t *to = pairs ? pairs + p / 2 * value_width : NULL;
        if (a->mla && pairs) { /* values are the first columns of the keys */
            k->bf16_lay_halves(key, next, value_width, rows, width, to);
            k->bf16_lay_halves(key + value_width, last ? zeros : next + value_width,
                               width - value_width, rows + value_width, width, NULL);
            continue;
        }
        k->bf16_lay_halves(key, next, width, rows, width, NULL);
        if (!pairs)
            continue;
        const uint16_t *value = cached(a->values, a->value_stride, first + p, set * value_width);
        k->bf16_lay_halves(value, last ? zeros : value + a->value_stride, value_width, NULL, 0, to);
    }
    memset(keys + whole * width, 0, (size_t)((KEY_BLOCK - whole) * width) * sizeof *keys);
    if (pairs)
        memset(pairs + whole / 2 * value_width, 0,
               (size_t)((KEY_BLOCK - whole) / 2 * value_width) * sizeof *pairs);
}

/* values [width, KEY_BLOCK] = pairs [n / 2, width], turned. */
static void turn_values(const struct kernels *k, const uint32_t *pairs, int n, int64_t width,
                        uint16_t *values)
{
    k->bf16_transpose(pairs, width, n / 2, (int)width, (uint32_t *)(void *)values, KEY_BLOCK / 2);
}

/* Unit: a block of positions of one set. What tiles may read behind the last one becomes 0. */
static void round_unit(const struct attention *a, int worker, int64_t unit)
{
    const struct kernels *k = &a->d->kernels;
    struct room r = bf16_room(a, worker);
    struct bench b = bf16_bench(&r, max_of(a->key_width, a->value_width));
    int set = (int)(unit % a->n_sets);
    int64_t first = unit / a->n_sets * KEY_BLOCK;
    uint16_t *keys = keys_of(a, set, first);
    bf16_lay_block(a, &b, set, first, keys, a->mla ? NULL : b.words);
    if (first + KEY_BLOCK >= a->n_positions)
        memset(keys + KEY_BLOCK * a->key_width, 0, DEPTH * sizeof *keys);
    if (!a->mla) /* otherwise values are expanded later */
        turn_values(k, b.words, KEY_BLOCK, a->value_width, values_of(a, set, first));
}

static void run_round(void *ctx, int64_t begin, int64_t end, int worker)
{
    for (int64_t unit = begin; unit < end; unit++)
        round_unit(ctx, worker, unit);
}

static void round_cache(const struct attention *a)
{
    int64_t blocks = whole_blocks(a->n_positions) / KEY_BLOCK;
    pool_run(a->d->pool, run_round, (void *)a, blocks * a->n_sets, 1);
}

/* ---- step 3 ---- */

struct lanes bf16_lanes(struct room *r, int used, int64_t key_width, int64_t value_width)
{
    int64_t padded = (int64_t)align_up((size_t)key_width, DEPTH);
    struct lanes l = { .n = (int)align_up((size_t)used, SIDE), .used = used,
                       .key_width = key_width, .value_width = value_width };
    l.queries = bf16_take(r, LANES * padded / 2, sizeof *l.queries);
    l.max = bf16_take(r, LANES, sizeof *l.max);
    l.sum = bf16_take(r, LANES, sizeof *l.sum);
    l.out = bf16_take(r, LANES * value_width, sizeof *l.out);
    for (int i = 0; i < LANES; i++) {
        l.max[i] = BF16_NOTHING_SEEN;
        l.sum[i] = 0;
    }
    memset(l.out, 0, (size_t)(value_width * LANES) * sizeof *l.out);
    return l;
}

/* Query of lane i, which sees the positions below `end`; turn_queries when all are there. */
void bf16_put_query(const struct attention *a, const struct bench *b, struct lanes *l, int i,
                      const float *q, int64_t end)
{
    int64_t padded = (int64_t)align_up((size_t)l->key_width, DEPTH);
    uint16_t *row = (uint16_t *)(void *)b->words + i * padded;
    a->d->kernels.bf16_round(q, a->scale * LOG2_E, row, l->key_width);
    memset(row + l->key_width, 0, (size_t)(padded - l->key_width) * sizeof *row);
    l->end[i] = end;
}

void bf16_turn_queries(const struct attention *a, const struct bench *b, struct lanes *l)
{
    int64_t words = (int64_t)align_up((size_t)l->key_width, DEPTH) / 2;
    memset(b->words + l->used * words, 0, (size_t)((l->n - l->used) * words) * sizeof *b->words);
    a->d->kernels.bf16_transpose(b->words, words, l->n, (int)words, l->queries, LANES);
}

void bf16_weigh(const struct attention *a, const struct bench *b, struct lanes *l,
                const uint16_t *keys, int64_t first, int rows, float *shrink)
{
    const struct kernels *k = &a->d->kernels;
    int32_t seen[LANES];
    for (int i = 0; i < l->n; i++)
        seen[i] = (int32_t)max_of(min_of(l->end[i] - first, (int64_t)rows), (int64_t)0);
    k->bf16_gemm(rows, l->n, (int)align_up((size_t)l->key_width, DEPTH), keys, l->key_width,
                 l->queries, LANES, false, b->scores, LANES);
    k->bf16_softmax(b->scores, LANES, rows, l->n, seen, l->max, l->sum, shrink, b->weights, LANES);
}

/* A tile meets the positions of a block from `first` on, of which it sees at least one. */
static void meet(const struct attention *a, const struct bench *b, struct lanes *l,
                 const uint16_t *keys, const uint16_t *values, int64_t first)
{
    const struct kernels *k = &a->d->kernels;
    float shrink[LANES];
    int64_t n = min_of(l->end[l->used - 1] - first, (int64_t)KEY_BLOCK);
    int rows = (int)align_up((size_t)n, DEPTH), width = (int)l->value_width;
    bf16_weigh(a, b, l, keys, first, rows, shrink);
    k->bf16_scale_lanes(l->out, LANES, width, l->n, shrink);
    k->bf16_gemm(width, l->n, rows, values, KEY_BLOCK, b->weights, LANES, true, l->out, LANES);
}

/* Weighted values of query i in row i of b->floats [lanes, value_width]. */
static void finish(const struct attention *a, const struct bench *b, struct lanes *l)
{
    const struct kernels *k = &a->d->kernels;
    float factor[LANES] = { 0 };
    for (int i = 0; i < l->used; i++)
        factor[i] = 1 / l->sum[i];
    k->bf16_scale_lanes(l->out, LANES, (int)l->value_width, l->n, factor);
    k->bf16_transpose((const uint32_t *)(const void *)l->out, LANES, (int)l->value_width, l->n,
                      (uint32_t *)(void *)b->floats, l->value_width);
}

/* To columns from `column` on of a token's result. */
static void put_result(const struct attention *a, const struct bench *b, const struct lanes *l,
                       int i, int64_t token, int64_t column)
{
    memcpy(a->dst.data + token * a->dst.stride + column, b->floats + i * l->value_width,
           (size_t)l->value_width * sizeof(float));
}

/* ---- grouped queries ---- */

static int gqa_tiles(const struct attention *a)
{
    return (a->n_tokens * a->heads_per_set + LANES - 1) / LANES;
}

/* Tile `tile` of a set: rows token by token, the heads of a token side by side. */
static void gqa_tile(const struct attention *a, int worker, int set, int tile)
{
    struct room r = bf16_room(a, worker);
    struct bench b = bf16_bench(&r, a->key_width + DEPTH);
    int row0 = tile * LANES, used = min_of(a->n_tokens * a->heads_per_set - row0, LANES);
    struct lanes l = bf16_lanes(&r, used, a->key_width, a->value_width);
    for (int i = 0; i < used; i++) {
        int token = (row0 + i) / a->heads_per_set;
        int head = set * a->heads_per_set + (row0 + i) % a->heads_per_set;
        bf16_put_query(a, &b, &l, i, a->q.data + token * a->q.stride + head * a->key_width,
                  a->n_past + token + 1);
    }
    bf16_turn_queries(a, &b, &l);
    for (int64_t p = 0; p < l.end[used - 1] && !step_cancelled(a->d); p += KEY_BLOCK)
        meet(a, &b, &l, keys_of(a, set, p), values_of(a, set, p), p);
    finish(a, &b, &l);
    for (int i = 0; i < used; i++) {
        int head = set * a->heads_per_set + (row0 + i) % a->heads_per_set;
        put_result(a, &b, &l, i, (row0 + i) / a->heads_per_set, head * a->value_width);
    }
}

/* Late tiles see more than early ones: taken alternately from both ends, any run of units costs
 * about as much as another. */
static void run_gqa(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct attention *a = ctx;
    int tiles = gqa_tiles(a);
    for (int64_t unit = begin; unit < end && !step_cancelled(a->d); unit++) {
        int i = (int)(unit % tiles);
        gqa_tile(a, worker, (int)(unit / tiles), i % 2 ? tiles - 1 - i / 2 : i / 2);
    }
}

void attention_bf16_gqa(const struct attention *a)
{
    round_cache(a);
    pool_run(a->d->pool, run_gqa, (void *)a, (int64_t)a->n_sets * gqa_tiles(a), 1);
}

/* ---- latents ---- */

/* Pairs of k_b [rank / 2, nope] and of the transpose of v_b [rank / 2, value]. */
struct matrices {
    uint32_t *k_b, *v_b;
};

static const float *weight_row(const struct attention *a, const struct weight *w, int matrix,
                               int64_t row, float *to)
{
    const uint8_t *at = (const uint8_t *)w->data + (size_t)matrix * w->matrix_bytes +
                        (size_t)row * w->row_bytes;
    a->d->kernels.decode[w->type](at, to, w->cols);
    return to;
}

void bf16_turn_weight(const struct attention *a, const struct bench *b, const struct weight *w,
                      int matrix, uint32_t *to)
{
    const struct kernels *k = &a->d->kernels;
    uint16_t *rows = (uint16_t *)(void *)b->floats;
    for (int64_t r = 0; r < w->rows; r += SIDE) {
        for (int i = 0; i < SIDE; i++)
            k->bf16_round(weight_row(a, w, matrix, r + i, b->even), 1, rows + i * w->cols, w->cols);
        k->bf16_transpose((const uint32_t *)(void *)rows, w->cols / 2, SIDE, (int)w->cols / 2, to + r,
                          w->rows);
    }
}

static void load_matrices(const struct attention *a, const struct bench *b, int head,
                          struct matrices *to)
{
    const struct mla *m = a->mla;
    for (int r = 0; r < m->rank; r += 2)
        a->d->kernels.bf16_pair_rows(weight_row(a, &m->k_b, head, r, b->even),
                                     weight_row(a, &m->k_b, head, r + 1, b->odd),
                                     to->k_b + r / 2 * m->nope, m->nope);
    bf16_turn_weight(a, b, &m->v_b, head, to->v_b);
}

/* Keys [n, nope + rope] and values, in transposed blocks, of n positions from `first` on. */
static void expand(const struct attention *a, const struct bench *b, const struct matrices *from,
                   int64_t first, int64_t n, uint16_t *keys, uint16_t *values)
{
    const struct mla *m = a->mla;
    const struct kernels *k = &a->d->kernels;
    int64_t width = m->nope + m->rope;
    for (int64_t p = 0; p < n && !step_cancelled(a->d); p += KEY_BLOCK) {
        int rows = (int)align_up((size_t)min_of(n - p, KEY_BLOCK), DEPTH);
        const uint16_t *latents = keys_of(a, 0, first + p);
        k->bf16_gemm(rows, m->nope, m->rank, latents, a->key_width, from->k_b, m->nope, false,
                     b->floats, m->nope);
        for (int i = 0; i < rows; i++) {
            uint16_t *key = keys + (p + i) * width;
            k->bf16_round(b->floats + i * m->nope, 1, key, m->nope);
            memcpy(key + m->nope, latents + i * a->key_width + m->rank,
                   (size_t)m->rope * sizeof *key);
        }
        k->bf16_gemm(rows, m->value, m->rank, latents, a->key_width, from->v_b, m->value, false,
                     b->floats, m->value);
        for (int i = 0; i < rows; i += 2)
            k->bf16_pair_rows(b->floats + i * m->value, b->floats + (i + 1) * m->value,
                              b->words + i / 2 * m->value, m->value);
        turn_values(k, b->words, rows, m->value, values + p * m->value);
    }
    memset(keys + (int64_t)align_up((size_t)n, DEPTH) * width, 0, DEPTH * sizeof *keys);
}

/* One head of n_tokens tokens from token0 on. */
static void expanded_head(const struct attention *a, int worker, int head, int token0, int n_tokens)
{
    const struct mla *m = a->mla;
    int64_t width = m->nope + m->rope;
    struct room r = bf16_room(a, worker);
    struct bench b = bf16_bench(&r, max_of(a->key_width, width + m->value));
    struct matrices from = { bf16_take(&r, m->rank * m->nope / 2, sizeof *from.k_b),
                             bf16_take(&r, m->rank * m->value / 2, sizeof *from.v_b) };
    uint16_t *keys = bf16_take(&r, SPAN * width + DEPTH, sizeof *keys);
    uint16_t *values = bf16_take(&r, SPAN * m->value, sizeof *values);
    struct lanes *tiles = a->d->scratch[worker].lanes;
    int n_tiles = (n_tokens + LANES - 1) / LANES;
    for (int t = 0; t < n_tiles; t++) {
        int first = token0 + t * LANES, used = min_of(n_tokens - t * LANES, LANES);
        tiles[t] = bf16_lanes(&r, used, width, m->value);
        for (int i = 0; i < used; i++)
            bf16_put_query(a, &b, &tiles[t], i,
                      a->q.data + (first + i) * a->q.stride + head * width,
                      a->n_past + first + i + 1);
        bf16_turn_queries(a, &b, &tiles[t]);
    }
    load_matrices(a, &b, head, &from);
    int64_t end = a->n_past + token0 + n_tokens;
    for (int64_t span = 0; span < end; span += SPAN) {
        int64_t n = min_of(end - span, (int64_t)SPAN);
        expand(a, &b, &from, span, n, keys, values);
        for (int t = 0; t < n_tiles; t++) {
            int64_t seen = tiles[t].end[tiles[t].used - 1] - span;
            for (int64_t p = 0; p < min_of(seen, n) && !step_cancelled(a->d); p += KEY_BLOCK)
                meet(a, &b, &tiles[t], keys + p * width, values + p * m->value, span + p);
        }
    }
    for (int t = 0; t < n_tiles; t++) {
        finish(a, &b, &tiles[t]);
        for (int i = 0; i < tiles[t].used; i++)
            put_result(a, &b, &tiles[t], i, token0 + t * LANES + i, (int64_t)head * m->value);
    }
}

/* Every group of tokens expands its head anew: as few as share out well. */
static int n_groups(const struct attention *a)
{
    int most = (a->n_tokens + LANES - 1) / LANES, groups = 1;
    while (groups < most && a->n_heads * groups % a->d->n_threads &&
           a->n_heads * groups < 4 * a->d->n_threads)
        groups++;
    return groups;
}

static void run_expanded(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct attention *a = ctx;
    int groups = n_groups(a), tiles = (a->n_tokens + LANES - 1) / LANES;
    for (int64_t unit = begin; unit < end && !step_cancelled(a->d); unit++) {
        int group = (int)(unit % groups), first = tiles * group / groups * LANES;
        int last = min_of(tiles * (group + 1) / groups * LANES, a->n_tokens);
        expanded_head(a, worker, (int)(unit / groups), first, last - first);
    }
}

void attention_bf16_expanded(const struct attention *a)
{
    round_cache(a);
    pool_run(a->d->pool, run_expanded, (void *)a, (int64_t)a->n_heads * n_groups(a), 1);
}

bool attention_bf16_fits(const struct attention *a)
{
    const struct mla *m = a->mla;
    if (m)
        return m->rank % DEPTH == 0 && m->nope % SIDE == 0 && m->value % SIDE == 0;
    return a->key_width % SIDE == 0 && a->value_width % SIDE == 0;
}
