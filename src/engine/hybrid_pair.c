#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/hybrid_internal.h"
#include "src/engine/split.h"
#include "src/gpu_load.h"
#include "src/model/kvcache.h"

/* Does an embedding stay in main memory, under a trunk that does not? */
static bool embeds(const struct hybrid *h)
{
    const struct model *m = h->model;
    const struct card_weights *c = &h->weights;
    bool own = h->placement && h->placement->drafts &&
               m->layers[m->params.n_layers].nextn_embed.data;
    return !c->partial && (own || !card_weights_hold(c, m->token_embd.data));
}

static struct gpu_device_options gpu_options(const struct hybrid *h, struct hybrid_pair *p,
                                             const struct device_cpu_options *o)
{
    const struct params *params = &h->model->params;
    struct gpu_device_options g = {
        .index = h->index,
        .limits = {
            .act_f32 = o->act_f32, .max_tokens = o->max_tokens, .max_cols = o->max_cols,
            .max_rows = o->max_rows, .n_ctx = o->n_ctx, .n_heads = o->n_heads,
            .head_width = o->head_width,
            .mla_rank = h->model->arch->has_latent_cache ? params->kv_lora_rank : 0,
            .n_routed = o->n_routed, .top_k = o->top_k, .expert_size = o->expert_size,
            .index_top_k = o->index_top_k, .window = params->n_streams ? params->window : 0,
            .patience_s = h->patience_s,
        },
        .n_vocab = params->n_vocab, .n_layers = params->n_layers,
        .partner = hybrid_partner(p),
    };
    if (!embeds(h))
        g.partner.embed = NULL;
    return g;
}

static int64_t row_stride(const struct hybrid *h)
{
    return (int64_t)align_up((size_t)h->model->params.hidden_size, 16);
}

/* What is sent in steps of these sizes. */
static struct expert_upload_options upload_options(struct hybrid *h,
                                                   const struct gpu_limits *l)
{
    return (struct expert_upload_options){
        .library = h->library, .index = h->index, .limits = *l, .use = h->upload,
        .rates = h->rates.n_cores ? &h->rates : NULL,
        .expert_bytes = h->placement ? h->placement->expert_bytes : 0, .stride = row_stride(h),
        .counts = &h->sent,
    };
}

/* Are there experts to send? Before it is known: yes. */
static bool may_send(const struct hybrid *h)
{
    const struct model *m = h->model;
    bool found = !h->placement;
    for (int i = 0; i < m->n_tensors && !found; i++)
        found = m->tensors[i].role == ROLE_ROUTED && m->tensors[i].layer >= hybrid_first_layer(h) &&
                h->placement->homes[i] != HOME_GPU;
    return found && h->upload != UPLOAD_NEVER;
}

static size_t rows_bytes(const struct hybrid *h, const struct device_cpu_options *o)
{
    return (size_t)o->max_tokens * (size_t)row_stride(h) * sizeof(float);
}

uint64_t hybrid_work_bytes(const struct model *m, const struct device_cpu_options *o)
{
    struct model *model = (struct model *)(uintptr_t)m; /* only looked at */
    struct hybrid h = { .library = gpu_load(NULL), .model = model };
    return hybrid_pair_bytes(&h, o);
}

uint64_t hybrid_pair_bytes(struct hybrid *h, const struct device_cpu_options *o)
{
    struct gpu_device_options g = gpu_options(h, NULL, o);
    struct expert_upload_options u = upload_options(h, &g.limits);
    uint64_t bytes = h->library->device_bytes(&g);
    if (o->n_routed > 0)
        bytes += rows_bytes(h, o);
    if (o->n_routed > 0 && may_send(h))
        bytes += expert_upload_work_bytes(&u) + expert_upload_slot_bytes(&u);
    return bytes;
}

/* The CPU's part needs no room for attention, unless it computes layers. */
static bool open_cpu(struct hybrid_pair *p, const struct device_cpu_options *o, struct error *err)
{
    struct device_cpu_options c = *o;
    if (p->h->weights.partial)
        return device_cpu_open(&p->cpu, o, err);
    if (o->n_routed == 0)
        return true;
    c.max_cols = p->h->model->params.hidden_size;
    c.n_heads = 1;
    c.head_width = 2;
    c.index_top_k = 0;
    return device_cpu_open(&p->cpu, &c, err);
}

