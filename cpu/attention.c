#include "cpu/attention.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/attention_parts.h"
#include "cpu/blas.h"
#include "src/base/util.h"

void attention_tile_clear(struct tile *t, int64_t value_width)
{
    for (int i = 0; i < t->n; i++) {
        t->max[i] = -INFINITY;
        t->sum[i] = 0;
        memset(t->out + i * t->out_stride, 0, (size_t)value_width * sizeof *t->out);
    }
}

static void scale_row(float *x, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i++)
        x[i] *= factor;
}

static void copy_scaled(float *to, const float *from, int64_t n, float factor)
{
    for (int64_t i = 0; i < n; i++)
        to[i] = from[i] * factor;
}

/* Turn the scores of n positions from `first` on into weights, and move the tile's state along. */
static void weigh(const struct kernels *k, struct tile *t, float *scores, int64_t first, int64_t n,
                  int64_t value_width)
{
    for (int i = 0; i < t->n; i++) {
        float *row = scores + i * KEY_BLOCK;
        int64_t seen = min_of(max_of(t->end[i] - first, 0), n);
        memset(row + seen, 0, (size_t)(n - seen) * sizeof *row);
        if (seen == 0)
            continue;
        float highest = k->max_f32(row, seen);
        float max = max_of(highest, t->max[i]);
        float shrink = expf(t->max[i] - max); /* 0 in the first block */
        t->sum[i] = t->sum[i] * shrink + k->softmax_exp(row, seen, max);
        t->max[i] = max;
        if (shrink != 1)
            scale_row(t->out + i * t->out_stride, value_width, shrink);
    }
}

/* One query at a time, straight from the cache. */
static void meet_vector(const struct kernels *k, struct tile *t, struct block keys,
                        struct block values, int64_t first, int64_t n, float *scores)
{
    for (int i = 0; i < t->n; i++) {
        const float *q = t->queries + i * keys.width;
        for (int64_t p = 0; p < n; p++) {
            const void *key = (const char *)keys.data + p * keys.stride * (keys.f16 ? 2 : 4);
            scores[i * KEY_BLOCK + p] = keys.f16 ? k->dot_f32_f16(q, key, keys.width)
                                                 : k->dot_f32(q, key, keys.width);
        }
    }
    weigh(k, t, scores, first, n, values.width);
    for (int i = 0; i < t->n; i++) {
        float *out = t->out + i * t->out_stride;
        for (int64_t p = 0; p < n; p++) {
            int64_t at = p * values.stride * (values.f16 ? 2 : 4);
            const void *value = (const char *)values.data + at;
            float weight = scores[i * KEY_BLOCK + p];
            if (values.f16)
                k->axpy_f16(weight, value, out, values.width);
            else
                k->axpy_f32(weight, value, out, values.width);
        }
    }
}

/* All queries at once, as two matrix products over floats. */
void attention_meet_matrix(const struct kernels *k, struct tile *t, struct block keys,
                        struct block values, int64_t first, int64_t n, float *scores)
{
    blas_nt(t->n, n, keys.width, t->queries, keys.width, keys.data, keys.stride, scores, KEY_BLOCK);
    weigh(k, t, scores, first, n, values.width);
    blas_nn(t->n, values.width, n, scores, KEY_BLOCK, values.data, values.stride, true, t->out,
            t->out_stride);
}

/* n positions as floats: themselves, or converted into `floats`. */
static struct block as_floats(const struct kernels *k, struct block b, int64_t n, float *floats)
{
    if (!b.f16)
        return b;
    for (int64_t p = 0; p < n; p++)
        k->decode[TYPE_F16]((const uint16_t *)b.data + p * b.stride, floats + p * b.width, b.width);
    return (struct block){ floats, false, b.width, b.width };
}

static struct block cache_block(const char *data, bool f16, int64_t stride, int64_t position,
                                int64_t column, int64_t width)
{
    const char *first = data + (position * stride + column) * (f16 ? 2 : 4);
    return (struct block){ first, f16, stride, width };
}

