/* A model on its devices. */
#include "src/engine/internal.h"

#include <assert.h>
#include <math.h>

#include "cpu/device_cpu.h"
#include "cpu/features.h"
#include "src/base/cpus.h"
#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/observe.h"
#include "src/gpu_load.h"
#include "src/model/memory.h"

#define MAX_BATCH 4096

/* ---- engine ---- */

static bool check_options(const struct engine_options *o, struct error *err)
{
    if (o->n_batch < 0 || o->n_batch > MAX_BATCH)
        return fail(err, ERR_USAGE, "batch of %d tokens, expected 1 to %d", o->n_batch, MAX_BATCH);
    if (o->n_nodes < 0 || o->n_nodes > NODES_MAX)
        return fail(err, ERR_USAGE, "%d memory nodes, expected at most %d", o->n_nodes, NODES_MAX);
    if (o->n_threads < 0)
        return fail(err, ERR_USAGE, "%d threads", o->n_threads);
    return true;
}

/* Without a GPU that will do, GPU_AUTO stays on the CPU and says why; when no GPU code was installed at
 * all, only to who asks for details or chose a card. */
static bool without_gpu(struct engine *e, const struct error *why, struct error *err)
{
    hybrid_close(e->hybrid);
    e->hybrid = NULL;
    bool told = why->code != ERR_DEVICE || strstr(why->text, "no GPU");
    if (e->options.gpu == GPU_MUST)
        return fail(err, why->code, "%s%s%s", told ? "" : "no GPU can be used: ", why->text,
                    strstr(why->text, "-ngl 0") ? "" : "; -ngl 0 runs on the CPU");
    if (gpu_load(NULL) || e->options.gpu_index > 0)
        log_note("running on the CPU: %s", why->text);
    else
        log_detail("running on the CPU: %s", why->text);
    return true;
}

static bool find_gpu(struct engine *e, struct error *err)
{
    struct error why = { 0 };
    return e->options.gpu == GPU_NEVER ||
           hybrid_open(&e->hybrid, &e->model, &e->options, &why) || without_gpu(e, &why, err);
}

/* Loading in two passes under one bar of the bytes read: weaving takes its part of the way, as if its
 * bytes were read as well. */
struct passes {
    const struct engine_options *o;
    uint64_t read, woven; /* in all; read is known with the first call */
};

static bool tell(const struct passes *p, uint64_t done_bytes)
{
    double way = (double)p->read / ((double)p->read + (double)p->woven);
    return !p->o->progress ||
           p->o->progress(p->o->progress_ctx, (uint64_t)((double)done_bytes * way), p->read);
}

static bool reading(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct passes *p = ctx;
    p->read = max_of(total_bytes, 1);
    return tell(p, done_bytes);
}

static bool weaving(void *ctx, uint64_t done_bytes, uint64_t total_bytes)
{
    struct passes *p = ctx;
    (void)total_bytes;
    return tell(p, p->read + done_bytes);
}

static bool weave_weights(struct engine *e, struct passes *p, struct error *err)
{
    return model_weave(&e->model, e->wishes.weave, e->pool, p ? weaving : NULL, p, err);
}

bool engine_leave_gpu(struct engine *e, const struct error *why)
{
    struct error err = { 0 };
    if (!e->hybrid || e->options.gpu != GPU_AUTO)
        return false;
    log_warning("%s; going on on the CPU", why->text);
    hybrid_leave(e->hybrid);
    e->hybrid = NULL;
    pool_enter(e->pool);
    e->last = NULL; /* its users find out by its pair */
    if (!weave_weights(e, NULL, &err)) /* they serve as they are, too */
        log_detail("%s", err.text);
    return true;
}

