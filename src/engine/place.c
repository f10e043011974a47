/* Wishes of an engine's options, and what its CPU device will allocate: what src/model cannot know
 * about the placement that it decides. */
#include "cpu/features.h"
#include "src/gpu_load.h"
#include "src/base/util.h"
#include "src/engine/draft.h"
#include "src/engine/internal.h"
#include "src/model/checkpoint.h"
#include "src/model/memory.h"

/* A step unpacks the weights of every expert once: the more tokens share that the better, up to
 * some 64 for each (docs/performance.md). One in n_routed / top_k tokens meets a given expert. */
#define TOKENS_PER_EXPERT 64
#define LARGEST_DEFAULT 2048
#define WORK_SHARE 16 /* of the available memory, for working memory beyond USUAL_BATCH */

int engine_wanted_batch(int n_routed, int top_k)
{
    int batch = USUAL_BATCH;
    while (top_k > 0 && batch < LARGEST_DEFAULT &&
           (int64_t)batch * top_k < (int64_t)TOKENS_PER_EXPERT * n_routed)
        batch *= 2;
    return batch;
}

uint64_t session_list_bytes(const struct model *m, int64_t n_ctx)
{
    return checkpoints_bytes(m->arch, &m->params, TYPE_F16, n_ctx) +
           (uint64_t)n_ctx * sizeof(int32_t) + (uint64_t)m->params.n_vocab * sizeof(float);
}

static uint64_t work_bytes(const struct model *m, const struct placement_wishes *w, int64_t n_ctx,
                           const void *ctx)
{
    const struct engine_options *eo = ctx;
    struct device_cpu_options o = device_needs(m, w->act_f32, w->n_batch, n_ctx);
    o.n_threads = w->n_threads;
    o.isa = eo->isa_given ? eo->isa & cpu_isa() : cpu_isa();
    return device_cpu_bytes(&o) + session_list_bytes(m, n_ctx) +
           activations_bytes(m->arch, &m->params, o.max_tokens);
}

/* Tokens per step: what was asked for, or what this model wants if memory is plenty. */
static int choose_batch(const struct engine_options *o, const struct model *m,
                        struct placement_wishes *w)
{
    uint64_t budget = (o->max_ram_bytes ? o->max_ram_bytes : memory_available()) / WORK_SHARE;
    if (o->n_batch)
        return o->n_batch;
    w->n_batch = engine_wanted_batch(m->params.n_routed, m->params.top_k);
    while (w->n_batch > USUAL_BATCH && work_bytes(m, w, w->n_batch, o) > budget)
        w->n_batch /= 2;
    return w->n_batch;
}

/* What the GPU library will allocate for steps, where there is one. */
static uint64_t gpu_work_bytes(const struct model *m, const struct placement_wishes *w,
                               int64_t n_ctx, const void *ctx)
{
    struct device_cpu_options o = device_needs(m, w->act_f32, w->n_batch, n_ctx);
    (void)ctx;
    return hybrid_work_bytes(m, &o) + activations_bytes(m->arch, &m->params, o.max_tokens);
}

static int layers_wished(const struct engine_options *o)
{
    return o->gpu == GPU_NEVER  ? 0
         : o->gpu == GPU_AUTO   ? PLACE_AUTO
         : o->gpu_layers == 0   ? PLACE_ALL
                                : o->gpu_layers;
}

struct placement_wishes engine_wishes(const struct engine_options *o, const struct model *m)
{
    struct placement_wishes w = o->wishes ? *o->wishes : placement_wishes_default();
    w.n_ctx = o->n_ctx == CONTEXT_TRAINED ? m->params.context_length : o->n_ctx;
    w.n_threads = o->n_threads;
    w.act_f32 = o->act_f32;
    w.cache_type = o->act_f32 ? TYPE_F32 : w.cache_type;
    w.load = o->load;
    w.gpu_layers = layers_wished(o);
    w.work_bytes = work_bytes;
    w.gpu_work_bytes = gpu_load(NULL) ? gpu_work_bytes : NULL;
    w.work_ctx = o;
    w.draft_bytes = draft_bytes;
    w.n_batch = choose_batch(o, m, &w);
    unsigned isa = o->isa_given ? o->isa & cpu_isa() : cpu_isa();
    device_cpu_woven(&(struct device_cpu_options){ .isa = isa, .act_f32 = o->act_f32 }, w.weave);
    return w;
}

struct placement_wishes wishes_of_cpu(const struct placement_wishes *w)
{
    struct placement_wishes cpu = *w, none = placement_wishes_default();
    cpu.gpu_layers = 0;
    cpu.cpu_moe = none.cpu_moe;
    cpu.gpu_experts = none.gpu_experts;
    cpu.gpu_experts_bytes = none.gpu_experts_bytes;
    cpu.gpu_experts_share = none.gpu_experts_share;
    cpu.rules = NULL;
    cpu.n_rules = 0;
    cpu.force = true; /* the model is here: only a session can be too large now */
    return cpu;
}

uint64_t engine_vram(const struct engine *e)
{
    uint64_t most = e->options.max_vram_bytes;
    uint64_t free_bytes = 0;
    if (e->hybrid)
        hybrid_free_bytes(e->hybrid, &free_bytes, NULL);
    return most ? min_of(free_bytes, most) : free_bytes;
}