void attention_attend(const struct attention *a, int worker, struct tile *t, int set, int64_t first,
                      int64_t last)
{
    const struct kernels *k = &a->d->kernels;
    const struct worker_scratch *s = &a->d->scratch[worker];
    for (int64_t p = first; p < last && !step_cancelled(a->d); p += KEY_BLOCK) {
        int64_t n = min_of(last - p, KEY_BLOCK);
        struct block keys = cache_block(a->keys, a->f16, a->key_stride, p, set * a->key_width,
                                        a->key_width);
        struct block values = cache_block(a->values, a->f16, a->value_stride, p,
                                          set * a->value_width, a->value_width);
        if (t->n < 4) {
            meet_vector(k, t, keys, values, p, n, s->scores);
            continue;
        }
        keys = as_floats(k, keys, n, s->latents);
        if (a->mla) /* the values are the first columns of the keys */
            values = (struct block){ keys.data, false, keys.stride, a->value_width };
        else
            values = as_floats(k, values, n, s->values);
        attention_meet_matrix(k, t, keys, values, p, n, s->scores);
    }
}

/* ---- queries ---- */

const float *attention_query(const struct attention *a, int token, int head)
{
    if (a->mla)
        return a->absorbed + ((int64_t)token * a->n_heads + head) * a->key_width;
    return a->q.data + token * a->q.stride + head * a->key_width;
}

int attention_tiles(const struct attention *a, int rows)
{
    return (a->n_tokens * a->heads_per_set + rows - 1) / rows;
}

struct tile attention_load_tile(const struct attention *a, const struct worker_scratch *s, int set,
                                int row0, int rows)
{
    struct tile t = { .n = min_of(a->n_tokens * a->heads_per_set - row0, rows),
                      .queries = s->queries, .max = s->states, .sum = s->states + rows,
                      .out = s->outputs, .out_stride = a->value_width };
    for (int i = 0; i < t.n; i++) {
        int token = (row0 + i) / a->heads_per_set;
        int head = set * a->heads_per_set + (row0 + i) % a->heads_per_set;
        t.end[i] = a->n_past + token + 1;
        copy_scaled(s->queries + i * a->key_width, attention_query(a, token, head), a->key_width,
                    a->scale);
    }
    attention_tile_clear(&t, a->value_width);
    return t;
}

/* ---- many tokens ---- */

/* Divide by the sums and write. */
void attention_tile_finish(struct tile *t, int64_t value_width)
{
    for (int i = 0; i < t->n; i++)
        scale_row(t->out + i * t->out_stride, value_width, 1 / t->sum[i]);
}

/* Unit: QUERY_TILE queries (token by token) of one set. */
static void run_many_gqa(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct attention *a = ctx;
    const struct worker_scratch *s = &a->d->scratch[worker];
    int tiles = attention_tiles(a, QUERY_TILE);
    for (int64_t unit = begin; unit < end; unit++) {
        int set = (int)(unit / tiles), row0 = (int)(unit % tiles) * QUERY_TILE;
        struct tile t = attention_load_tile(a, s, set, row0, QUERY_TILE);
        attention_attend(a, worker, &t, set, 0, t.end[t.n - 1]);
        attention_tile_finish(&t, a->value_width);
        for (int i = 0; i < t.n; i++) {
            int token = (row0 + i) / a->heads_per_set;
            int head = set * a->heads_per_set + (row0 + i) % a->heads_per_set;
            memcpy(a->dst.data + token * a->dst.stride + head * a->value_width,
                   t.out + i * t.out_stride, (size_t)a->value_width * sizeof(float));
        }
    }
}

/* One head's matrix as floats. */
static void decode_matrix(const struct kernels *k, const struct weight *w, int matrix, float *out)
{
    const uint8_t *rows = (const uint8_t *)w->data + (size_t)matrix * w->matrix_bytes;
    for (int64_t r = 0; r < w->rows; r++)
        k->decode[w->type](rows + (size_t)r * w->row_bytes, out + r * w->cols, w->cols);
}

