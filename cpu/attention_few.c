/* Attention of few tokens: the cache in pieces, which workers attend to side by side.
 *
 * What a token gets is, to the bit, what it would get in a step of its own, which is what makes guesses
 * exact: pieces are cut by what the token itself sees, float products see the rows of one token only, for
 * their sums run in another order for every size, and in BF16 products no lane depends on another. */
#include <math.h>
#include <string.h>

#include "cpu/attention_bf16.h"
#include "src/base/util.h"

#define SPLIT_ROWS 8    /* queries per unit of work */
#define GATHERED_ROWS 64
#define ABSORB_ROWS 128 /* rows of k_b per unit of work */

/* What one piece of the cache contributed to one query: sum, maximum, value_width floats. */
static float *partial(const struct attention *a, int split, int token, int head)
{
    int64_t query = ((int64_t)split * a->partial_tokens + token) * a->n_heads + head;
    return a->partial + query * (a->value_width + 2);
}

void attention_put_piece(const struct attention *a, int split, int token, int head, float sum,
                         float max, const float *out)
{
    float *to = partial(a, split, token, head);
    to[0] = sum;
    to[1] = max;
    memcpy(to + 2, out, (size_t)a->value_width * sizeof *to);
}

/* Queries per unit of a step of few tokens. Rows that were gathered are all that there is to read,
 * so then products are the work, which large tiles do best. Lanes may look at the threads. */
static int split_rows(const struct attention *a)
{
    int64_t pieces = (int64_t)a->n_splits * a->n_sets;
    int rows = LANES;
    if (!a->bf16)
        return a->gathered ? GATHERED_ROWS : SPLIT_ROWS;
    while (rows > SIDE && pieces * attention_tiles(a, rows) < a->d->n_threads)
        rows /= 2;
    return rows;
}

/* Unit: one piece of the cache, one set, up to split_rows of its queries (token by token). */
static void split_unit(const struct attention *a, int worker, int64_t unit)
{
    const struct worker_scratch *s = &a->d->scratch[worker];
    int tiles = attention_tiles(a, split_rows(a));
    int split = (int)(unit / (a->n_sets * tiles)), set = (int)(unit / tiles % a->n_sets);
    int row0 = (int)(unit % tiles) * split_rows(a);
    int64_t first = split * a->split, last = min_of(first + a->split, a->n_positions);
    if (a->bf16) {
        attention_bf16_piece(a, worker, set, row0, split_rows(a), first, last);
        return;
    }
    struct tile t = attention_load_tile(a, s, set, row0, split_rows(a));
    attention_attend(a, worker, &t, set, first, last);
    for (int i = 0; i < t.n; i++) {
        int token = (row0 + i) / a->heads_per_set;
        int head = set * a->heads_per_set + (row0 + i) % a->heads_per_set;
        attention_put_piece(a, split, token, head, t.sum[i], t.max[i], t.out + i * t.out_stride);
    }
}

/* The attention of one query from its pieces, in order. */
static void merge(const struct attention *a, int token, int head, float *out)
{
    float max = -INFINITY, sum = 0;
    for (int s = 0; s < a->n_splits; s++)
        max = max_of(max, partial(a, s, token, head)[1]);
    memset(out, 0, (size_t)a->value_width * sizeof *out);
    for (int s = 0; s < a->n_splits; s++) {
        const float *piece = partial(a, s, token, head);
        if (piece[0] == 0)
            continue; /* entirely in the query's future */
        float factor = expf(piece[1] - max);
        sum += factor * piece[0];
        for (int64_t i = 0; i < a->value_width; i++)
            out[i] += factor * piece[2 + i];
    }
    float share = 1 / sum;
    for (int64_t i = 0; i < a->value_width; i++)
        out[i] *= share;
}

static struct encoded encode_few(const struct dot_plan *p, const float *x, int64_t stride, int n,
                                 float *buffer)
{
    if (!p->encode)
        return (struct encoded){ (const uint8_t *)x, (size_t)stride * sizeof *x };
    struct encoded e = { (const uint8_t *)buffer, encoded_bytes(p->cols) };
    for (int i = 0; i < n; i++)
        p->encode(x + i * stride, (uint8_t *)buffer + (size_t)i * e.stride, p->cols);
    return e;
}

static int absorb_parts(const struct mla *m)
{
    return (m->rank + ABSORB_ROWS - 1) / ABSORB_ROWS;
}

