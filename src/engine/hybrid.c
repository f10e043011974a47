#include "src/engine/hybrid.h"

#include <inttypes.h>
#include <string.h>

#include "cpu/experts.h"
#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/card.h"
#include "src/engine/handoff.h"

#define ALIGNMENT ((size_t)256)
#define HANDOFF_LIMIT_S 300 /* for a layer: a long prompt, with experts that come from a slow disk */
#define LEFT_BYTES ((uint64_t)256 << 20) /* of device memory, for a cache and working memory at least */

/* A weight that lives on the card, and where it came from. */
struct moved {
    struct weight *weight;
    const void *host;
};

struct hybrid {
    const struct gpu_library *library;
    struct gpu_info card;
    int index;
    struct model *model;
    struct gpu_stream *s; /* for the weights */
    struct handoff *handoff; /* NULL: stop and read */
    enum handoff_way way;
    double patience_s;       /* with the card; 0: the usual */
    void *block;
    size_t bytes;
    struct moved *moved;
    int n_moved;
};

/* ---- the trunk's weights ---- */

static size_t weight_bytes(const struct weight *w)
{
    return w->matrix_bytes * (size_t)(w->n_matrices - 1) + w->row_bytes * (size_t)w->rows;
}

/* The seam has no operation that reads these two: they are used by the host. */
static bool stays(const struct model *m, const struct model_tensor *t)
{
    return t->role == ROLE_ROUTED || t->role == ROLE_MTP || t->weight == &m->output_bias ||
           t->weight == &m->rope_freqs;
}

static void list(struct hybrid *h, struct weight *w)
{
    h->moved[h->n_moved++] = (struct moved){ w, w->data };
    h->bytes += align_up(weight_bytes(w), ALIGNMENT);
}

/* Tensors of the trunk, and key matrices that were derived from kv_b. */
static bool list_weights(struct hybrid *h, struct error *err)
{
    struct model *m = h->model;
    size_t most = (size_t)m->n_tensors + (size_t)m->params.n_layers;
    h->moved = mem_alloc(most, sizeof *h->moved, "list of weights", err);
    if (!h->moved)
        return false;
    for (int i = 0; i < m->n_tensors; i++) {
        if (!stays(m, &m->tensors[i]))
            list(h, m->tensors[i].weight);
    }
    for (int i = 0; i < m->params.n_layers; i++) {
        if (m->layers[i].kv_b.data && m->layers[i].k_b.data)
            list(h, &m->layers[i].k_b);
    }
    return true;
}

/* What is built from weights follows their addresses. */
static bool rebuild(struct model *m, struct error *err)
{
    for (int i = 0; i < m->params.n_layers; i++) {
        if (!m->arch->assemble(m, i, err))
            return false;
    }
    if (m->params.tied_output)
        m->output = m->token_embd;
    return true;
}

static bool upload(struct hybrid *h, struct error *err)
{
    const struct gpu_launchers *gpu = &h->library->launch;
    if (h->bytes + LEFT_BYTES > h->card.free_bytes)
        return fail(err, ERR_FIT, "the trunk needs %zu MiB of the GPU's memory, %" PRIu64
                    " MiB are free of %" PRIu64 "; -ngl 0 runs on the CPU", h->bytes >> 20,
                    h->card.free_bytes >> 20, h->card.total_bytes >> 20);
    h->block = gpu->alloc(h->s, h->bytes, "weights", err);
    if (!h->block)
        return false;
    char *to = h->block;
    for (int i = 0; i < h->n_moved; i++) {
        size_t bytes = weight_bytes(h->moved[i].weight);
        gpu->write(h->s, to, h->moved[i].host, bytes);
        if (!gpu->finish(h->s, err)) /* one at a time: the file may be read for it */
            return false;
        h->moved[i].weight->data = to;
        to += align_up(bytes, ALIGNMENT);
    }
    return rebuild(h->model, err);
}

/* ---- open and close ---- */

static bool find_card(struct hybrid *h, int index, struct error *err)
{
    struct gpu_limits none = { .patience_s = h->patience_s };
    h->index = index;
    return card_find(&h->library, &h->card, index, err) &&
           h->library->stream_open(&h->s, index, &none, err);
}

bool hybrid_open(struct hybrid **out, struct model *m, const struct engine_options *o,
                 struct error *err)
{
    bool by_calls = o->handoff != HANDOFF_STOP && m->params.n_routed > 0;
    *out = NULL;
    if (m->params.index_top_k > 0 && m->params.n_streams == 0)
        return fail(err, ERR_DEVICE, "%s runs on the CPU only", m->arch->name);
    struct hybrid *h = mem_alloc(1, sizeof *h, "hybrid", err);
    if (!h)
        return false;
    h->model = m;
    h->patience_s = o->gpu_patience_s;
    h->way = o->handoff == HANDOFF_AUTO ? HANDOFF_CALLBACK : o->handoff;
    if (!find_card(h, o->gpu_index, err) || !list_weights(h, err) || !upload(h, err) ||
        (by_calls && !handoff_open(&h->handoff, HANDOFF_LIMIT_S, err))) {
        hybrid_close(h);
        return false;
    }
    log_detail("GPU %d: %s, trunk %zu MiB", h->index, h->card.name, h->bytes >> 20);
    *out = h;
    return true;
}

