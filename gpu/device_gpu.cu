/* src/device.h on one card: memory, each operation as its launcher, opening and closing.
 *
 * What goes to or comes from memory of others passes through a pinned piece of the size of `logits`:
 * a copy of memory that is not pinned may wait for the card, without an end should that hang. */
#include "gpu/device.cuh"

#define ALIGNMENT ((size_t)256)
#define LOGITS_BYTES ((size_t)16 << 20)
#define RECORD_NODES 40                /* launches per layer, at most about so many ... */
#define RECORD_NODE_BYTES ((size_t)2048) /* ... each with its arguments, in device memory */
#define MIN_PIECE ((size_t)64 << 10) /* of what passes through pinned memory */

/* From so many queries on, expanding the latents costs less than working on them: 512 * 256 / 768 by
 * count of operations for V3's shape, and the expanded form runs on tensor cores throughout. */
#define MLA_DECOMPRESS_TOKENS 128

/* ---- memory ---- */

static size_t piece_bytes(const struct gpu_device *d)
{
    size_t bytes = (size_t)d->logits_rows * (size_t)d->options.n_vocab * sizeof(float);
    return bytes > MIN_PIECE ? bytes : MIN_PIECE;
}

static void *device_alloc(struct device *d, size_t bytes, const char *what, struct error *err)
{
    struct gpu_stream *s = gpu(d)->s;
    void *block = gpu_alloc(s, bytes, what, err);
    if (!block)
        return NULL;
    gpu_fill(s, block, 0, bytes);
    if (gpu_finish(s, err))
        return block;
    gpu_release(s, block);
    return NULL;
}

static void device_release(struct device *d, void *block)
{
    gpu_release(gpu(d)->s, block);
}

/* In the middle of a step too, where two devices share it: what waits goes first, and bytes made of
 * rows are not theirs any more. */
static bool device_write(struct device *d, void *dst, const void *src, size_t bytes,
                         struct error *err)
{
    size_t most = piece_bytes(gpu(d));
    fuse_settle(gpu(d)->s);
    q8_forget_all(gpu(d)->s);
    for (size_t done = 0, n; done < bytes; done += n) {
        n = bytes - done < most ? bytes - done : most;
        memcpy(gpu(d)->host_piece, (const char *)src + done, n);
        gpu_write(gpu(d)->s, (char *)dst + done, gpu(d)->host_piece, n);
        if (!gpu_finish(gpu(d)->s, err))
            return false;
    }
    return true;
}

static bool device_read(struct device *d, void *dst, const void *src, size_t bytes,
                        struct error *err)
{
    size_t most = piece_bytes(gpu(d));
    fuse_settle(gpu(d)->s);
    for (size_t done = 0, n; done < bytes; done += n) {
        n = bytes - done < most ? bytes - done : most;
        gpu_read(gpu(d)->s, gpu(d)->host_piece, (const char *)src + done, n);
        if (!gpu_finish(gpu(d)->s, err))
            return false;
        memcpy((char *)dst + done, gpu(d)->host_piece, n);
    }
    return true;
}

/* ---- operations ----
 * Some wait for the next one (gpu/fuse.cuh); all others queue what waits first. */

/* The queue, for an operation that writes these rows. */
static struct gpu_stream *writing(struct device *d, struct rows dst)
{
    return fuse_before(gpu(d)->s, dst, n_tokens(d));
}

static void device_embed(struct device *d, struct rows dst, const struct weight *w)
{
    const struct gpu_partner *p = &gpu(d)->options.partner;
    writing(d, dst);
    if (!p->embed || !p->embed(p->ctx, dst, w, n_tokens(d)))
        gpu_embed(gpu(d)->s, dst, w, tokens_behind(gpu(d)->state), n_tokens(d));
}

static void device_rmsnorm(struct device *d, struct rows dst, struct rows src,
                           const struct weight *weight, int n_groups, float eps)
{
    fuse_rmsnorm(gpu(d)->s, dst, src, (const float *)weight->data, weight->cols, n_groups, eps,
                 n_tokens(d));
}

