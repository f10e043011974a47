#include "src/engine/expert_upload.h"

#include <string.h>

#include "src/base/cpus.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/errand.h"
#include "src/engine/expert_copy.h"
#include "src/model/placement.h"

#define CORES_PER_COPIER 4
#define PLAIN_GB_S 8.0     /* of one thread: rows as in the file, as measured on a server's core ... */
#define WOVEN_GB_S 2.2     /* ... and woven ones, undone on the way */
#define USUAL_DRAM_GB_S 50.0
#define USUAL_GOPS 150.0   /* int8 products of one core with many tokens */
#define USUAL_PCIE_GB_S 12.0
#define GIGA 1e9

/* ---- the choice ---- */

static double matrix_ops(const struct weight *w)
{
    return w->data ? 2.0 * (double)w->rows * (double)w->cols : 0;
}

static double matrix_s(const struct weight *w, const struct rates *here, int n_cores)
{
    double gops = here && here->gops[w->type] > 0 ? here->gops[w->type] : USUAL_GOPS * n_cores;
    return matrix_ops(w) / (gops * GIGA);
}

static double or_usual(double rate, double usual)
{
    return rate > 0 ? rate : usual;
}

struct upload_costs upload_costs_of(const struct experts *e, const struct rates *here,
                                    int n_copiers)
{
    double bytes = (double)expert_copy_bytes(e);
    int n_cores = here && here->n_cores > 0 ? here->n_cores : cpus_usable()->n_cores;
    double dram = or_usual(here ? here->dram_gb_s : 0, USUAL_DRAM_GB_S);
    double pcie = or_usual(here ? here->pcie_gb_s : 0, USUAL_PCIE_GB_S);
    double copier = e->down.woven ? WOVEN_GB_S : PLAIN_GB_S;
    return (struct upload_costs){
        .read_s = bytes / (dram * GIGA),
        .token_s = matrix_s(&e->gate, here, n_cores) + matrix_s(&e->up, here, n_cores) +
                   matrix_s(&e->gate_up, here, n_cores) + matrix_s(&e->down, here, n_cores),
        .send_s = bytes / (min_of(pcie, n_copiers * copier) * GIGA),
    };
}

/* Insertion keeps the order of equals; a layer has some hundreds of experts at most. */
static int by_heat(const int32_t *n_tokens, int n_routed, int32_t *order)
{
    int n = 0;
    for (int32_t e = 0; e < n_routed; e++) {
        if (n_tokens[e] == 0)
            continue;
        int at = n++;
        for (; at > 0 && n_tokens[order[at - 1]] < n_tokens[e]; at--)
            order[at] = order[at - 1];
        order[at] = e;
    }
    return n;
}

int upload_choose(const struct upload_costs *c, const int32_t *n_tokens, int n_routed, int32_t *up)
{
    int n = by_heat(n_tokens, n_routed, up), n_up = 0;
    double here_s = 0;
    for (int i = 0; i < n; i++)
        here_s += c->read_s + n_tokens[up[i]] * c->token_s;
    for (; n_up < n; n_up++) {
        double one_s = c->read_s + n_tokens[up[n_up]] * c->token_s;
        here_s -= one_s;
        if (one_s <= c->send_s || (n_up + 1) * c->send_s > here_s + one_s)
            break;
    }
    return n_up;
}

/* ---- memory and threads ---- */

/* Takes every n_copiers-th expert of a group. */
struct copier {
    struct expert_upload *u;
    int first;
    struct errand *errand;
    struct gpu_stream *queue;
    void *pinned[2];
};

struct expert_upload {
    struct expert_upload_options o;
    struct rates rates;
    bool has_rates;
    const struct gpu_launchers *gpu;
    struct gpu_stream *queue;  /* of the computation */
    struct errand *leader;     /* keeps the groups going while the CPU computes */
    struct copier copiers[RING_COPIERS];
    int n_copiers;
    void *ring[RING_SLOTS];    /* device memory */
    int32_t *tables;           /* pinned [RING_SLOTS, n_routed], and there: */
    int32_t *slots;            /* device memory */
    float *sum, *part;         /* device memory [max_tokens, stride] */
    bool is_zero;              /* sum */
    int32_t *n_tokens, *up;    /* [n_routed] */
    int n_up;
    /* of the layer at hand */
    const struct experts *source;
    struct experts views[RING_SLOTS];
    struct rows src;
    const int32_t *ids;
    const float *weights;
    int step_tokens;
    int group_first, group_n;  /* what the copiers are at */
    int group_ring;
};

static size_t sum_bytes(const struct expert_upload_options *o)
{
    return (size_t)o->limits.max_tokens * (size_t)o->stride * sizeof(float);
}

static size_t table_bytes(const struct expert_upload_options *o)
{
    return RING_SLOTS * (size_t)o->limits.n_routed * sizeof(int32_t);
}

