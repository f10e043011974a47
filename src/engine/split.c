#include "src/engine/split.h"

#include <assert.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/util.h"

#define MAX_BUFFERS 32
#define TOGETHER SIZE_MAX /* no part of a block is apart */

enum side { CPU, GPU };

/* Memory on both sides, or in main memory up to `apart` and on the GPU from there on. */
struct block {
    char *ram, *vram; /* vram: of byte `apart`, or of byte 0 */
    size_t bytes, apart;
    bool mapped; /* ram is */
};

struct buffer {
    struct rows rows;
    enum side valid;
};

struct split {
    struct device base; /* first */
    struct split_options o;
    struct block *blocks;
    int n_blocks, max_blocks;
    size_t next_apart;
    struct buffer buffers[MAX_BUFFERS];
    int n_buffers;
    int n_tokens;
    enum side router, experts; /* where the last picks are, and who works on them */
    struct error failed;       /* the first since begin */
    struct kvcache cache;      /* for the GPU: one layer's addresses at a time */
};

static struct split *split(struct device *d)
{
    return (struct split *)d;
}

static struct device *device_of(const struct split *d, enum side side)
{
    return side == GPU ? d->o.gpu : d->o.cpu;
}

/* ---- memory ---- */

static struct block *block_of(const struct split *d, const void *data)
{
    for (int i = 0; i < d->n_blocks; i++) {
        struct block *b = &d->blocks[i];
        if ((const char *)data >= b->ram && (const char *)data < b->ram + b->bytes)
            return b;
    }
    return NULL;
}

static void *vram_of(const struct split *d, const void *data)
{
    const struct block *b = block_of(d, data);
    assert(b);
    size_t at = (size_t)((const char *)data - b->ram);
    return b->vram + (b->apart == TOGETHER ? at : at - b->apart);
}

static void free_block(struct split *d, struct block *b)
{
    if (b->mapped)
        mem_unmap(b->ram, b->bytes);
    else
        mem_free(b->ram);
    if (b->vram)
        d->o.gpu->ops->release(d->o.gpu, b->vram);
    *b = d->blocks[--d->n_blocks];
}

static bool grow(struct split *d, struct error *err)
{
    if (d->n_blocks < d->max_blocks)
        return true;
    size_t n = (size_t)d->max_blocks + 8;
    struct block *more = mem_resize(d->blocks, n, sizeof *more, "list of blocks", err);
    if (!more)
        return false;
    d->blocks = more;
    d->max_blocks = (int)n;
    return true;
}

/* Untouched pages of a mapping take no memory: main memory has addresses for all of a block that
 * lies apart, and pages for its own part. */
static void *split_alloc(struct device *dev, size_t bytes, const char *what, struct error *err)
{
    struct split *d = split(dev);
    size_t apart = d->next_apart;
    d->next_apart = TOGETHER;
    if (!grow(d, err))
        return NULL;
    struct block *b = &d->blocks[d->n_blocks];
    *b = (struct block){ .bytes = bytes, .apart = apart, .mapped = apart != TOGETHER };
    b->ram = b->mapped ? mem_map(max_of(bytes, (size_t)1), what, err)
                       : mem_alloc_aligned(1, max_of(bytes, (size_t)1), what, err);
    if (!b->ram)
        return NULL;
    d->n_blocks++;
    size_t on_gpu = apart == TOGETHER ? bytes : bytes - min_of(apart, bytes);
    if (on_gpu > 0 && !(b->vram = d->o.gpu->ops->alloc(d->o.gpu, on_gpu, what, err))) {
        free_block(d, b);
        return NULL;
    }
    return b->ram;
}

static void split_release(struct device *dev, void *data)
{
    struct block *b = data ? block_of(split(dev), data) : NULL;
    if (b)
        free_block(split(dev), b);
}

/* Caches are read and written between steps; what lies on both sides is scratch. A row may begin on
 * one side only. */
static bool split_write(struct device *dev, void *dst, const void *src, size_t bytes,
                        struct error *err)
{
    struct split *d = split(dev);
    const struct block *b = block_of(d, dst);
    size_t at = (size_t)((char *)dst - b->ram);
    if (b->apart != TOGETHER && at >= b->apart)
        return d->o.gpu->ops->write(d->o.gpu, vram_of(d, dst), src, bytes, err);
    return d->o.cpu->ops->write(d->o.cpu, dst, src, bytes, err);
}

static bool split_read(struct device *dev, void *dst, const void *src, size_t bytes,
                       struct error *err)
{
    struct split *d = split(dev);
    const struct block *b = block_of(d, src);
    size_t at = (size_t)((const char *)src - b->ram);
    if (b->apart != TOGETHER && at >= b->apart)
        return d->o.gpu->ops->read(d->o.gpu, dst, vram_of(d, src), bytes, err);
    return d->o.cpu->ops->read(d->o.cpu, dst, src, bytes, err);
}

void split_next_apart(struct device *d, size_t bytes)
{
    split(d)->next_apart = bytes;
}

/* ---- who has the valid copy ---- */