static void device_layernorm(struct device *d, struct rows dst, struct rows src,
                             const struct weight *weight, const struct weight *bias, float eps)
{
    gpu_layernorm(writing(d, dst), dst, src, (const float *)weight->data, (const float *)bias->data,
                  weight->cols, eps, n_tokens(d));
}

static void device_matmul(struct device *d, struct rows dst, const struct weight *w,
                          struct rows src, const struct weight *bias)
{
    fuse_matmul(gpu(d)->s, dst, w, src, bias ? (const float *)bias->data : NULL, n_tokens(d));
}

static int64_t rope_pairs(const struct gpu_device *d)
{
    return (d->options.limits.head_width + 1) / 2;
}

/* The place of a rope, new ones get a free one. Should there be more ropes than places, the first is
 * given away, behind a wait: its frequencies may be on their way yet. */
static struct angles *place_of(struct gpu_device *d, const struct rope *r)
{
    int i = 0;
    while (i < N_ROPES && d->angles[i].rope && d->angles[i].rope != r)
        i++;
    if (i == N_ROPES) {
        device_finish(d, &d->early);
        d->angles[i = 0].rope = NULL;
    }
    struct angles *a = &d->angles[i];
    if (a->rope != r) {
        size_t bytes = (size_t)(r->n_rot / 2) * sizeof(double);
        double *from = d->host_frequency + i * rope_pairs(d);
        memcpy(from, r->frequency, bytes);
        gpu_write(d->s, a->frequency, from, bytes);
        a->rope = r;
        a->step = 0;
    }
    return a;
}

/* Angles once per step: all layers share them. */
static void device_rope(struct device *dev, struct rows x, const struct rope *r, int n_heads,
                        int64_t head_stride, int64_t offset)
{
    struct gpu_device *d = gpu(dev);
    int n_pairs = r->n_rot / 2, n = d->step.n_tokens;
    assert(r->n_rot <= d->options.limits.head_width);
    writing(dev, x);
    struct angles *a = place_of(d, r);
    if (a->step != d->n_steps)
        gpu_rope_angles(d->s, a->cosine, a->sine, a->frequency, n_pairs, r->magnitude, d->state, n);
    a->step = d->n_steps;
    gpu_rope(d->s, x, a->cosine, a->sine, n_pairs, r->pairing, n_heads, head_stride, offset, n);
}

static void device_cache_gqa(struct device *dev, struct kvcache *c, int layer, struct rows k,
                             struct rows v)
{
    struct gpu_device *d = gpu(dev);
    assert(k.width == c->k_width && v.width == c->v_width);
    fuse_settle(d->s);
    gpu_cache_store(d->s, c->k[layer], c->type, k, d->state, n_tokens(dev));
    gpu_cache_store(d->s, c->v[layer], c->type, v, d->state, n_tokens(dev));
}

static void device_cache_mla(struct device *dev, struct kvcache *c, int layer,
                             struct rows latent_rope)
{
    struct gpu_device *d = gpu(dev);
    assert(latent_rope.width == c->k_width);
    fuse_settle(d->s);
    gpu_cache_store(d->s, c->k[layer], c->type, latent_rope, d->state, n_tokens(dev));
}

static void device_cache_index(struct device *dev, struct kvcache *c, int layer, struct rows keys)
{
    struct gpu_device *d = gpu(dev);
    fuse_settle(d->s);
    gpu_index_store(d->s, &c->sparse[layer], keys, d->state, n_tokens(dev));
}

static void device_attention_gqa(struct device *dev, struct rows dst, struct rows q,
                                 const struct kvcache *c, int layer, int n_heads, int n_kv_heads,
                                 int head_dim, float scale)
{
    struct gpu_device *d = gpu(dev);
    writing(dev, dst);
    device_keep_pace(d);
    gpu_attention_gqa(d->s, dst, q, c->k[layer], c->v[layer], c->type, n_heads, n_kv_heads,
                      head_dim, scale, d->state, d->kv_bound, n_tokens(dev));
}