void hybrid_close(struct hybrid *h)
{
    if (!h)
        return;
    handoff_close(h->handoff);
    for (int i = 0; i < h->n_moved; i++)
        h->moved[i].weight->data = h->moved[i].host;
    if (h->n_moved)
        rebuild(h->model, NULL); /* succeeded on these addresses before */
    if (h->s) {
        h->library->launch.release(h->s, h->block);
        h->library->stream_close(h->s);
    }
    mem_free(h->moved);
    mem_free(h);
}

const struct gpu_info *hybrid_card(const struct hybrid *h)
{
    return &h->card;
}

uint64_t hybrid_weight_bytes(const struct hybrid *h)
{
    return h->bytes;
}

uint64_t hybrid_free_bytes(const struct hybrid *h)
{
    struct gpu_info now;
    return h->library->info(h->index, &now, NULL) ? now.free_bytes : 0;
}

/* ---- one pair ---- */

/* What the CPU computes for one layer of the step. */
struct layer_job {
    const struct experts *experts;
    struct rows src, dst; /* the pair's pinned rows */
    int n_tokens;
};

struct hybrid_pair {
    const struct gpu_launchers *gpu;
    struct gpu_stream *s; /* of the device */
    struct device *device, *cpu;
    struct handoff *handoff;  /* borrowed; NULL: stop and read */
    struct job_list {
        struct layer_job *jobs; /* [n_layers] */
        int n;
    } lists[1 + GPU_RECORDS];   /* of a step that is queued as it is, and of each record */
    struct job_list *queued;    /* begin and end add to it */
    struct job_list *running;   /* whose jobs are computed */
    struct gpu_flags *flags;    /* pinned; NULL: recorded steps hand over by calls */
    const struct gpu_step *state; /* while a record is made: the step in device memory */
    float *src, *dst;         /* pinned: hidden rows and the experts' sum, of one layer at a time */
    int32_t *ids;
    float *weights;
    int64_t hidden_size;
    bool by_flags;
};

/* Copy columns of device rows to pinned rows or back, as one run of memory: what lies between the
 * rows' width and stride travels along. */
static size_t run_bytes(struct rows r, int n_tokens)
{
    return (size_t)((n_tokens - 1) * r.stride + r.width) * sizeof(float);
}

static void compute(void *ctx, int job)
{
    struct hybrid_pair *p = ctx;
    const struct layer_job *j = &p->running->jobs[job];
    experts_run((struct device_cpu *)p->cpu, j->experts, j->dst, j->src, j->n_tokens, p->ids,
                p->weights);
}

/* The CPU's part looks at the step's cancel flag. */
static void pair_start(void *ctx, const struct gpu_run *run)
{
    struct hybrid_pair *p = ctx;
    p->queued = p->running = &p->lists[run->record + 1];
    if (run->record < 0)
        p->queued->n = 0;
    if (p->cpu && (!p->handoff || handoff_begin(p->handoff, compute, p)))
        p->cpu->ops->begin(p->cpu, run->step);
    if (p->handoff && run->record >= 0)
        handoff_expect(p->handoff, p->running->n, p->flags, run->epoch);
}

/* Where the queueing thread computes, nothing can be recorded. */
static bool pair_record(void *ctx, int record, const struct gpu_step *state)
{
    struct hybrid_pair *p = ctx;
    p->queued = &p->lists[record + 1];
    p->queued->n = 0;
    p->state = state;
    return p->handoff || !p->cpu;
}

static void pair_recorded(void *ctx)
{
    struct hybrid_pair *p = ctx;
    p->state = NULL;
}

static void pair_begin(void *ctx, const struct experts *e, struct rows src, const int32_t *ids,
                       const float *weights, int n_tokens)
{
    struct hybrid_pair *p = ctx;
    size_t n = (size_t)n_tokens * (size_t)e->top_k;
    if (p->handoff && n_tokens > GPU_GEMV_TOKENS)
        handoff_keep_pace(p->handoff, p->gpu, p->s);
    int job = p->queued->n++;
    p->queued->jobs[job] = (struct layer_job){
        .experts = e, .n_tokens = n_tokens,
        .src = { p->src, src.width, src.stride }, .dst = { p->dst, src.width, src.stride },
    };
    if (p->state && p->flags) {
        struct gpu_parcel parcel = { {
            { (uint32_t *)p->ids, (const uint32_t *)ids, (int64_t)n },
            { (uint32_t *)(void *)p->weights, (const uint32_t *)(const void *)weights, (int64_t)n },
            { (uint32_t *)(void *)p->src, (const uint32_t *)(const void *)src.data,
              (int64_t)(run_bytes(src, n_tokens) / sizeof(uint32_t)) },
        } };
        p->gpu->publish(p->s, &parcel, p->flags, p->state, job);
        return;
    }
    p->gpu->read(p->s, p->ids, ids, n * sizeof *ids);
    p->gpu->read(p->s, p->weights, weights, n * sizeof *weights);
    p->gpu->read(p->s, p->src, src.data, run_bytes(src, n_tokens));
    if (p->handoff)
        handoff_queue_start(p->handoff, p->gpu, p->s);
    else
        p->gpu->mark(p->s);
}

