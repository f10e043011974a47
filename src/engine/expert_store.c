#include "src/engine/expert_store.h"

#include <string.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/util.h"
#include "src/engine/errand.h"
#include "src/engine/expert_cache.h"
#include "src/engine/expert_copy.h"
#include "src/model/placement.h"

#define LEARN_TOKENS 8 /* a longer step uses nearly every expert, and so says nothing */

struct stored_layer {
    int index;             /* of the model */
    struct experts source; /* in main memory */
    struct experts slots;  /* in device memory */
};

struct expert_store {
    const struct gpu_library *library;
    const struct gpu_launchers *gpu;
    const struct model *model;
    struct gpu_stream *queue; /* of the copies */
    struct errand *errand;
    struct expert_cache *cache;
    struct stored_layer *layers; /* those with slots */
    int n_layers;
    int *row_of; /* [layers of the model] its place among them; -1: none */
    void *block; /* device memory: the table, then each layer's slots */
    size_t bytes, table_bytes;
    void *pinned[2]; /* one expert each */
    size_t expert_bytes;
    struct expert_move *moves; /* [most] under way */
    int n_moves, most;
    uint64_t moved_bytes; /* of finished copies */
};

/* ---- opening ---- */

/* Are the routed experts of this layer? False when it has none. */
static bool in_main_memory(const struct placement *p, const struct model *m, int layer)
{
    for (int i = 0; i < m->n_tensors; i++)
        if (m->tensors[i].layer == layer && m->tensors[i].role == ROLE_ROUTED)
            return p->homes[i] != HOME_GPU;
    return false;
}

static bool list_layers(struct expert_store *s, const struct placement *p, struct error *err)
{
    const struct model *m = s->model;
    size_t n = (size_t)m->params.n_layers;
    s->layers = mem_alloc(n, sizeof *s->layers, "layers with experts in VRAM", err);
    s->row_of = mem_alloc(n, sizeof *s->row_of, "layers with experts in VRAM", err);
    if (!s->layers || !s->row_of)
        return false;
    for (int i = 0; i < m->params.n_layers; i++) {
        bool serves = i >= m->params.n_layers - p->gpu_layers && in_main_memory(p, m, i);
        s->row_of[i] = serves ? s->n_layers : -1;
        if (serves)
            s->layers[s->n_layers++].index = i;
    }
    expert_store_follow(s);
    return true;
}

void expert_store_follow(struct expert_store *s)
{
    if (!s)
        return;
    for (int i = 0; i < s->n_layers; i++) {
        s->layers[i].source = s->model->layers[s->layers[i].index].experts;
        s->expert_bytes = max_of(s->expert_bytes, expert_copy_bytes(&s->layers[i].source));
    }
}

static bool open_memory(struct expert_store *s, int n_slots, struct error *err)
{
    s->table_bytes = (size_t)s->n_layers * (size_t)s->model->params.n_routed * sizeof(int32_t);
    s->bytes = align_up(s->table_bytes, 256);
    for (int i = 0; i < s->n_layers; i++)
        s->bytes += expert_slots_bytes(&s->layers[i].source, n_slots);
    s->block = s->gpu->alloc(s->queue, s->bytes, "experts in VRAM", err);
    if (!s->block)
        return false;
    char *to = (char *)s->block + align_up(s->table_bytes, 256);
    for (int i = 0; i < s->n_layers; i++) {
        struct stored_layer *l = &s->layers[i];
        l->slots = expert_slots_at(&l->source, n_slots, to);
        to += expert_slots_bytes(&l->source, n_slots);
    }
    for (int i = 0; i < 2; i++)
        if (!(s->pinned[i] = s->gpu->host_alloc(s->queue, s->expert_bytes, "experts to copy", err)))
            return false;
    s->gpu->write(s->queue, s->block, expert_cache_table(s->cache), s->table_bytes);
    return s->gpu->finish(s->queue, err);
}

