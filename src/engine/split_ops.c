#include <assert.h>

#include "src/engine/split_internal.h"

/* ---- weights ---- */

static bool in_vram(const struct split *d, const struct weight *w)
{
    return card_weights_hold(d->o.weights, w->data);
}

/* The side of two weights that go together; either may be absent, then `other` decides. */
static enum side side_of(const struct split *d, const struct weight *a, const struct weight *b,
                         enum side other)
{
    if (!a->data && !b->data)
        return other;
    return (!a->data || in_vram(d, a)) && (!b->data || in_vram(d, b)) ? GPU : CPU;
}

/* On the CPU's side a weight of the GPU serves from main memory. The other way round there is none:
 * the placement does not let that happen. */
static struct weight weight_on(const struct split *d, const struct weight *w, enum side side)
{
    struct weight here = *w;
    assert(side == CPU || !w->data || in_vram(d, w));
    if (side == CPU && w->data && in_vram(d, w))
        here.data = card_weights_host(d->o.weights, w->data);
    return here;
}

/* ---- operations ---- */

/* Who runs an operation on this side (NULL: nobody now, see split_device). The rows that it reads are
 * brought there, those that it writes count as that side's, and all become that side's; NULL: it has
 * no such rows. */
static struct device *bring(struct split *d, enum side side, struct rows *dst, struct rows *src,
                            struct rows *more)
{
    if (src)
        *src = split_input(d, *src, side);
    if (more)
        *more = split_input(d, *more, side);
    if (dst)
        *dst = split_output(d, *dst, side);
    return split_device(d, side);
}

static void split_embed(struct device *dev, struct rows dst, const struct weight *w)
{
    struct split *d = split(dev);
    enum side side = in_vram(d, w) ? GPU : CPU;
    struct device *on = bring(d, side, &dst, NULL, NULL);
    if (on)
        embed(on, dst, w);
}

static void split_rmsnorm(struct device *dev, struct rows dst, struct rows src,
                          const struct weight *weight, int n_groups, float eps)
{
    struct split *d = split(dev);
    enum side side = side_of(d, weight, weight, split_valid(d, src));
    struct device *on = bring(d, side, &dst, &src, NULL);
    if (on)
        rmsnorm(on, dst, src, weight, n_groups, eps);
}

static void split_layernorm(struct device *dev, struct rows dst, struct rows src,
                            const struct weight *weight, const struct weight *bias, float eps)
{
    struct split *d = split(dev);
    enum side side = side_of(d, weight, bias, CPU);
    struct weight factor = weight_on(d, weight, side), summand = weight_on(d, bias, side);
    struct device *on = bring(d, side, &dst, &src, NULL);
    if (on)
        layernorm(on, dst, src, &factor, &summand, eps);
}

static void split_matmul(struct device *dev, struct rows dst, const struct weight *w,
                         struct rows src, const struct weight *bias)
{
    struct split *d = split(dev);
    enum side side = side_of(d, w, bias ? bias : w, CPU);
    struct weight matrix = weight_on(d, w, side), vector = { 0 };
    if (bias)
        vector = weight_on(d, bias, side);
    struct device *on = bring(d, side, &dst, &src, NULL);
    if (on)
        matmul(on, dst, &matrix, src, bias ? &vector : NULL);
}

static void split_rope(struct device *dev, struct rows x, const struct rope *r, int n_heads,
                       int64_t head_stride, int64_t offset)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, x);
    struct device *on = split_device(d, side);
    if (on)
        rope(on, split_rows(d, x, side), r, n_heads, head_stride, offset);
}

/* ---- the cache, and attention ---- */

static enum side cache_side(const struct split *d, int layer)
{
    return layer >= d->o.first_gpu_layer ? GPU : CPU;
}

static void *part_vram(const struct split *d, const void *data)
{
    return data ? split_vram(d, data) : NULL;
}

