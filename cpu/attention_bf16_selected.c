/* Latent attention of many tokens over positions that an indexer selected for each, on BF16 operands.
 * Every token has rows of its own, so what tokens share is the weights, and what shares rows is the
 * heads of a token. In chunks of SELECT_CHUNK tokens:
 *
 *   1  heads:   q [tokens, heads, width] = k_b q_nope, with q_rope behind it, scaled
 *   2  tokens:  the selected rows are laid out once, KEY_BLOCK at a time, for all heads
 *               z [tokens, heads, rank] = weighted latents
 *   3  heads:   dst = v_b z
 *
 * V3.2 behind 2048 positions, per token and layer: 2.4 MB of rows and 0.57 * 10^9 operations in step 2,
 * 0.03 * 10^9 in the others, which read 34 MB of floats' worth of weights once in a chunk. */
#include <string.h>

#include "cpu/attention_bf16.h"

struct chunk {
    const struct attention *a;
    const struct selection *s; /* count and ids of the chunk's first token on */
    struct rows dst, q;        /* from there too */
    int n_tokens;
};

static uint16_t *query_of(const struct attention *a, int64_t token, int head)
{
    return a->d->selected_q + (token * a->n_heads + head) * a->key_width;
}

static uint16_t *result_of(const struct attention *a, int64_t token, int head)
{
    return a->d->selected_z + (token * a->n_heads + head) * a->value_width;
}

static int whole(int n)
{
    return (int)align_up((size_t)n, SIDE);
}

/* Units: heads. */
static void run_absorb(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct chunk *c = ctx;
    const struct attention *a = c->a;
    const struct mla *m = a->mla;
    const struct kernels *k = &a->d->kernels;
    float factor = a->scale * LOG2_E;
    for (int64_t head = begin; head < end; head++) {
        struct room r = bf16_room(a, worker);
        struct bench b = bf16_bench(&r, a->key_width);
        uint32_t *k_b = bf16_take(&r, (int64_t)m->rank * m->nope / 2, sizeof *k_b);
        uint16_t *rows = (uint16_t *)(void *)b.words;
        bf16_turn_weight(a, &b, &m->k_b, (int)head, k_b);
        memset(rows, 0, (size_t)whole(c->n_tokens) * (size_t)m->nope * sizeof *rows);
        const float *q = c->q.data + head * (m->nope + m->rope);
        for (int t = 0; t < c->n_tokens; t++)
            k->bf16_round(q + t * c->q.stride, 1, rows + t * m->nope, m->nope);
        k->bf16_gemm(whole(c->n_tokens), m->rank, m->nope, rows, m->nope, k_b, m->rank, false,
                     b.floats, m->rank);
        for (int t = 0; t < c->n_tokens; t++) {
            uint16_t *to = query_of(a, t, (int)head);
            k->bf16_round(b.floats + t * m->rank, factor, to, m->rank);
            k->bf16_round(q + t * c->q.stride + m->nope, factor, to + m->rank, m->rope);
        }
    }
}

/* All heads of one token, as tiles that have seen nothing of `count` positions yet. */
static int load_heads(const struct attention *a, struct room *r, int64_t token, int count,
                      struct lanes *tiles)
{
    int n = 0;
    for (int head = 0; head < a->n_heads; head += LANES, n++) {
        struct lanes *l = &tiles[n];
        *l = bf16_lanes(r, min_of(a->n_heads - head, LANES), a->key_width, a->value_width);
        a->d->kernels.bf16_transpose((const uint32_t *)(const void *)query_of(a, token, head),
                                     a->key_width / 2, l->n, (int)a->key_width / 2, l->queries, LANES);
        for (int i = 0; i < l->used; i++)
            l->end[i] = count;
    }
    return n;
}

static void attend(const struct chunk *c, int worker, int64_t token)
{
    struct attention one = *c->a;
    struct lanes *tiles = one.d->scratch[worker].lanes;
    struct room r = bf16_room(&one, worker);
    struct bench b = bf16_bench(&r, one.key_width + DEPTH);
    uint16_t *turned = bf16_take(&r, LANES * KEY_BLOCK, sizeof *turned);
    uint16_t *keys = (uint16_t *)(void *)b.floats;
    one.ids = c->s->ids + token * c->s->top_k;
    one.n_positions = c->s->count[token];
    int n_tiles = load_heads(&one, &r, token, (int)one.n_positions, tiles);
    memset(keys + KEY_BLOCK * one.key_width, 0, DEPTH * sizeof *keys);
    for (int64_t p = 0; p < one.n_positions && !step_cancelled(one.d); p += KEY_BLOCK) {
        int rows = (int)align_up((size_t)min_of(one.n_positions - p, (int64_t)KEY_BLOCK), DEPTH);
        bf16_lay_block(&one, &b, 0, p, keys, b.words);
        for (int i = 0; i < n_tiles; i++)
            bf16_meet_rows(&one, &b, &tiles[i], keys, p, rows, turned);
    }
    for (int i = 0; i < n_tiles; i++)
        for (int h = 0; h < tiles[i].used; h++)
            one.d->kernels.bf16_round(tiles[i].out + h * one.value_width, 1 / tiles[i].sum[h],
                                      result_of(&one, token, i * LANES + h), one.value_width);
}

/* Units: tokens. */
static void run_attend(void *ctx, int64_t begin, int64_t end, int worker)
{
    for (int64_t token = begin; token < end; token++)
        attend(ctx, worker, token);
}

/* Units: heads. Rows behind the last token are products of what an earlier chunk left. */
static void run_expand(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct chunk *c = ctx;
    const struct attention *a = c->a;
    const struct mla *m = a->mla;
    for (int64_t head = begin; head < end; head++) {
        struct room r = bf16_room(a, worker);
        struct bench b = bf16_bench(&r, a->key_width);
        uint32_t *v_b = bf16_take(&r, (int64_t)m->rank * m->value / 2, sizeof *v_b);
        bf16_turn_weight(a, &b, &m->v_b, (int)head, v_b);
        a->d->kernels.bf16_gemm(whole(c->n_tokens), m->value, m->rank, result_of(a, 0, (int)head),
                                (int64_t)a->n_heads * m->rank, v_b, m->value, false, b.floats,
                                m->value);
        for (int t = 0; t < c->n_tokens; t++)
            memcpy(c->dst.data + t * c->dst.stride + head * m->value, b.floats + t * m->value,
                   (size_t)m->value * sizeof(float));
    }
}

bool attention_bf16_selected_fits(const struct attention *a)
{
    const struct mla *m = a->mla;
    return a->bf16 && a->d->selected_q && m->nope % DEPTH == 0 && a->key_width % DEPTH == 0 &&
           a->n_heads % SIDE == 0 && m->nope <= a->key_width && m->value <= a->key_width;
}

void attention_bf16_selected(const struct attention *a)
{
    struct selection s = a->d->selection;
    struct chunk c = { .a = a, .s = &s, .dst = a->dst, .q = a->q };
    for (int done = 0; done < a->n_tokens && !step_cancelled(a->d); done += c.n_tokens) {
        c.n_tokens = min_of(a->n_tokens - done, SELECT_CHUNK);
        pool_run(a->d->pool, run_absorb, &c, a->n_heads, 1);
        pool_run(a->d->pool, run_attend, &c, c.n_tokens, 1);
        pool_run(a->d->pool, run_expand, &c, a->n_heads, 1);
        c.dst.data += c.n_tokens * c.dst.stride;
        c.q.data += c.n_tokens * c.q.stride;
        s.count += c.n_tokens;
        s.ids += (int64_t)c.n_tokens * s.top_k;
    }
}