uint64_t engine_ram(const struct engine *e, uint64_t held)
{
    uint64_t left = memory_available(), most = e->options.max_ram_bytes;
    uint64_t all = left > UINT64_MAX - held ? UINT64_MAX : left + held;
    return most ? min_of(all, most) : all;
}

/* A session beside others: a workspace that is there already is shared. */
static uint64_t session_work_bytes(const struct model *m, const struct placement_wishes *w,
                                   int64_t n_ctx, const void *ctx)
{
    const struct engine *e = ctx;
    bool shared = e->last && e->last->n_ctx >= n_ctx;
    (void)w;
    return session_list_bytes(m, n_ctx) + (shared ? 0 : workspace_bytes(e, n_ctx));
}

/* The same where a GPU holds cache and workspace: what fits beside each other there. */
static bool place_on_gpu(const struct engine *e, int64_t asked, int64_t *n_ctx, struct error *err)
{
    const struct model *m = &e->model;
    uint64_t available;
    if (!hybrid_free_bytes(e->hybrid, &available, err))
        return false;
    int64_t n = asked ? asked : e->placement.n_ctx;
    for (;; n /= 2) {
        uint64_t cache = 0;
        for (int i = hybrid_first_layer(e->hybrid); i < m->params.n_layers; i++)
            cache += kvcache_layer_bytes(m->arch, &m->params, e->wishes.cache_type, n, i);
        uint64_t work = session_work_bytes(m, &e->wishes, n, e);
        *n_ctx = n;
        if (work <= available && cache <= available - work)
            return true;
        if (asked || n <= 256)
            return fail(err, ERR_FIT, "a context of %lld tokens needs %llu MiB on the GPU, where %llu "
                        "MiB are free", (long long)n, (unsigned long long)((cache + work) >> 20),
                        (unsigned long long)(available >> 20));
    }
}

/* Weights in our own memory. */
static uint64_t own_weight_bytes(const struct engine *e)
{
    uint64_t bytes = 0;
    for (int part = PART_TRUNK; part <= PART_ROUTED; part++)
        bytes += e->placement.bytes[part][HOME_RAM];
    return bytes;
}

bool engine_place_session(const struct engine *e, int64_t asked, int64_t *n_ctx,
                          struct error *err)
{
    if (asked < 0 || asked > (int64_t)1 << 24)
        return fail(err, ERR_USAGE, "a context of %lld tokens, expected 1 to %d", (long long)asked,
                    1 << 24);
    if (e->hybrid)
        return place_on_gpu(e, asked, n_ctx, err);
    struct engine_options o = e->options;
    struct rates here = { 0 };
    struct placement p;
    here.ram_bytes = engine_ram(e, own_weight_bytes(e)); /* which are in the new table, too */
    o.n_ctx = asked;
    struct placement_wishes all = engine_wishes(&o, &e->model), w = wishes_of_cpu(&all);
    w.work_bytes = session_work_bytes;
    w.work_ctx = e;
    if (!placement_make(&p, &e->model, &here, &w, err))
        return false;
    bool ok = placement_check(&p, err);
    *n_ctx = p.n_ctx;
    placement_free(&p);
    return ok;
}

/* ---- another context for what is loaded ---- */

/* The table of an engine that is opened anew for n_ctx positions, `held` bytes of main memory being
 * ours already. */
static bool plan_anew(const struct engine *e, int64_t n_ctx, uint64_t held, struct placement *p,
                      struct error *err)
{
    struct engine_options o = e->options;
    struct rates here = { .ram_bytes = engine_ram(e, held) };
    o.n_ctx = n_ctx;
    struct placement_wishes all = engine_wishes(&o, &e->model), cpu = wishes_of_cpu(&all);
    if (e->hybrid) {
        uint64_t most = e->options.max_vram_bytes;
        hybrid_free_bytes(e->hybrid, &here.vram_bytes, NULL);
        here.vram_bytes += e->placement.vram_used;
        here.vram_bytes = most ? min_of(here.vram_bytes, most) : here.vram_bytes;
    }
    return placement_make(p, &e->model, &here, e->hybrid ? &all : &cpu, err);
}

bool session_could_hold(const struct session *s, int64_t n_ctx, struct error *err)
{
    const struct engine *e = session_engine(s);
    struct memory_report r;
    struct placement p;
    session_memory(s, &r);
    uint64_t held = e->hybrid ? e->placement.ram_used
                              : own_weight_bytes(e) + r.cache_bytes + r.work_bytes;
    if (n_ctx <= session_n_ctx(s))
        return true;
    if (!plan_anew(e, n_ctx, held, &p, err))
        return false;
    bool ok = placement_check(&p, err) &&
              (!e->hybrid || p.vram_used > 0 ||
               fail(err, ERR_FIT, "a cache of %lld tokens would leave no room for the model on the "
                    "GPU", (long long)n_ctx));
    placement_free(&p);
    return ok;
}

bool engine_replan(struct engine *e, int64_t n_ctx, struct error *err)
{
    struct placement p, *old = &e->placement;
    if (e->hybrid)
        return true;
    if (!plan_anew(e, n_ctx, own_weight_bytes(e), &p, err))
        return false;
    old->n_ctx = p.n_ctx;
    old->ram_used = p.ram_used;
    memcpy(old->bytes, p.bytes, sizeof old->bytes);
    placement_free(&p);
    return true;
}