static void device_attention_mla(struct device *dev, struct rows dst, struct rows q,
                                 const struct kvcache *c, int layer, const struct mla *m)
{
    struct gpu_device *d = gpu(dev);
    enum mla_form form = d->step.mla_form;
    writing(dev, dst);
    device_keep_pace(d);
    if (m->n_selected > 0 && d->kv_bound > m->n_selected) {
        assert(d->index_top_k == m->n_selected);
        gpu_mla_selected(d->s, dst, q, c->k[layer], c->type, m, d->selected, d->n_selected,
                         d->state, d->kv_bound, n_tokens(dev));
        return;
    }
    if (form == MLA_AUTO)
        form = n_tokens(dev) < MLA_DECOMPRESS_TOKENS ? MLA_ABSORBED : MLA_DECOMPRESSED;
    if (form == MLA_ABSORBED)
        gpu_mla_absorbed(d->s, dst, q, c->k[layer], c->type, m, d->state, d->kv_bound,
                         n_tokens(dev));
    else
        gpu_mla_decompressed(d->s, dst, q, c->k[layer], c->type, m, d->state, d->kv_bound,
                             n_tokens(dev));
}

static void device_swiglu(struct device *d, struct rows dst, struct rows gate, struct rows up)
{
    fuse_swiglu(gpu(d)->s, dst, gate, up, n_tokens(d));
}

static void device_clamp(struct device *d, struct rows x, float low, float high)
{
    gpu_clamp(writing(d, x), x, low, high, n_tokens(d));
}

static void device_add(struct device *d, struct rows dst, struct rows a, struct rows b)
{
    fuse_add3(gpu(d)->s, dst, a, b, { NULL, 0, 0 }, n_tokens(d));
}

static void device_add3(struct device *d, struct rows dst, struct rows a, struct rows b,
                        struct rows c)
{
    fuse_add3(gpu(d)->s, dst, a, b, c, n_tokens(d));
}

static void device_copy(struct device *d, struct rows dst, struct rows src)
{
    gpu_copy(writing(d, dst), dst, src, n_tokens(d));
}

/* ---- hyper-connections, blocks, the indexer ---- */

static void device_hyper_mix(struct device *d, struct rows dst, struct rows mix,
                             struct rows hidden, const struct hyper *h)
{
    writing(d, mix);
    gpu_hyper_mix(writing(d, dst), dst, mix, hidden, h, n_tokens(d));
}

static void device_hyper_join(struct device *d, struct rows hidden, struct rows mix,
                              struct rows out)
{
    gpu_hyper_join(writing(d, hidden), hidden, mix, out, n_tokens(d));
}

static void device_compress(struct device *dev, struct kvcache *c, int layer, struct rows values,
                            struct rows scores, const struct compressor *k)
{
    struct gpu_device *d = gpu(dev);
    const struct kv_sparse *s = &c->sparse[layer];
    fuse_settle(d->s);
    gpu_compress(d->s, k->of_index ? s->index : s->blocks, k->of_index ? s->index_scale : NULL, c->type,
                 k->of_index ? s->index_state : s->state, s->n_state, values, scores, k,
                 place_of(d, k->rope)->frequency, d->state, n_tokens(dev));
}

static void device_indexer_topk(struct device *dev, struct rows queries, struct rows weights,
                                const struct kvcache *c, int layer, const struct indexer *x)
{
    struct gpu_device *d = gpu(dev);
    fuse_settle(d->s);
    d->index_top_k = x->top_k;
    gpu_indexer(d->s, d->selected, d->n_selected, queries, weights, &c->sparse[layer], x, d->state, d->kv_bound, n_tokens(dev));
}

static void device_attention_window(struct device *dev, struct rows dst, struct rows q,
                                    struct rows row, struct kvcache *c, int layer,
                                    const struct window_attention *a)
{
    struct gpu_device *d = gpu(dev);
    gpu_attention_window(writing(dev, dst), dst, q, row, &c->sparse[layer], c->type, a, d->selected,
                         d->n_selected, d->index_top_k, d->state, d->kv_bound, n_tokens(dev));
}

/* ---- experts ---- */

static void device_router_topk(struct device *dev, const struct router *r, struct rows scores)
{
    struct gpu_device *d = gpu(dev);
    assert(r->top_k == d->options.limits.top_k && r->n_routed == d->options.limits.n_routed);
    gpu_router_topk(writing(dev, scores), r, scores, tokens_behind(d->state), d->ids, d->weights,
                    n_tokens(dev));
}

