#include <string.h>

#include "cpu/experts.h"
#include "src/engine/hybrid_internal.h"
#include "src/format/quant.h"

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

/* Rows of an embedding for the step's tokens: as floats, on their way to the card. */
static void look_up(struct hybrid_pair *p, const struct weight *w, const struct step *s)
{
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
    const struct weight *table = &p->h->model->token_embd;
    p->step = s;
    if (p->embedded && !card_weights_hold(&p->h->weights, table->data))
        look_up(p, table, s);
    if (p->cpu && (!p->handoff || handoff_begin(p->handoff, compute, p))) {
        p->cpu->ops->begin(p->cpu, s);
        p->sends = expert_upload_serves(p->upload, s->n_tokens);
        if (p->store)
            expert_store_begin(p->store, p->s, &p->failed);
    }
    p->epoch = run->epoch;
}

static void pair_replay(void *ctx)
{
    struct hybrid_pair *p = ctx;
    if (p->handoff)
        handoff_expect(p->handoff, p->running->n, p->flags, p->epoch);
}

/* Where the queueing thread computes experts, nothing can be recorded. */
static bool pair_record(void *ctx, int record, const struct gpu_step *state)
{
    struct hybrid_pair *p = ctx;
    p->queued = &p->lists[record + 1];
    p->queued->n = 0;
    p->state = state;
    return p->handoff || p->h->way == HANDOFF_AUTO;
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

/* The model's own embedding was looked up when the step began: a replay does no more than that. */
static bool pair_embed(void *ctx, struct rows dst, const struct weight *w, int n_tokens)
{
    struct hybrid_pair *p = ctx;
    if (card_weights_hold(&p->h->weights, w->data))
        return false;
    if (w->data != p->h->model->token_embd.data)
        look_up(p, w, p->step);
    write_rows(p, dst, p->embedded, n_tokens);
    return true;
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
    bool on_card = card_weights_hold(&p->h->weights, e->down.data);
    p->mixture = (struct mixture){ e, layer_of(p->h->model, e), on_card, src, ids, weights };
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

/* Queue what fills dst with the CPU's sum; without a hand-off, compute that. Where experts are sent the
 * CPU's part ends with work of the card in other queues, and a call of the driver must not wait for
 * such (cudaLaunchHostFunc): queues may share what carries them. Then this thread waits. */
static void await_cpu(struct hybrid_pair *p, struct rows dst, int n_tokens)
{
    int job = p->queued->n - 1;
    if (p->state && p->flags) {
        p->gpu->collect(p->s, dst, p->queued->jobs[job].dst, p->flags, p->state, job,
                        handoff_poll_s(p->handoff), n_tokens);
        return;
    }
    if (p->handoff && p->sends)
        handoff_finish(p->handoff, p->gpu, p->s, NULL); /* what fails, pair_finish reports */
    else if (p->handoff)
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

bool hybrid_settle(void *ctx, struct error *err)
{
    struct hybrid_pair *p = ctx;
    return !p->handoff || handoff_finish(p->handoff, p->gpu, p->s, err);
}

bool hybrid_is_settled(void *ctx)
{
    struct hybrid_pair *p = ctx;
    return !p->handoff || handoff_is_settled(p->handoff);
}

struct gpu_partner hybrid_partner(struct hybrid_pair *p)
{
    return (struct gpu_partner){
        .ctx = p, .start = pair_start, .replay = pair_replay, .begin = pair_begin, .end = pair_end,
        .finish = pair_finish, .record = pair_record, .recorded = pair_recorded, .embed = pair_embed,
    };
}