void split_watch(struct device *dev, const struct arch *arch, const struct activations *a)
{
    struct split *d = split(dev);
    d->n_buffers = 0;
    for (int i = 0; i < arch->n_buffers; i++) {
        const struct rows *r = (const struct rows *)((const char *)a + arch->buffers[i].offset);
        if (r->data && d->n_buffers < MAX_BUFFERS)
            d->buffers[d->n_buffers++] = (struct buffer){ *r, CPU };
    }
}

/* The buffer that r is, or some columns of. Buffers of different parts of a layer may lie at the same
 * place; what is true of one is then true of the other, the one that nobody uses. */
static struct buffer *buffer_of(struct split *d, struct rows r)
{
    for (int i = 0; i < d->n_buffers; i++) {
        struct rows *b = &d->buffers[i].rows;
        if (r.stride == b->stride && r.data >= b->data && r.data < b->data + b->stride)
            return &d->buffers[i];
    }
    assert(!"rows that were not announced");
    return NULL;
}

static struct rows on_side(const struct split *d, struct rows r, enum side side)
{
    if (side == GPU)
        r.data = vram_of(d, r.data);
    return r;
}

static void bring(struct split *d, struct buffer *b, enum side side)
{
    if (b->valid == side)
        return;
    struct device *gpu = d->o.gpu;
    size_t bytes = (size_t)d->n_tokens * (size_t)b->rows.stride * sizeof(float);
    void *ram = b->rows.data, *vram = vram_of(d, ram);
    if (side == GPU)
        gpu->ops->write(gpu, vram, ram, bytes, &d->failed);
    else
        gpu->ops->read(gpu, ram, vram, bytes, &d->failed);
    b->valid = side;
}

/* Rows that an operation on this side reads, and rows that it writes (all of, or columns of). */
static struct rows input(struct split *d, struct rows r, enum side side)
{
    bring(d, buffer_of(d, r), side);
    return on_side(d, r, side);
}

static struct rows output(struct split *d, struct rows r, enum side side)
{
    struct buffer *b = buffer_of(d, r);
    if (r.width < b->rows.width)
        bring(d, b, side);
    b->valid = side;
    return on_side(d, r, side);
}

static enum side valid_side(struct split *d, struct rows r)
{
    return buffer_of(d, r)->valid;
}

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

/* ---- the step ---- */

static void split_begin(struct device *dev, const struct step *s)
{
    struct split *d = split(dev);
    d->n_tokens = s->n_tokens;
    d->failed = (struct error){ 0 };
    d->o.cpu->ops->begin(d->o.cpu, s);
    d->o.gpu->ops->begin(d->o.gpu, s);
}

static bool split_end(struct device *dev, struct error *err)
{
    struct split *d = split(dev);
    bool ok = d->o.gpu->ops->end(d->o.gpu, err);
    ok = d->o.cpu->ops->end(d->o.cpu, err) && ok;
    if (ok && d->failed.code != ERR_NONE)
        return fail(err, d->failed.code, "%s", d->failed.text);
    return ok;
}

/* ---- operations ---- */

static void split_embed(struct device *dev, struct rows dst, const struct weight *w)
{
    struct split *d = split(dev);
    enum side side = in_vram(d, w) ? GPU : CPU;
    embed(device_of(d, side), output(d, dst, side), w);
}

static void split_rmsnorm(struct device *dev, struct rows dst, struct rows src,
                          const struct weight *weight, int n_groups, float eps)
{
    struct split *d = split(dev);
    enum side side = in_vram(d, weight) ? GPU : CPU;
    struct rows from = input(d, src, side);
    rmsnorm(device_of(d, side), output(d, dst, side), from, weight, n_groups, eps);
}

static void split_matmul(struct device *dev, struct rows dst, const struct weight *w,
                         struct rows src, const struct weight *bias)
{
    struct split *d = split(dev);
    enum side side = in_vram(d, w) && (!bias || !bias->data || in_vram(d, bias)) ? GPU : CPU;
    struct weight matrix = weight_on(d, w, side), vector = { 0 };
    struct rows from = input(d, src, side);
    if (bias)
        vector = weight_on(d, bias, side);
    matmul(device_of(d, side), output(d, dst, side), &matrix, from, bias ? &vector : NULL);
}

static void split_rope(struct device *dev, struct rows x, const struct rope *r, int n_heads,
                       int64_t head_stride, int64_t offset)
{
    struct split *d = split(dev);
    enum side side = valid_side(d, x);
    rope(device_of(d, side), on_side(d, x, side), r, n_heads, head_stride, offset);
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
    k[layer] = vram_of(d, c->k[layer]);
    v[layer] = c->v[layer] ? vram_of(d, c->v[layer]) : NULL;
    return &d->cache;
}

static void split_cache_gqa(struct device *dev, struct kvcache *c, int layer, struct rows k,
                            struct rows v)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct rows keys = input(d, k, side), values = input(d, v, side);
    cache_gqa(device_of(d, side), cache_on(d, c, layer, side), layer, keys, values);
}