static void device_experts_begin(struct device *dev, const struct experts *e, struct rows src)
{
    struct gpu_device *d = gpu(dev);
    const struct gpu_partner *p = &d->options.partner;
    fuse_settle(d->s);
    d->experts = e;
    d->experts_src = src;
    if (p->begin)
        p->begin(p->ctx, e, src, d->ids, d->weights, n_tokens(dev));
}

static void device_experts_end(struct device *dev, struct rows dst)
{
    struct gpu_device *d = gpu(dev);
    const struct gpu_partner *p = &d->options.partner;
    assert(d->experts);
    writing(dev, dst);
    if (p->begin)
        p->end(p->ctx, dst, n_tokens(dev));
    else
        gpu_experts(d->s, dst, d->experts_src, d->experts, NULL, d->ids, d->weights,
                    n_tokens(dev));
    d->experts = NULL;
}

static bool device_read_choice(struct device *dev, int32_t *ids, float *weights,
                               struct error *err)
{
    struct gpu_device *d = gpu(dev);
    size_t n = (size_t)n_tokens(dev) * (size_t)d->options.limits.top_k;
    fuse_settle(d->s);
    return device_read(dev, ids, d->ids, n * sizeof *ids, err) &&
           device_read(dev, weights, d->weights, n * sizeof *weights, err);
}

/* ---- the head ---- */

static void device_logits(struct device *dev, const struct weight *w, struct rows src)
{
    struct gpu_device *d = gpu(dev);
    assert(w->rows == d->options.n_vocab);
    struct rows piece = { d->logits, w->rows, w->rows };
    fuse_settle(d->s);
    size_t row_bytes = (size_t)w->rows * sizeof(float);
    for (int done = 0; done < d->step.n_logits; done += d->logits_rows) {
        if (done > 0) { /* the piece before this one; what fails here, end reports */
            if (!device_finish(d, &d->early))
                return;
            memcpy(d->step.logits + (size_t)(done - d->logits_rows) * (size_t)w->rows, d->host_piece,
                   (size_t)d->logits_rows * row_bytes);
        }
        int n = d->step.n_logits - done;
        n = n < d->logits_rows ? n : d->logits_rows;
        struct rows from = src;
        from.data += (d->step.n_tokens - d->step.n_logits + done) * src.stride;
        gpu_matmul(d->s, piece, w, from, NULL, n);
        gpu_read(d->s, d->host_piece, d->logits, (size_t)n * row_bytes);
        d->logits_queued = n;
    }
}

/* ---- opening ---- */

/* One block, cut twice: without a base to learn its size, with one to set the pointers. */
struct cut {
    char *base;
    size_t used;
};