/* Decide where everything goes, or refuse; then LOAD_AUTO is one of the others. */
static bool place(struct engine *e, struct error *err)
{
    struct rates here = { .ram_bytes = engine_ram(e, 0), .vram_bytes = engine_vram(e) };
    struct placement_wishes w = engine_wishes(&e->options, &e->model);
    e->n_batch = w.n_batch;
    if (!placement_make(&e->placement, &e->model, &here, &w, err) ||
        !placement_check(&e->placement, err))
        return false;
    if (e->hybrid && e->placement.vram_used == 0) {
        struct error why = { 0 };
        fail(&why, ERR_FIT, "%s: no layer of this model fits into the %llu MiB that may be used",
             hybrid_card(e->hybrid)->name, (unsigned long long)(e->placement.vram_budget >> 20));
        if (!without_gpu(e, &why, err))
            return false;
    }
    /* what is needed later, without the caller's rules */
    e->wishes = w;
    e->wishes.rules = NULL;
    e->wishes.n_rules = 0;
    e->options.wishes = &e->wishes;
    if (e->options.load == LOAD_AUTO)
        e->options.load = e->placement.copied ? LOAD_COPY : LOAD_MMAP;
    return true;
}

static bool load_weights(struct engine *e, struct passes *p, struct error *err)
{
    const struct engine_options *o = &e->options;
    p->woven = o->load == LOAD_MMAP ? 0 : model_weave_bytes(&e->model, e->wishes.weave);
    struct load_options lo = {
        .mode = o->load, .act_f32 = o->act_f32, .n_parts = o->n_nodes, .lock = o->lock,
        .lazy = o->lazy,
        .homes = e->placement.homes,
        .progress = reading, .ctx = p,
    };
    return model_load(&e->model, &lo, err);
}

/* What has a place on the GPU goes there. Where that fails the weights serve from where they are: all of
 * them in main memory, as a placement without a GPU has them. */
static bool load_gpu(struct engine *e, struct error *err)
{
    struct error why = { 0 };
    if (!e->hybrid || hybrid_load(e->hybrid, &e->placement, &e->options, &why))
        return true;
    if (!without_gpu(e, &why, err))
        return false;
    struct rates here = { .ram_bytes = engine_ram(e, 0) };
    struct placement_wishes w = wishes_of_cpu(&e->wishes);
    placement_free(&e->placement);
    return placement_make(&e->placement, &e->model, &here, &w, err);
}

bool engine_can_run(const struct model *m, struct error *err)
{
    return m->arch->forward ||
           fail(err, ERR_FILE, "this version cannot run %s yet, it can plan and inspect it",
                m->arch->name);
}

/* With a GPU another thread than ours is the pool's first worker, unless ours computes too: where it waits
 * at each layer, or has part of the trunk. */
static void give_seat(struct engine *e)
{
    if (e->hybrid && hybrid_take_seat(e->hybrid))
        pool_leave(e->pool);
}

/* A row of counts for each layer that has routed experts. */
static bool count_picks(struct engine *e, struct error *err)
{
    const struct params *p = &e->model.params;
    if (p->n_routed == 0)
        return true;
    int *layers = mem_alloc((size_t)p->n_layers, sizeof *layers, "layers with experts", err);
    e->picks.layers = layers;
    uint32_t *n = mem_alloc((size_t)p->n_layers * (size_t)p->n_routed, sizeof *n, "counts of picks",
                            err);
    e->picks.n = n;
    e->picks.n_routed = p->n_routed;
    if (!layers || !n)
        return false;
    for (int i = 0; i < p->n_layers; i++) {
        struct experts *x = &e->model.layers[i].experts;
        if (x->n_routed == 0)
            continue;
        x->n_picked = n + (size_t)e->picks.n_layers * (size_t)p->n_routed;
        layers[e->picks.n_layers++] = i;
    }
    return true;
}