static void split_cache_mla(struct device *dev, struct kvcache *c, int layer,
                            struct rows latent_rope)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct rows latents = input(d, latent_rope, side);
    cache_mla(device_of(d, side), cache_on(d, c, layer, side), layer, latents);
}

static void split_attention_gqa(struct device *dev, struct rows dst, struct rows q,
                                const struct kvcache *c, int layer, int n_heads, int n_kv_heads,
                                int head_dim, float scale)
{
    struct split *d = split(dev);
    enum side side = cache_side(d, layer);
    struct kvcache here = *c;
    struct rows queries = input(d, q, side);
    attention_gqa(device_of(d, side), output(d, dst, side), queries,
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
    struct rows queries = input(d, q, side);
    attention_mla(device_of(d, side), output(d, dst, side), queries,
                  cache_on(d, &here, layer, side), layer, &form);
}

static void split_swiglu(struct device *dev, struct rows dst, struct rows gate, struct rows up)
{
    struct split *d = split(dev);
    enum side side = valid_side(d, gate);
    struct rows g = input(d, gate, side), u = input(d, up, side);
    swiglu(device_of(d, side), output(d, dst, side), g, u);
}

static void split_router_topk(struct device *dev, const struct router *r, struct rows scores)
{
    struct split *d = split(dev);
    struct router here = *r;
    bool gpu = r->bias.data ? in_vram(d, &r->bias) : valid_side(d, scores) == GPU;
    d->router = gpu ? GPU : CPU;
    router_topk(device_of(d, d->router), &here, input(d, scores, d->router));
}

static void split_experts_begin(struct device *dev, const struct experts *e, struct rows src)
{
    struct split *d = split(dev);
    d->experts = d->router;
    experts_begin(device_of(d, d->experts), e, input(d, src, d->experts));
}

static void split_experts_end(struct device *dev, struct rows dst)
{
    struct split *d = split(dev);
    experts_end(device_of(d, d->experts), output(d, dst, d->experts));
}

static bool split_read_choice(struct device *dev, int32_t *ids, float *weights, struct error *err)
{
    struct device *d = device_of(split(dev), split(dev)->router);
    return d->ops->read_choice(d, ids, weights, err);
}

static void split_add(struct device *dev, struct rows dst, struct rows a, struct rows b)
{
    struct split *d = split(dev);
    enum side side = valid_side(d, a);
    struct rows x = input(d, a, side), y = input(d, b, side);
    add(device_of(d, side), output(d, dst, side), x, y);
}

static void split_add3(struct device *dev, struct rows dst, struct rows a, struct rows b,
                       struct rows c)
{
    struct split *d = split(dev);
    enum side side = valid_side(d, a);
    struct rows x = input(d, a, side), y = input(d, b, side), z = input(d, c, side);
    add3(device_of(d, side), output(d, dst, side), x, y, z);
}

static void split_copy(struct device *dev, struct rows dst, struct rows src)
{
    struct split *d = split(dev);
    enum side side = valid_side(d, src);
    struct rows from = input(d, src, side);
    device_of(d, side)->ops->copy(device_of(d, side), output(d, dst, side), from);
}

static void split_logits(struct device *dev, const struct weight *w, struct rows src)
{
    struct split *d = split(dev);
    enum side side = in_vram(d, w) ? GPU : CPU;
    logits(device_of(d, side), w, input(d, src, side));
}

/* ---- open and close ---- */

static void split_close(struct device *dev)
{
    struct split *d = split(dev);
    if (!d)
        return;
    while (d->n_blocks > 0)
        free_block(d, &d->blocks[0]);
    mem_free(d->blocks);
    mem_free(d->cache.k);
    mem_free(d);
}

static const struct device_ops split_ops = {
    .name = "split",
    .alloc = split_alloc,
    .release = split_release,
    .write = split_write,
    .read = split_read,
    .begin = split_begin,
    .end = split_end,
    .embed = split_embed,
    .rmsnorm = split_rmsnorm,
    .matmul = split_matmul,
    .rope = split_rope,
    .cache_gqa = split_cache_gqa,
    .cache_mla = split_cache_mla,
    .attention_gqa = split_attention_gqa,
    .attention_mla = split_attention_mla,
    .swiglu = split_swiglu,
    .router_topk = split_router_topk,
    .experts_begin = split_experts_begin,
    .experts_end = split_experts_end,
    .read_choice = split_read_choice,
    .add = split_add,
    .add3 = split_add3,
    .copy = split_copy,
    .logits = split_logits,
    .close = split_close,
};

bool split_open(struct device **out, const struct split_options *o, struct error *err)
{
    *out = NULL;
    struct split *d = mem_alloc(1, sizeof *d, "split device", err);
    if (!d)
        return false;
    d->base.ops = &split_ops;
    d->o = *o;
    d->next_apart = TOGETHER;
    d->cache.k = mem_alloc((size_t)o->n_layers * 2, sizeof *d->cache.k, "cache table", err);
    if (!d->cache.k) {
        split_close(&d->base);
        return false;
    }
    d->cache.v = d->cache.k + o->n_layers;
    *out = &d->base;
    return true;
}
