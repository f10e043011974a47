#include "src/engine/hybrid.h"

#include <inttypes.h>
#include <string.h>

#include "cpu/experts.h"
#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/card.h"
#include "src/engine/expert_store.h"
#include "src/engine/expert_upload.h"
#include "src/engine/handoff.h"
#include "src/engine/handoff_probe.h"
#include "src/engine/split.h"
#include "src/format/quant.h"
#include "src/gpu_load.h"
#include "src/model/kvcache.h"

#define ALIGNMENT ((size_t)256)
#define HANDOFF_LIMIT_S 300 /* for a layer: a long prompt, with experts that come from a slow disk */
#define COPY_GB_S 2.2 /* of one thread that takes experts from main memory, woven */
#define USUAL_GB_S 50.0 /* of main memory where nothing was measured */

/* A weight that lives on the card, and where it came from. */
struct moved {
    struct weight *weight;
    const void *host;
};

struct hybrid {
    const struct gpu_library *library;
    struct gpu_info card;
    int index;
    struct model *model; /* borrowed */
    struct gpu_stream *s; /* for the weights */
    struct handoff *handoff; /* NULL: stop and read */
    enum handoff_way way;    /* HANDOFF_AUTO: there are no experts */
    struct handoff_rates handoff_rates;
    double patience_s;       /* with the card; 0: the usual */
    const struct placement *placement;
    struct expert_store *store; /* NULL: no slots */
    enum upload_use upload;
    struct rates rates;
    struct expert_report sent;
    uint64_t left_bytes;     /* of free device memory, to others */
    bool partial;            /* some of the trunk stays with the CPU */
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
static bool is_hosts(const struct model *m, const struct model_tensor *t)
{
    return t->weight == &m->output_bias || t->weight == &m->rope_freqs;
}

static void list(struct hybrid *h, struct weight *w)
{
    h->moved[h->n_moved++] = (struct moved){ w, w->data };
    h->bytes += align_up(weight_bytes(w), ALIGNMENT);
}

/* Tensors with a place there, key matrices that were derived from kv_b, a tied output matrix. */
static bool list_weights(struct hybrid *h, struct error *err)
{
    struct model *m = h->model;
    const struct placement *p = h->placement;
    size_t most = (size_t)m->n_tensors + (size_t)m->params.n_layers + 1;
    h->moved = mem_alloc(most, sizeof *h->moved, "list of weights", err);
    if (!h->moved)
        return false;
    for (int i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        if (is_hosts(m, t))
            continue;
        if (p->homes[i] == HOME_GPU)
            list(h, t->weight);
        else if (t->role == ROLE_TRUNK || t->role == ROLE_HEAD)
            h->partial = true;
    }
    for (int i = hybrid_first_layer(h); i < m->params.n_layers; i++) {
        if (m->layers[i].kv_b.data && m->layers[i].k_b.data)
            list(h, &m->layers[i].k_b);
    }
    if (m->params.tied_output && p->head_on_gpu)
        list(h, &m->output);
    h->partial = h->partial || (m->params.tied_output && !p->head_on_gpu);
    return true;
}

/* What is built from weights follows their addresses. */
static bool rebuild(struct model *m, struct error *err)
{
    for (int i = 0; i < m->params.n_layers; i++) {
        if (!m->arch->assemble(m, i, err))
            return false;
    }
    return true;
}

static bool upload(struct hybrid *h, struct error *err)
{
    const struct gpu_launchers *gpu = &h->library->launch;
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

/* Choose the way, and start the thread that computes if that needs one. With all of the trunk there, that
 * may work beside the thread that queues. Where the CPU has part of it, the thread that queues computes
 * too, and one at a time may use the pool. */
static bool open_handoff(struct hybrid *h, const struct engine_options *o, struct error *err)
{
    const struct params *p = &h->model->params;
    char text[200];
    if (p->n_routed == 0)
        return true;
    h->way = h->partial ? HANDOFF_STOP : o->handoff;
    if (h->way == HANDOFF_AUTO) {
        if (!handoff_probe(&h->handoff_rates, h->library, h->index, p->hidden_size, err))
            return false;
        h->way = handoff_best(&h->handoff_rates);
    }
    handoff_text(h->way, &h->handoff_rates, text, sizeof text);
    log_detail("hand-off to the CPU: %s", text);
    return h->way == HANDOFF_STOP || handoff_open(&h->handoff, HANDOFF_LIMIT_S, err);
}

bool hybrid_open(struct hybrid **out, struct model *m, const struct engine_options *o,
                 struct error *err)
{
    *out = NULL;
    struct hybrid *h = mem_alloc(1, sizeof *h, "hybrid", err);
    if (!h)
        return false;
    h->model = m;
    h->patience_s = o->gpu_patience_s;
    if (!find_card(h, o->gpu_index, err)) {
        hybrid_close(h);
        return false;
    }
    *out = h;
    return true;
}

/* Experts that one thread copies in the time in which the CPU reads those of a token: so the card's
 * copies are ready when the step ends, and reading for them is a small part of all reading. */
static int expert_moves(const struct hybrid *h, const struct engine_options *o)
{
    const struct placement *p = h->placement;
    double dram = o->rates && o->rates->dram_gb_s > 0 ? o->rates->dram_gb_s : USUAL_GB_S;
    double reads = (double)(p->bytes_per_token[PART_ROUTED][HOME_RAM] +
                            p->bytes_per_token[PART_ROUTED][HOME_MAPPED]);
    if (o->expert_moves > 0)
        return o->expert_moves;
    return (int)(reads / dram * COPY_GB_S / (double)max_of(p->expert_bytes, (uint64_t)1)) + 1;
}

/* What the split has no operations for. */
static bool check_split(const struct hybrid *h, struct error *err)
{
    const struct params *q = &h->model->params;
    return !h->partial || (q->n_streams == 0 && q->index_top_k == 0) ||
           fail(err, ERR_DEVICE, "%s cannot be shared out between GPU and CPU yet", h->model->arch->name);
}

bool hybrid_load(struct hybrid *h, const struct placement *p, const struct engine_options *o,
                 struct error *err)
{
    uint64_t free_bytes;
    h->placement = p;
    h->upload = o->upload;
    if (o->rates)
        h->rates = *o->rates;
    struct expert_store_options so = {
        .library = h->library, .index = h->index, .model = h->model, .placement = p,
        .moves = expert_moves(h, o),
    };
    if (!hybrid_free_bytes(h, &free_bytes, err) || !list_weights(h, err) ||
        !check_split(h, err) || !upload(h, err) || !expert_store_open(&h->store, &so, err))
        return false;
    if (!open_handoff(h, o, err))
        return false;
    h->left_bytes = free_bytes > p->vram_budget ? free_bytes - p->vram_budget : 0;
    log_detail("GPU %d: %s, %zu MiB of weights, %d of %d layers%s", h->index, h->card.name,
               h->bytes >> 20, p->gpu_layers, h->model->params.n_layers,
               h->partial ? ", others with the CPU" : "");
    return true;
}

void hybrid_follow(struct hybrid *h)
{
    expert_store_follow(h->store);
}

void hybrid_close(struct hybrid *h)
{
    if (!h)
        return;
    handoff_close(h->handoff);
    expert_store_close(h->store);
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

void hybrid_leave(struct hybrid *h)
{
    if (h->handoff)
        handoff_abandon(h->handoff);
    hybrid_close(h);
}

enum handoff_way hybrid_handoff(const struct hybrid *h, struct handoff_rates *rates)
{
    *rates = h->handoff_rates;
    return h->way;
}

bool hybrid_take_seat(struct hybrid *h)
{
    if (h->handoff)
        handoff_take_seat(h->handoff);
    return h->handoff;
}

const struct gpu_info *hybrid_card(const struct hybrid *h)
{
    return &h->card;
}

uint64_t hybrid_weight_bytes(const struct hybrid *h)
{
    return h->bytes;
}

uint64_t hybrid_expert_bytes(const struct hybrid *h)
{
    return expert_store_bytes(h->store);
}

bool hybrid_free_bytes(const struct hybrid *h, uint64_t *bytes, struct error *err)
{
    struct gpu_info now;
    *bytes = 0;
    if (!h->library->info(h->index, &now, err))
        return false;
    *bytes = now.free_bytes > h->left_bytes ? now.free_bytes - h->left_bytes : 0;
    return true;
}

int hybrid_first_layer(const struct hybrid *h)
{
    return h->model->params.n_layers - h->placement->gpu_layers;
}

bool hybrid_report(const struct hybrid *h, struct expert_report *r)
{
    *r = h->sent;
    if (h->store)
        expert_store_report(h->store, r);
    return h->store || r->n_sent > 0;
}

/* ---- whose memory ---- */

static bool on_card(const void *ctx, const void *data)
{
    const struct hybrid *h = ctx;
    return (const char *)data >= (const char *)h->block &&
           (const char *)data < (const char *)h->block + h->bytes;
}

static const void *in_ram(const void *ctx, const void *data)
{
    const struct hybrid *h = ctx;
    for (int i = 0; i < h->n_moved; i++) {
        const struct moved *m = &h->moved[i];
        size_t at = (size_t)((const char *)data - (const char *)m->weight->data);
        if ((const char *)data >= (const char *)m->weight->data && at < weight_bytes(m->weight))
            return (const char *)m->host + at;
    }
    return NULL;
}

/* ---- one pair ---- */

/* What the CPU computes for one layer of the step. */
struct mixture {
    const struct experts *experts;
    int layer;
    bool on_card; /* all experts are there: the CPU has no part in it */
    struct rows src; /* of the device, as ids and weights */
    const int32_t *ids;
    const float *weights;
};
struct layer_job {
    struct mixture mixture;
    struct rows src, dst; /* the pair's pinned rows */
    int n_tokens;
};

struct hybrid_pair {
    const struct gpu_launchers *gpu;
    struct gpu_stream *s; /* of the device */
    struct device *device, *cpu;
    struct device *split;     /* of the two; NULL: the whole trunk is on the GPU */
    struct hybrid *h;         /* not behind the loss of the GPU, when the pair is only closed */
    struct expert_store *store;   /* borrowed */
    struct expert_upload *upload; /* NULL: nothing is ever sent */
    bool sends;               /* in this step */
    struct error failed;      /* of this step */
    struct mixture mixture;
    float *misses;            /* device memory: the CPU's sum, where the GPU has one too */
    int32_t *mine;            /* [max_tokens, top_k] picks of which the CPU has those that are not -1 */
    float *embedded;          /* pinned: rows of the embedding; NULL: that is on the GPU */
    int64_t stride;           /* of all pinned rows, and misses */
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
    const struct mixture *m = &j->mixture;
    size_t n = (size_t)j->n_tokens * (size_t)m->experts->top_k;
    experts_count(m->experts, p->ids, (int64_t)n);
    if (expert_store_serves(p->store, m->layer))
        expert_store_divide(p->store, m->layer, p->ids, j->n_tokens, p->mine);
    else
        memcpy(p->mine, p->ids, n * sizeof *p->mine);
    if (p->sends)
        expert_upload_start(p->upload, m->experts, p->mine, m->src, m->ids, m->weights,
                            j->n_tokens);
    for (size_t i = 0; i < n; i++)
        p->h->sent.n_cpu_picks += p->mine[i] >= 0;
    experts_run((struct device_cpu *)p->cpu, m->experts, j->dst, j->src, j->n_tokens, p->mine,
                p->weights);
    if (p->sends)
        expert_upload_wait(p->upload);
}

/* Rows of the embedding for the step's tokens: as floats, on their way to the card. */
static void look_up(struct hybrid_pair *p, const struct step *s)
{
    const struct weight *w = &p->h->model->token_embd;
    for (int t = 0; t < s->n_tokens; t++)
        quant_traits(w->type)->dequantize(weight_at(w, 0, s->tokens[t]),
                                          p->embedded + t * p->stride, w->cols);
}

/* The CPU's part looks at the step's cancel flag. */
static void pair_start(void *ctx, const struct gpu_run *run)
{
    struct hybrid_pair *p = ctx;
    const struct step *s = run->step;
    p->queued = p->running = &p->lists[run->record + 1];
    if (run->record < 0)
        p->queued->n = 0;
    p->failed = (struct error){ 0 };
    if (p->embedded)
        look_up(p, s);
    if (p->cpu && (!p->handoff || handoff_begin(p->handoff, compute, p))) {
        p->cpu->ops->begin(p->cpu, s);
        p->sends = expert_upload_serves(p->upload, s->n_tokens);
        if (p->store)
            expert_store_begin(p->store, p->s, &p->failed);
    }
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

static void write_rows(struct hybrid_pair *p, struct rows dst, const float *src, int n_tokens)
{
    if (dst.stride == p->stride) {
        p->gpu->write(p->s, dst.data, src, run_bytes(dst, n_tokens));
        return;
    }
    for (int t = 0; t < n_tokens; t++)
        p->gpu->write(p->s, dst.data + t * dst.stride, src + t * p->stride,
                      (size_t)dst.width * sizeof(float));
}

static void pair_embed(void *ctx, struct rows dst, int n_tokens)
{
    struct hybrid_pair *p = ctx;
    write_rows(p, dst, p->embedded, n_tokens);
}

static int layer_of(const struct model *m, const struct experts *e)
{
    for (int i = 0; i < m->params.n_layers; i++)
        if (&m->layers[i].experts == e)
            return i;
    return -1;
}

static void pair_begin(void *ctx, const struct experts *e, struct rows src, const int32_t *ids,
                       const float *weights, int n_tokens)
{
    struct hybrid_pair *p = ctx;
    size_t n = (size_t)n_tokens * (size_t)e->top_k;
    p->mixture = (struct mixture){ e, layer_of(p->h->model, e), on_card(p->h, e->down.data), src,
                                   ids, weights };
    if (p->mixture.on_card)
        return;
    if (p->handoff && n_tokens > GPU_GEMV_TOKENS)
        handoff_keep_pace(p->handoff, p->gpu, p->s);
    int job = p->queued->n++;
    p->queued->jobs[job] = (struct layer_job){
        .mixture = p->mixture, .n_tokens = n_tokens,
        .src = { p->src, src.width, src.stride }, .dst = { p->dst, src.width, p->stride },
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

/* Queue what fills dst with the CPU's sum; without a hand-off, compute that. */
static void await_cpu(struct hybrid_pair *p, struct rows dst, int n_tokens)
{
    int job = p->queued->n - 1;
    if (p->state && p->flags) {
        p->gpu->collect(p->s, dst, p->queued->jobs[job].dst, p->flags, p->state, job,
                        handoff_poll_s(p->handoff), n_tokens);
        return;
    }
    if (p->handoff)
        handoff_queue_wait(p->handoff, p->gpu, p->s);
    else if (p->gpu->wait(p->s, NULL)) /* else the end of the step reports it */
        compute(p, job);
    write_rows(p, dst, p->dst, n_tokens);
}

static void pair_end(void *ctx, struct rows dst, int n_tokens)
{
    struct hybrid_pair *p = ctx;
    const struct mixture *m = &p->mixture;
    bool shared = expert_store_serves(p->store, m->layer);
    if (m->on_card) {
        p->gpu->experts(p->s, dst, m->src, m->experts, NULL, m->ids, m->weights, n_tokens);
        return;
    }
    if (shared)
        expert_store_queue(p->store, p->s, m->layer, dst, m->src, m->ids, m->weights, n_tokens);
    struct rows rest = shared ? (struct rows){ p->misses, dst.width, p->stride } : dst;
    await_cpu(p, rest, n_tokens);
    struct rows sent = { p->sends ? (float *)(uintptr_t)expert_upload_sum(p->upload) : NULL,
                         dst.width, p->stride };
    if (shared && p->sends)
        p->gpu->add3(p->s, dst, dst, rest, sent, n_tokens);
    else if (shared || p->sends)
        p->gpu->add(p->s, dst, dst, shared ? rest : sent, n_tokens);
}

static bool pair_finish(void *ctx, struct error *err)
{
    struct hybrid_pair *p = ctx;
    bool handed = p->handoff && p->running->n > 0;
    bool ok = !handed || handoff_finish(p->handoff, p->gpu, p->s, err);
    ok = ok && (!p->sends || expert_upload_check(p->upload, err));
    if (ok && p->failed.code != ERR_NONE)
        return fail(err, p->failed.code, "%s", p->failed.text);
    return ok;
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
        .partner = { p, pair_start, pair_begin, pair_end, pair_finish, pair_record, pair_recorded,
                     pair_embed },
    };
    if (h->partial || on_card(h, h->model->token_embd.data))
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
    if (p->h->partial)
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
    bool embeds = !p->h->partial && !on_card(p->h, p->h->model->token_embd.data);
    if (embeds && !(p->embedded = p->gpu->host_alloc(p->s, bytes, "embedded tokens", err)))
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
        .first_gpu_layer = hybrid_first_layer(p->h), .on_gpu = on_card, .in_ram = in_ram,
        .ctx = p->h,
    };
    return !p->h->partial || split_open(&p->split, &o, err);
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