static void *take(struct cut *c, int64_t count, size_t size)
{
    void *p = c->base ? c->base + c->used : NULL;
    c->used += ((size_t)count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return p;
}

static size_t cut_memory(struct gpu_device *d, void *base)
{
    const struct gpu_limits *l = &d->options.limits;
    struct cut c = { (char *)base, 0 };
    int64_t tokens = l->max_tokens, pairs = rope_pairs(d), n_vocab = d->options.n_vocab;
    size_t bytes = d->options.logits_bytes ? d->options.logits_bytes : LOGITS_BYTES;
    size_t rows = bytes / sizeof(float) / (size_t)(n_vocab > 0 ? n_vocab : 1);
    d->logits_rows = rows < 1 ? 1 : rows < (size_t)tokens ? (int)rows : (int)tokens;
    d->state = (struct gpu_step *)take(&c, 1, step_bytes(l->max_tokens));
    d->ids = (int32_t *)take(&c, tokens * l->top_k, sizeof *d->ids);
    d->weights = (float *)take(&c, tokens * l->top_k, sizeof *d->weights);
    d->selected = (int32_t *)take(&c, tokens * l->index_top_k, sizeof *d->selected);
    d->n_selected = (int32_t *)take(&c, l->index_top_k ? tokens : 0, sizeof *d->n_selected);
    for (struct angles &a : d->angles) {
        a.frequency = (double *)take(&c, pairs, sizeof *a.frequency);
        a.cosine = (float *)take(&c, tokens * pairs, sizeof *a.cosine);
        a.sine = (float *)take(&c, tokens * pairs, sizeof *a.sine);
    }
    d->logits = (float *)take(&c, d->logits_rows * n_vocab, sizeof *d->logits);
    return c.used;
}

static void device_close(struct device *dev)
{
    struct gpu_device *d = gpu(dev);
    if (!d)
        return;
    if (d->s) {
        for (struct recorded &r : d->records)
            gpu_forget(d->s, r.record);
        gpu_host_release(d->s, d->host_step);
        gpu_host_release(d->s, d->host_piece);
        gpu_host_release(d->s, d->host_frequency);
        gpu_release(d->s, d->block);
        gpu_stream_close(d->s);
    }
    gpu_host->mem_free(d);
}

static const struct device_ops device_ops_gpu = {
    .name = "gpu",
    .alloc = device_alloc,
    .release = device_release,
    .write = device_write,
    .read = device_read,
    .begin = device_begin,
    .end = device_end,
    .replay = device_replay,
    .record = device_record,
    .recorded = device_recorded,
    .embed = device_embed,
    .rmsnorm = device_rmsnorm,
    .layernorm = device_layernorm,
    .matmul = device_matmul,
    .rope = device_rope,
    .cache_gqa = device_cache_gqa,
    .cache_mla = device_cache_mla,
    .cache_index = device_cache_index,
    .attention_gqa = device_attention_gqa,
    .attention_mla = device_attention_mla,
    .swiglu = device_swiglu,
    .clamp = device_clamp,
    .hyper_mix = device_hyper_mix,
    .hyper_join = device_hyper_join,
    .compress = device_compress,
    .indexer_topk = device_indexer_topk,
    .attention_window = device_attention_window,
    .router_topk = device_router_topk,
    .experts_begin = device_experts_begin,
    .experts_end = device_experts_end,
    .add = device_add,
    .add3 = device_add3,
    .copy = device_copy,
    .logits = device_logits,
    .read_choice = device_read_choice,
    .close = device_close,
};

size_t gpu_device_bytes(const struct gpu_device_options *o)
{
    struct gpu_device d = {};
    d.options = *o;
    size_t nodes = (size_t)GPU_RECORDS * RECORD_NODES * (size_t)o->n_layers;
    return gpu_scratch_bytes(&o->limits) + cut_memory(&d, NULL) + nodes * RECORD_NODE_BYTES;
}

bool gpu_device_open(struct device **out, const struct gpu_device_options *o, struct error *err)
{
    *out = NULL;
    if (o->limits.max_tokens > GPU_MOST_TOKENS)
        return fail(err, ERR_FIT, "GPU: steps of %d tokens, it takes %d at most: -b 32768",
                    o->limits.max_tokens, GPU_MOST_TOKENS);
    struct gpu_device *d =
        (struct gpu_device *)gpu_host->mem_alloc(1, sizeof *d, "GPU device", err);
    if (!d)
        return false;
    d->base.ops = &device_ops_gpu;
    d->options = *o;
    bool ok = gpu_stream_open(&d->s, o->index, &o->limits, err);
    if (ok) {
        d->s->q8_kept = true; /* see fuse_before */
        d->host_step = (struct gpu_step *)gpu_host_alloc(d->s, step_bytes(o->limits.max_tokens),
                                                         "step", err);
        d->block = gpu_alloc(d->s, cut_memory(d, NULL), "state of a step", err);
        d->host_piece = (float *)gpu_host_alloc(d->s, piece_bytes(d), "logits on their way", err);
        d->host_frequency = (double *)gpu_host_alloc(
            d->s, N_ROPES * (size_t)rope_pairs(d) * sizeof(double), "frequencies", err);
        ok = d->host_step && d->block && d->host_piece && d->host_frequency;
    }
    if (!ok) {
        device_close(&d->base);
        return false;
    }
    cut_memory(d, d->block);
    *out = &d->base;
    return true;
}

struct gpu_stream *gpu_device_stream(struct device *d)
{
    return gpu(d)->s;
}