bool engine_open(struct engine **out, const char *path, const struct engine_options *o,
                 struct error *err)
{
    struct engine *e = NULL;
    *out = NULL;
    if (!check_options(o, err))
        return false;
    e = mem_alloc(1, sizeof *e, "engine", err);
    if (!e)
        return false;
    e->options = *o;
    if (o->observer)
        e->options.gpu = GPU_NEVER;
    e->isa = o->isa_given ? o->isa & cpu_isa() : cpu_isa();
    /* The pool comes late: it pins this thread, and threads of the loader would inherit that. What
     * goes to a GPU goes there as it is; the rest is woven. */
    struct passes passes = { .o = &e->options };
    bool ok = (o->unfinished ? model_open_unfinished : model_open)(&e->model, path, o->numerics, err) &&
              (!o->draft_model || model_add_block(&e->model, o->draft_model, err)) &&
              engine_can_run(&e->model, err) && find_gpu(e, err) && place(e, err) &&
              load_weights(e, &passes, err) && pool_open(&e->pool, o->n_threads, err) &&
              load_gpu(e, err) && weave_weights(e, &passes, err) && count_picks(e, err);
    if (!ok) {
        engine_close(e);
        return false;
    }
    if (e->hybrid)
        hybrid_follow(e->hybrid);
    e->options.rates = NULL;
    give_seat(e);
    *out = e;
    return true;
}

void engine_close(struct engine *e)
{
    if (!e)
        return;
    hybrid_close(e->hybrid); /* whose thread may use the pool */
    pool_close(e->pool);
    placement_free(&e->placement);
    model_close(&e->model);
    mem_free((void *)(uintptr_t)e->picks.layers);
    mem_free((void *)(uintptr_t)e->picks.n);
    mem_free(e);
}

const struct model *engine_model(const struct engine *e)
{
    return &e->model;
}

const struct placement *engine_placement(const struct engine *e)
{
    return &e->placement;
}

int engine_threads(const struct engine *e)
{
    return pool_threads(e->pool);
}

int engine_batch(const struct engine *e)
{
    return e->n_batch;
}

bool engine_retune(struct engine *e, int n_threads, int n_batch, struct error *err)
{
    struct engine_options o = e->options;
    assert(!e->last);
    o.n_threads = n_threads;
    o.n_batch = n_batch;
    if (!check_options(&o, err))
        return false;
    e->options = o;
    e->n_batch = engine_wishes(&e->options, &e->model).n_batch;
    if (n_threads == pool_threads(e->pool))
        return true;
    pool_close(e->pool);
    e->pool = NULL;
    if (!pool_open(&e->pool, n_threads, err))
        return false;
    give_seat(e);
    return true;
}

int engine_nodes(const struct engine *e)
{
    return max_of(e->model.n_parts, 1);
}

unsigned engine_isa(const struct engine *e)
{
    return e->isa;
}

unsigned engine_common_isa(void)
{
    return ISA_AVX2 | ISA_NEON;
}

enum handoff_way engine_handoff(const struct engine *e, struct handoff_rates *rates)
{
    *rates = (struct handoff_rates){ 0 };
    return e->hybrid ? hybrid_handoff(e->hybrid, rates) : HANDOFF_AUTO;
}

const struct gpu_info *engine_gpu(const struct engine *e)
{
    return e->hybrid ? hybrid_card(e->hybrid) : NULL;
}

bool engine_expert_report(const struct engine *e, struct expert_report *r)
{
    *r = (struct expert_report){ 0 };
    return e->hybrid && hybrid_report(e->hybrid, r);
}

struct pick_counts engine_picks(const struct engine *e)
{
    return e->picks;
}

double expert_hit_rate(const struct expert_report *r)
{
    return r->n_picks ? (double)r->n_hits / (double)r->n_picks : NAN;
}

uint64_t engine_available(const struct engine *e)
{
    uint64_t bytes;
    if (!e->hybrid)
        return memory_available();
    hybrid_free_bytes(e->hybrid, &bytes, NULL);
    return bytes;
}

bool engine_check_files(const struct engine *e, struct error *err)
{
    return model_check_files(&e->model, err);
}

/* ---- workspaces ---- */