/* Unit: some rows of k_b of one head: absorbed = k_b q_nope, with q_rope behind it. */
static void absorb_unit(const struct attention *a, int worker, int64_t unit)
{
    const struct mla *m = a->mla;
    const struct worker_scratch *s = &a->d->scratch[worker];
    int parts = absorb_parts(m), head = (int)(unit / parts);
    int first = (int)(unit % parts) * ABSORB_ROWS, last = min_of(first + ABSORB_ROWS, m->rank);
    const float *q = a->q.data + head * (m->nope + m->rope);
    float *to = a->absorbed + head * a->key_width;
    int64_t to_stride = a->n_heads * a->key_width;

    struct encoded act = encode_few(&a->absorb, q, a->q.stride, a->n_tokens, s->queries);
    const uint8_t *matrix = (const uint8_t *)m->k_b.data + (size_t)head * m->k_b.matrix_bytes;
    for (int r = first; r < last; r++) {
        float out[SPLIT_TOKENS];
        dot_row(&a->absorb, matrix + (size_t)r * m->k_b.row_bytes, act, a->n_tokens, s->row, out);
        for (int t = 0; t < a->n_tokens; t++)
            to[t * to_stride + r] = out[t];
    }
    for (int t = 0; first == 0 && t < a->n_tokens; t++)
        memcpy(to + t * to_stride + m->rank, q + t * a->q.stride + m->nope,
               (size_t)m->rope * sizeof *to);
}

/* Unit: one head. Merge its pieces; for MLA expand the latent result: dst = v_b z. */
static void merge_unit(const struct attention *a, int worker, int64_t unit)
{
    const struct worker_scratch *s = &a->d->scratch[worker];
    const struct mla *m = a->mla;
    int head = (int)unit;
    if (!m) {
        for (int t = 0; t < a->n_tokens; t++)
            merge(a, t, head, a->dst.data + t * a->dst.stride + head * a->value_width);
        return;
    }
    for (int t = 0; t < a->n_tokens; t++)
        merge(a, t, head, s->outputs + t * a->value_width);
    struct encoded act = encode_few(&a->expand, s->outputs, a->value_width, a->n_tokens,
                                    s->queries);
    const uint8_t *matrix = (const uint8_t *)m->v_b.data + (size_t)head * m->v_b.matrix_bytes;
    for (int r = 0; r < m->value; r++) {
        float out[SPLIT_TOKENS];
        dot_row(&a->expand, matrix + (size_t)r * m->v_b.row_bytes, act, a->n_tokens, s->row, out);
        for (int t = 0; t < a->n_tokens; t++)
            a->dst.data[t * a->dst.stride + (int64_t)head * m->value + r] = out[t];
    }
}

static void run_absorb(void *ctx, int64_t begin, int64_t end, int worker)
{
    for (int64_t unit = begin; unit < end; unit++)
        absorb_unit(ctx, worker, unit);
}

static void run_splits(void *ctx, int64_t begin, int64_t end, int worker)
{
    for (int64_t unit = begin; unit < end; unit++)
        split_unit(ctx, worker, unit);
}

static void run_merge(void *ctx, int64_t begin, int64_t end, int worker)
{
    for (int64_t unit = begin; unit < end; unit++)
        merge_unit(ctx, worker, unit);
}

/* Positions per piece for a token that sees n of them: whole blocks, and half of the most pieces or more
 * unless it is one block. */
static int64_t piece_length(int64_t n)
{
    int64_t length = KEY_BLOCK;
    while (n > length * (MAX_SPLITS / SPLIT_TOKENS))
        length *= 2;
    return length;
}

static void cut_pieces(struct attention *a, int64_t length)
{
    a->split = length;
    a->n_splits = (int)((a->n_positions + length - 1) / length);
    a->absorbed = a->d->absorbed;
    a->partial = a->d->partial;
    a->partial_tokens = a->n_tokens;
}

/* The n tokens from `first` on, as a step of their own. */
static struct attention some_tokens(const struct attention *a, int first, int n)
{
    struct attention some = *a;
    some.dst.data += first * a->dst.stride;
    some.q.data += first * a->q.stride;
    some.n_tokens = n;
    some.n_past += first;
    some.n_positions = some.n_past + n;
    return some;
}

/* Token t alone, in the room that it has among those of `a`. */
static struct attention one_token(const struct attention *a, int t)
{
    struct attention one = some_tokens(a, t, 1);
    one.absorbed += (int64_t)t * a->n_heads * a->key_width;
    one.partial += (int64_t)t * a->n_heads * (a->value_width + 2);
    return one;
}

static void absorb_all(struct attention *a)
{
    pool_run(a->d->pool, run_absorb, a, (int64_t)a->n_heads * absorb_parts(a->mla),
             grain_of((int64_t)ABSORB_ROWS * a->mla->nope));
}

