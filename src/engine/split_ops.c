#include "src/engine/split_internal.h"

/* ---- weights ---- */

static bool in_vram(const struct split *d, const struct weight *w)
{
    return card_weights_hold(d->o.weights, w->data);
}

/* On the CPU's side a weight of the GPU serves from main memory. */
static struct weight weight_on(const struct split *d, const struct weight *w, enum side side)
{
    struct weight here = *w;
    if (side == CPU && w->data && in_vram(d, w))
        here.data = card_weights_host(d->o.weights, w->data);
    return here;
}

/* ---- operations ---- */

static void split_embed(struct device *dev, struct rows dst, const struct weight *w)
{
    struct split *d = split(dev);
    enum side side = in_vram(d, w) ? GPU : CPU;
    embed(device_of(d, side), split_output(d, dst, side), w);
}

static void split_rmsnorm(struct device *dev, struct rows dst, struct rows src,
                          const struct weight *weight, int n_groups, float eps)
{
    struct split *d = split(dev);
    enum side side = in_vram(d, weight) ? GPU : CPU;
    struct rows from = split_input(d, src, side);
    rmsnorm(device_of(d, side), split_output(d, dst, side), from, weight, n_groups, eps);
}

static void split_matmul(struct device *dev, struct rows dst, const struct weight *w,
                         struct rows src, const struct weight *bias)
{
    struct split *d = split(dev);
    enum side side = in_vram(d, w) && (!bias || !bias->data || in_vram(d, bias)) ? GPU : CPU;
    struct weight matrix = weight_on(d, w, side), vector = { 0 };
    struct rows from = split_input(d, src, side);
    if (bias)
        vector = weight_on(d, bias, side);
    matmul(device_of(d, side), split_output(d, dst, side), &matrix, from, bias ? &vector : NULL);
}

static void split_rope(struct device *dev, struct rows x, const struct rope *r, int n_heads,
                       int64_t head_stride, int64_t offset)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, x);
    rope(device_of(d, side), split_rows(d, x, side), r, n_heads, head_stride, offset);
}

static enum side cache_side(const struct split *d, int layer)
{
    return layer >= d->o.first_gpu_layer ? GPU : CPU;
}

/* The cache with this layer's addresses of that side. */
static struct kvcache *cache_on(struct split *d, struct kvcache *c, int layer, enum side side)
{
    if (side == CPU)
        return c;
    void **k = d->cache.k, **v = d->cache.v;
    d->cache = *c;
    d->cache.k = k;
    d->cache.v = v;
    k[layer] = split_vram(d, c->k[layer]);
    v[layer] = c->v[layer] ? split_vram(d, c->v[layer]) : NULL;
    return &d->cache;
}

static void split_cache_gqa(struct device *dev, struct kvcache *c, int layer, struct rows k,
                            struct rows v)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct rows keys = split_input(d, k, side), values = split_input(d, v, side);
    cache_gqa(device_of(d, side), cache_on(d, c, layer, side), layer, keys, values);
}

static void split_cache_mla(struct device *dev, struct kvcache *c, int layer,
                            struct rows latent_rope)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct rows latents = split_input(d, latent_rope, side);
    cache_mla(device_of(d, side), cache_on(d, c, layer, side), layer, latents);
}

static void split_attention_gqa(struct device *dev, struct rows dst, struct rows q,
                                const struct kvcache *c, int layer, int n_heads, int n_kv_heads,
                                int head_dim, float scale)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct kvcache here = *c;
    struct rows queries = split_input(d, q, side);
    attention_gqa(device_of(d, side), split_output(d, dst, side), queries,
                  cache_on(d, &here, layer, side), layer, n_heads, n_kv_heads, head_dim, scale);
}

static void split_attention_mla(struct device *dev, struct rows dst, struct rows q,
                                const struct kvcache *c, int layer, const struct mla *m)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct kvcache here = *c;
    struct mla form = *m;
    form.k_b = weight_on(d, &m->k_b, side);
    form.v_b = weight_on(d, &m->v_b, side);
    struct rows queries = split_input(d, q, side);
    attention_mla(device_of(d, side), split_output(d, dst, side), queries,
                  cache_on(d, &here, layer, side), layer, &form);
}

static void split_swiglu(struct device *dev, struct rows dst, struct rows gate, struct rows up)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, gate);
    struct rows g = split_input(d, gate, side), u = split_input(d, up, side);
    swiglu(device_of(d, side), split_output(d, dst, side), g, u);
}

static void split_router_topk(struct device *dev, const struct router *r, struct rows scores)
{
    struct split *d = split(dev);
    struct router here = *r;
    bool gpu = r->bias.data ? in_vram(d, &r->bias) : split_valid(d, scores) == GPU;
    d->router = gpu ? GPU : CPU;
    router_topk(device_of(d, d->router), &here, split_input(d, scores, d->router));
}

static void split_experts_begin(struct device *dev, const struct experts *e, struct rows src)
{
    struct split *d = split(dev);
    d->experts = d->router;
    experts_begin(device_of(d, d->experts), e, split_input(d, src, d->experts));
}

static void split_experts_end(struct device *dev, struct rows dst)
{
    struct split *d = split(dev);
    experts_end(device_of(d, d->experts), split_output(d, dst, d->experts));
}

static bool split_read_choice(struct device *dev, int32_t *ids, float *weights, struct error *err)
{
    struct device *d = device_of(split(dev), split(dev)->router);
    return d->ops->read_choice(d, ids, weights, err);
}

static void split_add(struct device *dev, struct rows dst, struct rows a, struct rows b)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, a);
    struct rows x = split_input(d, a, side), y = split_input(d, b, side);
    add(device_of(d, side), split_output(d, dst, side), x, y);
}

static void split_add3(struct device *dev, struct rows dst, struct rows a, struct rows b,
                       struct rows c)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, a);
    struct rows x = split_input(d, a, side), y = split_input(d, b, side), z = split_input(d, c, side);
    add3(device_of(d, side), split_output(d, dst, side), x, y, z);
}

static void split_copy(struct device *dev, struct rows dst, struct rows src)
{
    struct split *d = split(dev);
    enum side side = split_valid(d, src);
    struct rows from = split_input(d, src, side);
    device_of(d, side)->ops->copy(device_of(d, side), split_output(d, dst, side), from);
}

static void split_logits(struct device *dev, const struct weight *w, struct rows src)
{
    struct split *d = split(dev);
    enum side side = in_vram(d, w) ? GPU : CPU;
    logits(device_of(d, side), w, split_input(d, src, side));
}

void split_operations(struct device_ops *ops)
{
    ops->embed = split_embed;
    ops->rmsnorm = split_rmsnorm;
    ops->matmul = split_matmul;
    ops->rope = split_rope;
    ops->cache_gqa = split_cache_gqa;
    ops->cache_mla = split_cache_mla;
    ops->attention_gqa = split_attention_gqa;
    ops->attention_mla = split_attention_mla;
    ops->swiglu = split_swiglu;
    ops->router_topk = split_router_topk;
    ops->experts_begin = split_experts_begin;
    ops->experts_end = split_experts_end;
    ops->read_choice = split_read_choice;
    ops->add = split_add;
    ops->add3 = split_add3;
    ops->copy = split_copy;
    ops->logits = split_logits;
}