/* What gpu_experts alone asks of its queue. */
static struct gpu_limits limits_of(const struct expert_upload_options *o)
{
    const struct gpu_limits *l = &o->limits;
    return (struct gpu_limits){
        .max_cols = l->max_cols, .act_f32 = l->act_f32, .max_tokens = l->max_tokens, .n_routed = l->n_routed,
        .top_k = l->top_k, .expert_size = l->expert_size, .patience_s = l->patience_s,
    };
}

uint64_t expert_upload_slot_bytes(const struct expert_upload_options *o)
{
    return (uint64_t)RING_SLOTS * (RING_EXPERTS * o->expert_bytes + RING_BORDERS);
}

uint64_t expert_upload_work_bytes(const struct expert_upload_options *o)
{
    struct gpu_device_options d = { .limits = limits_of(o), .logits_bytes = 1 };
    return o->library->device_bytes(&d) + 2 * sum_bytes(o) + table_bytes(o);
}

static bool open_copier(struct expert_upload *u, int i, struct error *err)
{
    struct copier *c = &u->copiers[i];
    struct gpu_limits none = { .patience_s = u->o.limits.patience_s };
    c->u = u;
    c->first = i;
    return u->o.library->stream_open(&c->queue, u->o.index, &none, err) &&
           (c->pinned[0] = u->gpu->host_alloc(c->queue, u->o.expert_bytes, "experts", err)) &&
           (c->pinned[1] = u->gpu->host_alloc(c->queue, u->o.expert_bytes, "experts", err)) &&
           errand_open(&c->errand, err);
}

static bool open_memory(struct expert_upload *u, struct error *err)
{
    const struct expert_upload_options *o = &u->o;
    struct gpu_limits l = limits_of(o);
    size_t n = (size_t)o->limits.n_routed;
    u->n_tokens = mem_alloc(n, sizeof *u->n_tokens, "tokens of experts", err);
    u->up = mem_alloc(n, sizeof *u->up, "experts to send", err);
    if (!u->n_tokens || !u->up || !o->library->stream_open(&u->queue, o->index, &l, err))
        return false;
    for (int i = 0; i < RING_SLOTS; i++)
        if (!(u->ring[i] = u->gpu->alloc(u->queue, RING_EXPERTS * o->expert_bytes + RING_BORDERS,
                                         "experts on their way", err)))
            return false;
    u->tables = u->gpu->host_alloc(u->queue, table_bytes(o), "slots of experts", err);
    u->slots = u->gpu->alloc(u->queue, table_bytes(o), "slots of experts", err);
    u->sum = u->gpu->alloc(u->queue, sum_bytes(o), "experts' sums", err);
    u->part = u->gpu->alloc(u->queue, sum_bytes(o), "experts' sums", err);
    return u->tables && u->slots && u->sum && u->part;
}

bool expert_upload_open(struct expert_upload **out, const struct expert_upload_options *o,
                        struct error *err)
{
    *out = NULL;
    struct expert_upload *u = mem_alloc(1, sizeof *u, "experts to send", err);
    if (!u)
        return false;
    u->o = *o;
    u->gpu = &o->library->launch;
    u->has_rates = o->rates;
    if (o->rates)
        u->rates = *o->rates;
    u->n_copiers = max_of(1, min_of(cpus_usable()->n_cores / CORES_PER_COPIER, RING_COPIERS));
    bool ok = open_memory(u, err) && errand_open(&u->leader, err);
    for (int i = 0; ok && i < u->n_copiers; i++)
        ok = open_copier(u, i, err);
    if (!ok) {
        expert_upload_close(u);
        return false;
    }
    *out = u;
    return true;
}

void expert_upload_close(struct expert_upload *u)
{
    if (!u)
        return;
    errand_close(u->leader);
    for (int i = 0; i < u->n_copiers; i++) {
        struct copier *c = &u->copiers[i];
        errand_close(c->errand);
        if (!c->queue)
            continue;
        u->gpu->host_release(c->queue, c->pinned[0]);
        u->gpu->host_release(c->queue, c->pinned[1]);
        u->o.library->stream_close(c->queue);
    }
    if (u->queue) {
        for (int i = 0; i < RING_SLOTS; i++)
            u->gpu->release(u->queue, u->ring[i]);
        u->gpu->host_release(u->queue, u->tables);
        u->gpu->release(u->queue, u->slots);
        u->gpu->release(u->queue, u->sum);
        u->gpu->release(u->queue, u->part);
        u->o.library->stream_close(u->queue);
    }
    mem_free(u->n_tokens);
    mem_free(u->up);
    mem_free(u);
}

bool expert_upload_serves(const struct expert_upload *u, int n_tokens)
{
    return u && n_tokens >= UPLOAD_MIN_TOKENS;
}

const float *expert_upload_sum(const struct expert_upload *u)
{
    return u->sum;
}

/* ---- sending ---- */