/* The largest of everything a step will ask the device for. */
struct device_cpu_options device_needs(const struct model *m, bool act_f32, int n_batch,
                                       int64_t n_ctx)
{
    const struct params *p = &m->params;
    struct device_cpu_options o = {
        .act_f32 = act_f32,
        .max_tokens = (int)min_of((int64_t)n_batch, n_ctx),
        .max_cols = p->hidden_size,
        .max_rows = p->hidden_size,
        .n_ctx = n_ctx,
        .n_heads = p->n_heads,
        .head_width = p->head_dim,
        .cache_width = (int64_t)p->n_kv_heads * (p->head_dim + p->value_dim),
        .n_routed = p->n_routed,
        .top_k = p->top_k,
        .expert_size = p->expert_size,
        .index_top_k = p->index_top_k,
    };
    if (m->arch->has_latent_cache) {
        int absorbed = p->kv_lora_rank + p->qk_rope_dim;
        int expanded = p->qk_nope_dim + p->qk_rope_dim + p->value_dim;
        o.head_width = max_of(absorbed, expanded);
        o.cache_width = absorbed;
    }
    o.head_width = max_of(o.head_width, p->index_dim);
    if (p->n_streams)
        o.cache_width = 0; /* V4 gathers the rows that it reads */
    if (m->arch->draft && p->n_mtp > 0)
        o.max_cols = max_of(o.max_cols, 2 * p->hidden_size);
    for (int i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        if (t->role != ROLE_TRUNK)
            continue;
        o.max_cols = max_of(o.max_cols, t->weight->cols);
        o.max_rows = max_of(o.max_rows, t->weight->rows);
    }
    return o;
}

static struct device_cpu_options device_options(const struct engine *e, int64_t n_ctx)
{
    struct device_cpu_options o =
        device_needs(&e->model, e->options.act_f32, e->n_batch, n_ctx);
    const struct params *p = &e->model.params;
    if (e->options.observer && e->model.arch->has_latent_cache)
        o.head_width = max_of(o.head_width, p->qk_nope_dim + p->qk_rope_dim + p->kv_lora_rank);
    o.pool = e->pool;
    o.isa = e->isa;
    return o;
}

uint64_t workspace_bytes(const struct engine *e, int64_t n_ctx)
{
    struct device_cpu_options o = device_options(e, n_ctx);
    return (e->hybrid ? hybrid_pair_bytes(e->hybrid, &o) : device_cpu_bytes(&o)) +
           activations_bytes(e->model.arch, &e->model.params, o.max_tokens);
}

static void workspace_free(struct workspace *w)
{
    if (w->device)
        activations_close(&w->work, w->device);
    if (w->pair)
        hybrid_pair_close(w->pair);
    else if (w->device)
        w->device->ops->close(w->device);
    mem_free(w);
}

static bool open_device(struct workspace *w, struct engine *e, const struct device_cpu_options *o,
                        struct error *err)
{
    if (!e->hybrid)
        return device_cpu_open(&w->device, o, err) &&
               (!e->options.observer || observe_device(w->device, e->options.observer, err));
    if (!hybrid_pair_open(&w->pair, e->hybrid, o, err))
        return false;
    w->device = hybrid_pair_device(w->pair);
    return true;
}

struct workspace *workspace_join(struct engine *e, int64_t n_ctx, struct error *err)
{
    if (e->last && e->last->n_ctx >= n_ctx) {
        e->last->n_users++;
        return e->last;
    }
    struct workspace *w = mem_alloc(1, sizeof *w, "workspace", err);
    if (!w)
        return NULL;
    struct device_cpu_options o = device_options(e, n_ctx);
    w->n_ctx = n_ctx;
    w->n_batch = o.max_tokens;
    w->n_users = 1;
    w->bytes = workspace_bytes(e, n_ctx);
    if (!open_device(w, e, &o, err) ||
        !activations_open(&w->work, e->model.arch, &e->model.params, w->n_batch, w->device, err)) {
        workspace_free(w);
        return NULL;
    }
    if (w->pair)
        hybrid_pair_watch(w->pair, &w->work);
    return e->last = w;
}

void workspace_leave(struct engine *e, struct workspace *w)
{
    if (!w || --w->n_users > 0)
        return;
    if (e->last == w)
        e->last = NULL;
    workspace_free(w);
}