static bool open_buffers(struct hybrid_pair *p, const struct device_cpu_options *o,
                         struct error *err)
{
    size_t bytes = rows_bytes(p->h, o), picks = (size_t)o->max_tokens * (size_t)o->top_k;
    if (embeds(p->h) && !(p->embedded = p->gpu->host_alloc(p->s, bytes, "embedded tokens", err)))
        return false;
    if (o->n_routed == 0)
        return true;
    p->misses = p->gpu->alloc(p->s, bytes, "experts' sums", err);
    p->mine = mem_alloc(picks, sizeof *p->mine, "picks", err);
    if (!p->misses || !p->mine)
        return false;
    p->src = p->gpu->host_alloc(p->s, bytes, "hidden rows", err);
    p->dst = p->gpu->host_alloc(p->s, bytes, "experts' sums", err);
    p->ids = p->gpu->host_alloc(p->s, picks * sizeof *p->ids, "picks", err);
    p->weights = p->gpu->host_alloc(p->s, picks * sizeof *p->weights, "weights of picks", err);
    if (p->h->way == HANDOFF_FLAGS)
        p->flags = p->gpu->host_alloc(p->s, sizeof *p->flags, "flags", err);
    return p->src && p->dst && p->ids && p->weights && (p->flags || p->h->way != HANDOFF_FLAGS);
}

static bool open_upload(struct hybrid_pair *p, const struct gpu_limits *l, struct error *err)
{
    struct expert_upload_options o = upload_options(p->h, l);
    bool wanted = l->n_routed > 0 && l->max_tokens >= UPLOAD_MIN_TOKENS && may_send(p->h);
    return !wanted || expert_upload_open(&p->upload, &o, err);
}

static bool open_split(struct hybrid_pair *p, struct error *err)
{
    struct split_options o = {
        .cpu = p->cpu, .gpu = p->device, .n_layers = p->h->model->params.n_layers,
        .first_gpu_layer = hybrid_first_layer(p->h), .weights = &p->h->weights,
        .settle = hybrid_settle, .is_settled = hybrid_is_settled, .ctx = p,
    };
    return !p->h->weights.partial || split_open(&p->split, &o, err);
}

bool hybrid_pair_open(struct hybrid_pair **out, struct hybrid *h,
                      const struct device_cpu_options *o, struct error *err)
{
    *out = NULL;
    struct hybrid_pair *p = mem_alloc(1, sizeof *p, "pair of devices", err);
    if (!p)
        return false;
    struct gpu_device_options g = gpu_options(h, p, o);
    p->gpu = &h->library->launch;
    p->handoff = h->handoff;
    p->h = h;
    p->store = h->store;
    p->stride = row_stride(h);
    size_t n_layers = (size_t)h->model->params.n_layers;
    struct layer_job *jobs = mem_alloc(n_layers * (1 + GPU_RECORDS), sizeof *jobs,
                                       "layers of a step", err);
    for (size_t i = 0; jobs && i < ARRAY_LEN(p->lists); i++)
        p->lists[i].jobs = jobs + i * n_layers;
    bool ok = jobs && h->library->device_open(&p->device, &g, err);
    if (ok)
        p->s = h->library->device_stream(p->device);
    if (!ok || !open_cpu(p, o, err) || !open_buffers(p, o, err) ||
        !open_upload(p, &g.limits, err) || !open_split(p, err)) {
        hybrid_pair_close(p);
        return false;
    }
    *out = p;
    return true;
}

void hybrid_pair_close(struct hybrid_pair *p)
{
    if (!p)
        return;
    if (p->split)
        p->split->ops->close(p->split);
    expert_upload_close(p->upload);
    if (p->device) {
        p->gpu->release(p->s, p->misses);
        p->gpu->host_release(p->s, p->embedded);
        p->gpu->host_release(p->s, p->src);
        p->gpu->host_release(p->s, p->dst);
        p->gpu->host_release(p->s, p->ids);
        p->gpu->host_release(p->s, p->weights);
        p->gpu->host_release(p->s, p->flags);
        p->device->ops->close(p->device);
    }
    if (p->cpu)
        p->cpu->ops->close(p->cpu);
    mem_free(p->mine);
    mem_free(p->lists[0].jobs);
    mem_free(p);
}

struct device *hybrid_pair_device(struct hybrid_pair *p)
{
    return p->split ? p->split : p->device;
}

struct device *hybrid_pair_draft_device(struct hybrid_pair *p)
{
    return p->split ? p->cpu : p->device;
}

bool hybrid_pair_settle(struct hybrid_pair *p, struct error *err)
{
    struct error why = { 0 };
    if (!p->split || hybrid_settle(p, &why))
        return true;
    return why.code != ERR_NONE ? error_set(err, why.code, why.file, why.line, "%s", why.text)
                                : fail(err, ERR_DEVICE, "the GPU's last step has not ended");
}

void hybrid_pair_watch(struct hybrid_pair *p, const struct activations *a)
{
    if (p->split)
        split_watch(p->split, p->h->model->arch, a);
}

void hybrid_pair_expect_cache(struct hybrid_pair *p, enum tensor_type type, int64_t n_ctx)
{
    const struct model *m = p->h->model;
    uint64_t bytes = 0;
    for (int i = 0; i < hybrid_first_layer(p->h); i++)
        bytes += kvcache_layer_bytes(m->arch, &m->params, type, n_ctx, i);
    if (p->split)
        split_next_apart(p->split, (size_t)bytes);
}