/* While one buffer is on its way the other is filled; see copy_moves of expert_store.c. */
static void copy_group(void *ctx)
{
    struct copier *c = ctx;
    struct expert_upload *u = c->u;
    u->gpu->enter(c->queue);
    for (int i = c->first, k = 0; i < u->group_n; i += u->n_copiers, k++) {
        void *buffer = c->pinned[k % 2];
        expert_copy_take(u->source, u->up[u->group_first + i], buffer);
        if (k > 0 && !u->gpu->wait(c->queue, NULL))
            return;
        expert_copy_queue(u->gpu, c->queue, &u->views[u->group_ring], i, buffer);
        u->gpu->mark(c->queue);
    }
    u->gpu->finish(c->queue, NULL);
}

/* Queue what the GPU does with a group that has arrived: the first fills the sum, others add to it. */
static void queue_group(struct expert_upload *u)
{
    int n_routed = u->o.limits.n_routed;
    int32_t *table = u->tables + u->group_ring * n_routed, *slots = u->slots + (table - u->tables);
    struct rows sum = { u->sum, u->src.width, u->o.stride }, part = sum;
    part.data = u->group_first == 0 ? u->sum : u->part;
    for (int e = 0; e < n_routed; e++)
        table[e] = -1;
    for (int i = 0; i < u->group_n; i++)
        table[u->up[u->group_first + i]] = i;
    u->gpu->write(u->queue, slots, table, (size_t)n_routed * sizeof *table);
    u->gpu->experts(u->queue, part, u->src, &u->views[u->group_ring], slots, u->ids, u->weights,
                    u->step_tokens);
    if (u->group_first > 0)
        u->gpu->add(u->queue, sum, sum, part, u->step_tokens);
}

/* Group g is copied to the ring that group g - 2 was computed from, while g - 1 is computed. Before a
 * wait of one ring's users the mark stands behind them: it was set before the other's were queued. */
static void send(void *ctx)
{
    struct expert_upload *u = ctx;
    u->gpu->enter(u->queue);
    for (int g = 0; g * RING_EXPERTS < u->n_up; g++) {
        u->group_first = g * RING_EXPERTS;
        u->group_n = min_of(u->n_up - u->group_first, RING_EXPERTS);
        u->group_ring = g % RING_SLOTS;
        if (g >= RING_SLOTS && !u->gpu->wait(u->queue, NULL))
            return;
        u->gpu->mark(u->queue);
        for (int i = 0; i < u->n_copiers; i++)
            errand_start(u->copiers[i].errand, copy_group, &u->copiers[i]);
        for (int i = 0; i < u->n_copiers; i++)
            errand_wait(u->copiers[i].errand);
        queue_group(u);
    }
    u->gpu->finish(u->queue, NULL);
}

/* Who is to be sent, by the tokens that mine leaves to the CPU. */
static void choose(struct expert_upload *u, const struct experts *e, const int32_t *mine, int n)
{
    memset(u->n_tokens, 0, (size_t)e->n_routed * sizeof *u->n_tokens);
    for (int i = 0; i < n; i++)
        if (mine[i] >= 0)
            u->n_tokens[mine[i]]++;
    struct upload_costs c = upload_costs_of(e, u->has_rates ? &u->rates : NULL, u->n_copiers);
    u->n_up = u->o.use == UPLOAD_ALWAYS ? by_heat(u->n_tokens, e->n_routed, u->up)
                                        : upload_choose(&c, u->n_tokens, e->n_routed, u->up);
}

static void take_out(struct expert_upload *u, int32_t *mine, int n)
{
    for (int i = 0; i < u->n_up; i++) {
        u->o.counts->n_sent_picks += (uint64_t)u->n_tokens[u->up[i]];
        u->n_tokens[u->up[i]] = -1;
    }
    for (int i = 0; i < n; i++)
        if (mine[i] >= 0 && u->n_tokens[mine[i]] < 0)
            mine[i] = -1;
}

void expert_upload_start(struct expert_upload *u, const struct experts *e, int32_t *mine,
                         struct rows src, const int32_t *ids, const float *weights, int n_tokens)
{
    int n = n_tokens * e->top_k;
    u->gpu->enter(u->queue);
    choose(u, e, mine, n);
    if (u->n_up == 0) {
        if (!u->is_zero) {
            u->gpu->fill(u->queue, u->sum, 0, sum_bytes(&u->o));
            u->gpu->finish(u->queue, NULL);
        }
        u->is_zero = true;
        return;
    }
    take_out(u, mine, n);
    u->is_zero = false;
    u->o.counts->n_sent += (uint64_t)u->n_up;
    u->o.counts->sent_bytes += (uint64_t)u->n_up * expert_copy_bytes(e);
    u->source = e;
    u->src = src;
    u->ids = ids;
    u->weights = weights;
    u->step_tokens = n_tokens;
    for (int i = 0; i < RING_SLOTS; i++)
        u->views[i] = expert_slots_at(e, RING_EXPERTS, u->ring[i]);
    errand_start(u->leader, send, u);
}

void expert_upload_wait(struct expert_upload *u)
{
    errand_wait(u->leader);
}

bool expert_upload_check(const struct expert_upload *u, struct error *err)
{
    for (int i = 0; i < u->n_copiers; i++)
        if (!u->gpu->finish(u->copiers[i].queue, err))
            return false;
    return u->gpu->finish(u->queue, err);
}