/* The cache with this layer's addresses of that side; until the next call. */
static struct kvcache *cache_on(struct split *d, const struct kvcache *c, int layer, enum side side)
{
    d->cache = *c;
    if (side == CPU)
        return &d->cache;
    const struct kv_sparse *s = &c->sparse[layer];
    d->cache.k = d->k;
    d->cache.v = d->v;
    d->cache.sparse = d->sparse;
    d->k[layer] = part_vram(d, c->k[layer]);
    d->v[layer] = part_vram(d, c->v[layer]);
    d->sparse[layer] = (struct kv_sparse){
        .index = part_vram(d, s->index), .window = part_vram(d, s->window),
        .blocks = part_vram(d, s->blocks), .state = part_vram(d, s->state),
        .index_state = part_vram(d, s->index_state),
        .n_window = s->n_window, .n_state = s->n_state,
    };
    return &d->cache;
}

static void split_cache_gqa(struct device *dev, struct kvcache *c, int layer, struct rows k,
                            struct rows v)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct device *on = bring(d, side, NULL, &k, &v);
    if (on)
        cache_gqa(on, cache_on(d, c, layer, side), layer, k, v);
}

static void split_cache_mla(struct device *dev, struct kvcache *c, int layer,
                            struct rows latent_rope)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct device *on = bring(d, side, NULL, &latent_rope, NULL);
    if (on)
        cache_mla(on, cache_on(d, c, layer, side), layer, latent_rope);
}

static void split_attention_gqa(struct device *dev, struct rows dst, struct rows q,
                                const struct kvcache *c, int layer, int n_heads, int n_kv_heads,
                                int head_dim, float scale)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct device *on = bring(d, side, &dst, &q, NULL);
    if (on)
        attention_gqa(on, dst, q, cache_on(d, c, layer, side), layer, n_heads, n_kv_heads, head_dim,
                      scale);
}

static void split_attention_mla(struct device *dev, struct rows dst, struct rows q,
                                const struct kvcache *c, int layer, const struct mla *m)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct mla form = *m;
    form.k_b = weight_on(d, &m->k_b, side);
    form.v_b = weight_on(d, &m->v_b, side);
    struct device *on = bring(d, side, &dst, &q, NULL);
    if (on)
        attention_mla(on, dst, q, cache_on(d, c, layer, side), layer, &form);
}

static void split_cache_index(struct device *dev, struct kvcache *c, int layer, struct rows keys)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct device *on = bring(d, side, NULL, &keys, NULL);
    if (on)
        cache_index(on, cache_on(d, c, layer, side), layer, keys);
}

/* What it selects stays with the side that attends to it. */
static void split_indexer_topk(struct device *dev, struct rows queries, struct rows weights,
                               const struct kvcache *c, int layer, const struct indexer *x)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct device *on = bring(d, side, NULL, &queries, &weights);
    if (on)
        indexer_topk(on, queries, weights, cache_on(d, c, layer, side), layer, x);
}

static void split_compress(struct device *dev, struct kvcache *c, int layer, struct rows values,
                           struct rows scores, const struct compressor *k)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct compressor form = *k;
    form.ape = weight_on(d, &k->ape, side);
    form.norm = weight_on(d, &k->norm, side);
    struct device *on = bring(d, side, NULL, &values, &scores);
    if (on)
        compress(on, cache_on(d, c, layer, side), layer, values, scores, &form);
}

static void split_attention_window(struct device *dev, struct rows dst, struct rows q,
                                   struct rows row, struct kvcache *c, int layer,
                                   const struct window_attention *a)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct window_attention form = *a;
    form.sinks = weight_on(d, &a->sinks, side);
    struct device *on = bring(d, side, &dst, &q, &row);
    if (on)
        attention_window(on, dst, q, row, cache_on(d, c, layer, side), layer, &form);
}

/* ---- between attention and experts ---- */

static void split_swiglu(struct device *dev, struct rows dst, struct rows gate, struct rows up)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, gate);
    struct device *on = bring(d, side, &dst, &gate, &up);
    if (on)
        swiglu(on, dst, gate, up);
}

static void split_clamp(struct device *dev, struct rows x, float low, float high)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, x);
    struct device *on = split_device(d, side);
    if (on)
        clamp(on, split_rows(d, x, side), low, high);
}