/* Unit: QUERY_TILE tokens of one head, over the latents. */
static void run_many_absorbed(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct attention *a = ctx;
    const struct mla *m = a->mla;
    const struct worker_scratch *s = &a->d->scratch[worker];
    float *k_b = s->heads, *v_b = s->heads + (int64_t)m->rank * m->nope;
    int tiles = (a->n_tokens + QUERY_TILE - 1) / QUERY_TILE, decoded = -1;
    for (int64_t unit = begin; unit < end; unit++) {
        int head = (int)(unit / tiles), token0 = (int)(unit % tiles) * QUERY_TILE;
        if (head != decoded) {
            decode_matrix(&a->d->kernels, &m->k_b, head, k_b);
            decode_matrix(&a->d->kernels, &m->v_b, head, v_b);
            decoded = head;
        }
        struct tile t = { .n = min_of(a->n_tokens - token0, QUERY_TILE), .queries = s->queries,
                          .max = s->states, .sum = s->states + QUERY_TILE, .out = s->outputs,
                          .out_stride = m->rank };
        const float *q = a->q.data + token0 * a->q.stride + head * (m->nope + m->rope);
        blas_nt(t.n, m->rank, m->nope, q, a->q.stride, k_b, m->nope, s->queries, a->key_width);
        for (int i = 0; i < t.n; i++) {
            float *query = s->queries + i * a->key_width;
            t.end[i] = a->n_past + token0 + i + 1;
            scale_row(query, m->rank, a->scale);
            copy_scaled(query + m->rank, q + i * a->q.stride + m->nope, m->rope, a->scale);
        }
        attention_tile_clear(&t, m->rank);
        attention_attend(a, worker, &t, 0, 0, t.end[t.n - 1]);
        attention_tile_finish(&t, m->rank);
        blas_nt(t.n, m->value, m->rank, t.out, m->rank, v_b, m->rank,
                a->dst.data + token0 * a->dst.stride + (int64_t)head * m->value, a->dst.stride);
    }
}

/* Keys and values of one head for n positions from their latents. */
static void expand(const struct attention *a, const struct worker_scratch *s, struct block latents,
                   int64_t n, const float *k_b, const float *v_b)
{
    const struct mla *m = a->mla;
    int64_t width = m->nope + m->rope;
    const float *rows = latents.data;
    blas_nn(n, m->nope, m->rank, rows, latents.stride, k_b, m->nope, false, s->keys, width);
    for (int64_t p = 0; p < n; p++)
        memcpy(s->keys + p * width + m->nope, rows + p * latents.stride + m->rank,
               (size_t)m->rope * sizeof *rows);
    blas_nt(n, m->value, m->rank, rows, latents.stride, v_b, m->rank, s->values, m->value);
}

/* Unit: one head, all tokens; the weighted values gather in dst. */
static void run_many_decompressed(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct attention *a = ctx;
    const struct mla *m = a->mla;
    const struct kernels *k = &a->d->kernels;
    const struct worker_scratch *s = &a->d->scratch[worker];
    float *k_b = s->heads, *v_b = s->heads + (int64_t)m->rank * m->nope;
    int64_t width = m->nope + m->rope;
    for (int64_t head = begin; head < end; head++) {
        decode_matrix(k, &m->k_b, (int)head, k_b);
        decode_matrix(k, &m->v_b, (int)head, v_b);
        struct tile whole = { .n = a->n_tokens, .max = s->states,
                              .sum = s->states + a->n_tokens,
                              .out = a->dst.data + head * m->value, .out_stride = a->dst.stride };
        attention_tile_clear(&whole, m->value);
        for (int64_t p = 0; p < a->n_positions && !step_cancelled(a->d); p += KEY_BLOCK) {
            int64_t n = min_of(a->n_positions - p, KEY_BLOCK);
            struct block latents = as_floats(
                k, cache_block(a->keys, a->f16, a->key_stride, p, 0, a->key_width), n, s->latents);
            expand(a, s, latents, n, k_b, v_b);
            struct block keys = { s->keys, false, width, width };
            struct block values = { s->values, false, m->value, m->value };
            int first = (int)max_of(p - a->n_past, 0) / QUERY_TILE * QUERY_TILE;
            for (int token = first; token < a->n_tokens; token += QUERY_TILE) {
                struct tile t = whole;
                t.n = min_of(a->n_tokens - token, QUERY_TILE);
                t.max += token;
                t.sum += token;
                t.out += token * t.out_stride;
                t.queries = s->queries;
                for (int i = 0; i < t.n; i++) {
                    t.end[i] = a->n_past + token + i + 1;
                    copy_scaled(s->queries + i * width,
                                a->q.data + (token + i) * a->q.stride + head * width, width,
                                a->scale);
                }
                attention_meet_matrix(k, &t, keys, values, p, min_of(n, t.end[t.n - 1] - p), s->scores);
            }
        }
        attention_tile_finish(&whole, m->value);
    }
}

/* ---- the operations ---- */