bool expert_store_open(struct expert_store **out, const struct expert_store_options *o,
                       struct error *err)
{
    struct gpu_limits none = { 0 };
    int n_slots = o->placement->expert_slots;
    *out = NULL;
    if (n_slots == 0)
        return true;
    struct expert_store *s = mem_alloc(1, sizeof *s, "experts in VRAM", err);
    if (!s)
        return false;
    s->library = o->library;
    s->gpu = &o->library->launch;
    s->model = o->model;
    if (!list_layers(s, o->placement, err))
        goto failed;
    if (s->n_layers == 0) {
        expert_store_close(s);
        return true;
    }
    s->most = max_of(1, min_of(o->moves, s->n_layers * EXPERT_CACHE_PER_LAYER));
    s->moves = mem_alloc((size_t)s->most, sizeof *s->moves, "experts to copy", err);
    if (!s->moves || !o->library->stream_open(&s->queue, o->index, &none, err) ||
        !expert_cache_open(&s->cache, s->n_layers, o->model->params.n_routed, n_slots, err) ||
        !open_memory(s, n_slots, err) || !errand_open(&s->errand, err))
        goto failed;
    log_detail("%d of %d experts of %d layers in VRAM, %zu MiB, up to %d new ones per step", n_slots,
               o->model->params.n_routed, s->n_layers, s->bytes >> 20, s->most);
    *out = s;
    return true;

failed:
    expert_store_close(s);
    return false;
}

void expert_store_close(struct expert_store *s)
{
    if (!s)
        return;
    errand_close(s->errand);
    if (s->queue) {
        s->gpu->release(s->queue, s->block);
        s->gpu->host_release(s->queue, s->pinned[0]);
        s->gpu->host_release(s->queue, s->pinned[1]);
        s->library->stream_close(s->queue);
    }
    expert_cache_close(s->cache);
    mem_free(s->layers);
    mem_free(s->row_of);
    mem_free(s->moves);
    mem_free(s);
}

uint64_t expert_store_bytes(const struct expert_store *s)
{
    return s ? s->bytes : 0;
}

bool expert_store_serves(const struct expert_store *s, int layer)
{
    return s && layer >= 0 && layer < s->model->params.n_layers && s->row_of[layer] >= 0;
}

/* ---- copying, on a thread of its own ---- */

/* While one buffer is on its way the other is filled. One mark is enough for two: it is looked at
 * before the next is set. */
static void copy_moves(void *ctx)
{
    struct expert_store *s = ctx;
    s->gpu->enter(s->queue);
    for (int i = 0; i < s->n_moves; i++) {
        const struct expert_move *move = &s->moves[i];
        const struct stored_layer *l = &s->layers[move->layer];
        void *buffer = s->pinned[i % 2];
        expert_copy_take(&l->source, move->expert, buffer);
        if (i > 0 && !s->gpu->wait(s->queue, NULL)) /* copy i - 1: its buffer is next */
            return;
        expert_copy_queue(s->gpu, s->queue, &l->slots, move->slot, buffer);
        s->gpu->mark(s->queue);
    }
    s->gpu->finish(s->queue, NULL);
}

bool expert_store_begin(struct expert_store *s, struct gpu_stream *queue, struct error *err)
{
    bool changed;
    errand_wait(s->errand);
    if (!s->gpu->finish(s->queue, err))
        return false;
    for (int i = 0; i < s->n_moves; i++)
        s->moved_bytes += expert_copy_bytes(&s->layers[s->moves[i].layer].source);
    s->n_moves = expert_cache_next(s->cache, s->moves, s->most, &changed);
    if (changed) /* the step before has ended: nobody reads it */
        s->gpu->write(queue, s->block, expert_cache_table(s->cache), s->table_bytes);
    if (s->n_moves > 0)
        errand_start(s->errand, copy_moves, s);
    return true;
}

/* ---- during a step ---- */

void expert_store_divide(struct expert_store *s, int layer, const int32_t *ids, int n_tokens,
                         int32_t *mine)
{
    int row = s->row_of[layer], n = n_tokens * s->model->params.top_k;
    const int32_t *slots = expert_cache_table(s->cache) + row * s->model->params.n_routed;
    expert_cache_use(s->cache, row, ids, n, n_tokens <= LEARN_TOKENS);
    for (int i = 0; i < n; i++)
        mine[i] = slots[ids[i]] < 0 ? ids[i] : -1;
}

void expert_store_queue(struct expert_store *s, struct gpu_stream *queue, int layer,
                        struct rows dst, struct rows src, const int32_t *ids, const float *weights,
                        int n_tokens)
{
    int row = s->row_of[layer];
    const int32_t *slots = (const int32_t *)s->block + row * s->model->params.n_routed;
    s->gpu->experts(queue, dst, src, &s->layers[row].slots, slots, ids, weights, n_tokens);
}

void expert_store_report(const struct expert_store *s, struct expert_report *r)
{
    struct expert_cache_counts counts;
    expert_cache_count(s->cache, &counts);
    r->n_slots = s->layers[0].slots.down.n_matrices;
    r->n_picks += counts.n_picks;
    r->n_hits += counts.n_hits;
    r->n_moves += counts.n_moves;
    r->moved_bytes += s->moved_bytes;
}