static void pair_end(void *ctx, struct rows dst, int n_tokens)
{
    struct hybrid_pair *p = ctx;
    int job = p->queued->n - 1;
    struct rows sum = p->queued->jobs[job].dst;
    if (p->state && p->flags) {
        p->gpu->collect(p->s, dst, sum, p->flags, p->state, job, handoff_poll_s(p->handoff),
                        n_tokens);
        return;
    }
    if (p->handoff)
        handoff_queue_wait(p->handoff, p->gpu, p->s);
    else if (p->gpu->wait(p->s, NULL)) /* else the end of the step reports it */
        compute(p, job);
    if (sum.stride == dst.stride) {
        p->gpu->write(p->s, dst.data, sum.data, run_bytes(dst, n_tokens));
        return;
    }
    for (int t = 0; t < n_tokens; t++)
        p->gpu->write(p->s, dst.data + t * dst.stride, sum.data + t * sum.stride,
                      (size_t)dst.width * sizeof(float));
}

static bool pair_finish(void *ctx, struct error *err)
{
    struct hybrid_pair *p = ctx;
    bool handed = p->handoff && p->running->n > 0;
    return !handed || handoff_finish(p->handoff, p->gpu, p->s, err);
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
        .partner = { p, pair_start, pair_begin, pair_end, pair_finish, pair_record, pair_recorded },
    };
    return g;
}

uint64_t hybrid_pair_bytes(const struct hybrid *h, const struct device_cpu_options *o)
{
    struct gpu_device_options g = gpu_options(h, NULL, o);
    return h->library->device_bytes(&g);
}

/* The CPU's part needs no room for attention. */
static bool open_cpu(struct hybrid_pair *p, const struct device_cpu_options *o, struct error *err)
{
    struct device_cpu_options c = *o;
    if (o->n_routed == 0)
        return true;
    c.max_cols = p->hidden_size;
    c.n_heads = 1;
    c.head_width = 2;
    c.index_top_k = 0;
    return device_cpu_open(&p->cpu, &c, err);
}

static bool open_buffers(struct hybrid_pair *p, const struct device_cpu_options *o,
                         struct error *err)
{
    size_t tokens = (size_t)o->max_tokens, stride = align_up((size_t)p->hidden_size, 16);
    size_t picks = tokens * (size_t)o->top_k;
    if (o->n_routed == 0)
        return true;
    p->src = p->gpu->host_alloc(p->s, tokens * stride * sizeof(float), "hidden rows", err);
    p->dst = p->gpu->host_alloc(p->s, tokens * stride * sizeof(float), "experts' sums", err);
    p->ids = p->gpu->host_alloc(p->s, picks * sizeof *p->ids, "picks", err);
    p->weights = p->gpu->host_alloc(p->s, picks * sizeof *p->weights, "weights of picks", err);
    if (p->by_flags)
        p->flags = p->gpu->host_alloc(p->s, sizeof *p->flags, "flags", err);
    return p->src && p->dst && p->ids && p->weights && (p->flags || !p->by_flags);
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
    p->hidden_size = h->model->params.hidden_size;
    p->by_flags = h->way == HANDOFF_FLAGS;
    size_t n_layers = (size_t)h->model->params.n_layers;
    struct layer_job *jobs = mem_alloc(n_layers * (1 + GPU_RECORDS), sizeof *jobs,
                                       "layers of a step", err);
    for (size_t i = 0; jobs && i < ARRAY_LEN(p->lists); i++)
        p->lists[i].jobs = jobs + i * n_layers;
    bool ok = jobs && h->library->device_open(&p->device, &g, err);
    if (ok)
        p->s = h->library->device_stream(p->device);
    if (!ok || !open_cpu(p, o, err) || !open_buffers(p, o, err)) {
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
    if (p->device) {
        p->gpu->host_release(p->s, p->src);
        p->gpu->host_release(p->s, p->dst);
        p->gpu->host_release(p->s, p->ids);
        p->gpu->host_release(p->s, p->weights);
        p->gpu->host_release(p->s, p->flags);
        p->device->ops->close(p->device);
    }
    if (p->cpu)
        p->cpu->ops->close(p->cpu);
    mem_free(p->lists[0].jobs);
    mem_free(p);
}

struct device *hybrid_pair_device(struct hybrid_pair *p)
{
    return p->device;
}