static void split_hyper_mix(struct device *dev, struct rows dst, struct rows mix,
                            struct rows hidden, const struct hyper *h)
{
    struct split *d = split(dev);
    enum side side = side_of(d, &h->scale, &h->base, CPU);
    struct hyper form = *h;
    form.scale = weight_on(d, &h->scale, side);
    form.base = weight_on(d, &h->base, side);
    struct device *on = bring(d, side, &dst, &mix, &hidden);
    if (on)
        hyper_mix(on, dst, mix, hidden, &form);
}

static void split_hyper_join(struct device *dev, struct rows hidden, struct rows mix,
                             struct rows out)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, hidden);
    struct device *on = bring(d, side, NULL, &mix, &out);
    if (on)
        hyper_join(on, split_rows(d, hidden, side), mix, out);
}

/* ---- experts ---- */

static void split_router_topk(struct device *dev, const struct router *r, struct rows scores)
{
    struct split *d = split(dev);
    struct router here = *r;
    d->router = side_of(d, &r->bias, &r->table, split_valid(d, scores));
    here.bias = weight_on(d, &r->bias, d->router);
    here.table = weight_on(d, &r->table, d->router);
    struct device *on = bring(d, d->router, NULL, &scores, NULL);
    if (on)
        router_topk(on, &here, scores);
}

static void split_experts_begin(struct device *dev, const struct experts *e, struct rows src)
{
    struct split *d = split(dev);
    d->experts = d->router;
    assert(d->experts == GPU || !in_vram(d, &e->down));
    struct device *on = bring(d, d->experts, NULL, &src, NULL);
    if (on)
        experts_begin(on, e, src);
}

static void split_experts_end(struct device *dev, struct rows dst)
{
    struct split *d = split(dev);
    struct device *on = bring(d, d->experts, &dst, NULL, NULL);
    if (on)
        experts_end(on, dst);
}

static bool split_read_choice(struct device *dev, int32_t *ids, float *weights, struct error *err)
{
    struct device *d = device_of(split(dev), split(dev)->router);
    return d->ops->read_choice(d, ids, weights, err);
}

/* ---- sums, copies, the head ---- */

static void split_add(struct device *dev, struct rows dst, struct rows a, struct rows b)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, a);
    struct device *on = bring(d, side, &dst, &a, &b);
    if (on)
        add(on, dst, a, b);
}

static void split_add3(struct device *dev, struct rows dst, struct rows a, struct rows b,
                       struct rows c)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, a);
    c = split_input(d, c, side);
    struct device *on = bring(d, side, &dst, &a, &b);
    if (on)
        add3(on, dst, a, b, c);
}

/* What somebody wants dst keep in main memory is copied there by the CPU. */
static void split_copy(struct device *dev, struct rows dst, struct rows src)
{
    struct split *d = split(dev);
    bool ours = split_is_ours(d, dst);
    enum side side = ours ? split_valid(d, src) : CPU;
    struct device *on = bring(d, side, ours ? &dst : NULL, &src, NULL);
    if (on)
        on->ops->copy(on, dst, src);
}

static void split_logits(struct device *dev, const struct weight *w, struct rows src)
{
    struct split *d = split(dev);
    enum side side = in_vram(d, w) ? GPU : CPU;
    struct device *on = bring(d, side, NULL, &src, NULL);
    if (on)
        logits(on, w, src);
}

void split_operations(struct device_ops *ops)
{
    ops->embed = split_embed;
    ops->rmsnorm = split_rmsnorm;
    ops->layernorm = split_layernorm;
    ops->matmul = split_matmul;
    ops->rope = split_rope;
    ops->cache_gqa = split_cache_gqa;
    ops->cache_mla = split_cache_mla;
    ops->attention_gqa = split_attention_gqa;
    ops->attention_mla = split_attention_mla;
    ops->cache_index = split_cache_index;
    ops->indexer_topk = split_indexer_topk;
    ops->compress = split_compress;
    ops->attention_window = split_attention_window;
    ops->swiglu = split_swiglu;
    ops->clamp = split_clamp;
    ops->hyper_mix = split_hyper_mix;
    ops->hyper_join = split_hyper_join;
    ops->router_topk = split_router_topk;
    ops->experts_begin = split_experts_begin;
    ops->experts_end = split_experts_end;
    ops->read_choice = split_read_choice;
    ops->add = split_add;
    ops->add3 = split_add3;
    ops->copy = split_copy;
    ops->logits = split_logits;
}