enum mla_form attention_mla_form(const struct mla *m, int n_tokens, int64_t n_past)
{
    if (n_tokens <= SPLIT_TOKENS)
        return MLA_ABSORBED;
    /* Multiplications per head; the causal half of a first chunk weighs the same on both sides. */
    double n = n_tokens, positions = (double)n_past + n, seen = (double)n_past + n / 2;
    double expansion = (double)m->rank * (m->nope + m->value);
    double decompressed = positions * expansion + n * seen * (m->nope + m->rope + m->value);
    double absorbed = n * expansion + n * seen * (2.0 * m->rank + m->rope);
    return decompressed < absorbed ? MLA_DECOMPRESSED : MLA_ABSORBED;
}

static struct attention prepare(struct device_cpu *d, struct rows dst, struct rows q,
                                const struct kvcache *c, int layer)
{
    struct attention a = { .d = d, .dst = dst, .q = q };
    a.keys = c->k[layer];
    a.values = c->v ? c->v[layer] : NULL;
    a.f16 = c->type == TYPE_F16;
    a.bf16 = a.f16 && d->bf16_bytes;
    a.key_stride = c->k_width;
    a.value_stride = c->v_width;
    a.n_tokens = d->step.n_tokens;
    a.n_past = d->step.n_past;
    a.n_positions = a.n_past + a.n_tokens;
    assert(c->type == TYPE_F16 || c->type == TYPE_F32);
    assert(a.n_positions <= c->n_ctx && a.n_positions <= d->options.n_ctx);
    return a;
}

void attention_run_gqa(struct device_cpu *d, struct rows dst, struct rows q,
                       const struct kvcache *c, int layer, int n_heads, int n_kv_heads,
                       int head_dim, float scale)
{
    struct attention a = prepare(d, dst, q, c, layer);
    assert(n_heads <= d->options.n_heads && head_dim <= d->options.head_width);
    a.n_heads = n_heads;
    a.n_sets = n_kv_heads;
    a.heads_per_set = n_heads / n_kv_heads;
    a.key_width = head_dim;
    a.value_width = c->v_width / n_kv_heads;
    a.scale = scale;
    a.bf16 = a.bf16 && attention_bf16_fits(&a);
    if (a.n_tokens <= SPLIT_TOKENS) {
        attention_run_few(&a);
        return;
    }
    if (a.bf16) {
        attention_bf16_gqa(&a);
        return;
    }
    pool_run(d->pool, run_many_gqa, &a, (int64_t)n_kv_heads * attention_tiles(&a, QUERY_TILE), 1);
}

void attention_run_mla(struct device_cpu *d, struct rows dst, struct rows q,
                       const struct kvcache *c, int layer, const struct mla *m)
{
    struct attention a = prepare(d, dst, q, c, layer);
    assert(m->n_heads <= d->options.n_heads && m->rank + m->rope <= d->options.head_width &&
           m->nope + m->rope + m->value <= d->options.head_width);
    a.mla = m;
    a.values = a.keys; /* the latent in front is what is summed */
    a.value_stride = a.key_stride;
    a.n_heads = a.heads_per_set = m->n_heads;
    a.n_sets = 1;
    a.key_width = m->rank + m->rope;
    a.value_width = m->rank;
    a.scale = m->scale;
    a.bf16 = a.bf16 && attention_bf16_fits(&a);
    a.absorb = dot_plan(d, &m->k_b);
    a.expand = dot_plan(d, &m->v_b);
    if (m->n_selected > 0 && a.n_positions > m->n_selected) {
        assert(d->selection.top_k == m->n_selected);
        attention_run_selected(&a);
        return;
    }
    enum mla_form form = d->step.mla_form == MLA_AUTO
                             ? attention_mla_form(m, a.n_tokens, a.n_past)
                             : d->step.mla_form;
    if (form == MLA_DECOMPRESSED && a.bf16) {
        attention_bf16_expanded(&a);
    } else if (form == MLA_DECOMPRESSED) {
        pool_run(d->pool, run_many_decompressed, &a, m->n_heads, 1);
    } else if (a.n_tokens <= SPLIT_TOKENS) {
        attention_run_few(&a);
    } else {
        int tiles = (a.n_tokens + QUERY_TILE - 1) / QUERY_TILE;
        pool_run(d->pool, run_many_absorbed, &a, (int64_t)m->n_heads * tiles, 1);
    }
}