static void attend_together(struct attention *a)
{
    pool_run(a->d->pool, run_splits, a,
             (int64_t)a->n_splits * a->n_sets * attention_tiles(a, split_rows(a)),
             grain_of(min_of(a->split, a->n_positions) * (a->key_width + a->value_width) *
                      min_of(split_rows(a), a->n_tokens * a->heads_per_set)));
}

static void attend_all(struct attention *a)
{
    if (a->bf16) {
        attend_together(a);
        return;
    }
    for (int t = 0; t < a->n_tokens && !step_cancelled(a->d); t++) {
        struct attention one = one_token(a, t);
        attend_together(&one);
    }
}

static void merge_all(struct attention *a)
{
    const struct mla *m = a->mla;
    int64_t merging = a->n_splits * a->value_width + (m ? (int64_t)m->value * m->rank : 0);
    pool_run(a->d->pool, run_merge, a, a->n_heads, grain_of(merging * a->n_tokens));
}

static void run_few(struct attention *a, int64_t length)
{
    cut_pieces(a, length);
    if (a->mla)
        absorb_all(a);
    attend_all(a);
    merge_all(a);
}

void attention_run_few(const struct attention *a)
{
    for (int first = 0, n; first < a->n_tokens; first += n) {
        int64_t sees = a->n_past + first + 1, length = piece_length(sees);
        for (n = 1; first + n < a->n_tokens && piece_length(sees + n) == length; n++) {
        }
        struct attention alike = some_tokens(a, first, n);
        run_few(&alike, length);
    }
}

/* ---- selected positions ---- */

/* Rows of the cache that one token selected, side by side as floats. */
struct gather_job {
    const struct attention *a;
    const int32_t *ids;
};

static void run_gather(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct gather_job *j = ctx;
    const struct attention *a = j->a;
    int64_t width = a->key_width;
    (void)worker;
    for (int64_t i = begin; i < end; i++) {
        float *to = a->d->selected_rows + i * width;
        int64_t at = j->ids[i] * a->key_stride;
        if (a->f16)
            a->d->kernels.decode[TYPE_F16]((const uint16_t *)(const void *)a->keys + at, to, width);
        else
            memcpy(to, (const float *)(const void *)a->keys + at, (size_t)width * sizeof *to);
    }
}

/* Token t of the tokens of `a`, whose first is token0 of the step. */
static void attend_selected(const struct attention *a, int token0, int t)
{
    const struct selection *s = &a->d->selection;
    int count = s->count[token0 + t];
    const int32_t *ids = s->ids + (int64_t)(token0 + t) * s->top_k;
    struct attention one = one_token(a, t);
    if (a->bf16) { /* reads rows where they lie */
        one.ids = ids;
    } else {
        struct gather_job job = { a, ids };
        pool_run(a->d->pool, run_gather, &job, count, grain_of(a->key_width));
        one.keys = one.values = (const char *)a->d->selected_rows;
        one.key_stride = one.value_stride = a->key_width;
        one.f16 = false;
        one.gathered = true;
    }
    one.n_positions = count;
    one.n_past = count - 1;
    attend_together(&one);
}

/* Up to SPLIT_TOKENS tokens, the first of which is token0 of the step. */
static void run_few_selected(struct attention *few, int token0)
{
    const int32_t *count = few->d->selection.count + token0;
    few->n_positions = 0;
    for (int t = 0; t < few->n_tokens; t++)
        few->n_positions = max_of(few->n_positions, (int64_t)count[t]);
    cut_pieces(few, piece_length(few->n_positions));
    absorb_all(few);
    for (int t = 0; t < few->n_tokens && !step_cancelled(few->d); t++)
        attend_selected(few, token0, t);
    merge_all(few);
}

void attention_run_selected(const struct attention *a)
{
    int64_t see_all = a->mla->n_selected - a->n_past; /* tokens that see no more than is selected */
    if (a->n_tokens > SPLIT_TOKENS && attention_bf16_selected_fits(a)) {
        attention_bf16_selected(a);
        return;
    }
    int first = 0;
    if (a->n_tokens <= SPLIT_TOKENS && see_all > 0) {
        first = (int)min_of(see_all, (int64_t)a->n_tokens);
        struct attention dense = some_tokens(a, 0, first);
        attention_run_few(&dense);
    }
    for (; first < a->n_tokens; first += SPLIT_TOKENS) {
        struct attention few = some_tokens(a, first, min_of(a->n_tokens - first, SPLIT_TOKENS));
        run_few_selected(&few, first);
    }
}
