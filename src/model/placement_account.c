/* What lies where, given a way to place a model: every byte of the table. */
#include <string.h>

#include "src/base/util.h"
#include "src/model/kvcache.h"
#include "src/model/placement_parts.h"

#define MIB ((uint64_t)1 << 20)
#define HUGE_PAGE (2 * MIB)          /* a copy of weights is one block of these */
#define LINE 64                      /* tensors in it begin on cache lines */
#define COPY_ROOM_BYTES (2048 * MIB) /* left to others by a copy that nobody asked for */
#define COPY_ASKED_BYTES (256 * MIB) /* ... by one that somebody did */
#define RAM_MARGIN_BYTES (64 * MIB)  /* the rest of this process */
#define ENDLESS_BYTES (UINT64_MAX / 4096) /* of one layer's cache: more than any machine, sums fit */

/* What a GPU needs beside weights and cache. The driver's context and a captured step: as seen on
 * cards of several generations, rounded up. The tile: positions expanded to keys and values at a
 * time. */
#define DRIVER_BYTES (448 * MIB)
#define ATTENTION_TILE 2048

/* What attention reads together with the layer's cache: where that is on the GPU, it is. */
static bool follows_cache(const struct layer *l, const struct weight *w)
{
    return w == &l->kv_b || w == &l->k_b || w == &l->v_b || w == &l->attn_sinks ||
           w == &l->compressor_ape || w == &l->compressor_norm ||
           w == &l->indexer_compressor_ape || w == &l->indexer_compressor_norm;
}

static enum home tensor_home(const struct chooser *c, const struct draft *d, int i);

/* What chooses among experts: where those are on the GPU, the choice is made there. */
static bool follows_experts(const struct chooser *c, const struct draft *d,
                            const struct model_tensor *t)
{
    const struct layer *l = &c->m->layers[t->layer];
    if (t->weight != &l->router && t->weight != &l->router_bias && t->weight != &l->expert_table)
        return false;
    for (int i = 0; i < c->m->n_tensors; i++) {
        const struct model_tensor *e = &c->m->tensors[i];
        if (e->role == ROLE_ROUTED && e->layer == t->layer)
            return tensor_home(c, d, i) == HOME_GPU;
    }
    return false;
}

/* Does it stay on the GPU with its layer, whatever the user's rules say? */
static bool is_bound(const struct chooser *c, const struct draft *d, const struct model_tensor *t)
{
    int n_layers = c->m->params.n_layers;
    return t->layer >= n_layers - d->gpu_layers && t->layer >= 0 && t->layer < n_layers &&
           (follows_cache(&c->m->layers[t->layer], t->weight) || follows_experts(c, d, t));
}

static bool all_on_gpu(const struct model *m, const struct draft *d)
{
    return d->gpu_layers == m->params.n_layers && d->head;
}

/* The block that drafts is one more last layer, on the side of the head, which it shares. In main
 * memory it is read where it is mapped: never copied. */
static enum home block_home(const struct chooser *c, const struct draft *d,
                            const struct model_tensor *t)
{
    if (!c->drafts)
        return HOME_NONE;
    bool on_gpu = all_on_gpu(c->m, d) && t->weight != &c->m->layers[t->layer].nextn_embed &&
                  (t->spec->role != ROLE_ROUTED || d->cpu_moe < c->m->params.n_layers);
    return on_gpu ? HOME_GPU : t->spec->is_f32 ? HOME_RAM : HOME_MAPPED;
}

static enum home tensor_home(const struct chooser *c, const struct draft *d, int i)
{
    const struct model_tensor *t = &c->m->tensors[i];
    int n_layers = c->m->params.n_layers;
    enum home host = t->spec->is_f32 || d->copy ? HOME_RAM : HOME_MAPPED;
    if (t->role == ROLE_MTP)
        return block_home(c, d, t);
    if (c->rules[i] && !is_bound(c, d, t))
        return c->rules[i]->on_gpu ? HOME_GPU : host;
    bool on_gpu = t->role == ROLE_ROUTED                 ? t->layer >= d->cpu_moe &&
                                                           t->layer >= n_layers - d->gpu_layers
                : t->role == ROLE_EMBED && t->layer < 0  ? false
                : t->role == ROLE_HEAD || t->layer < 0   ? d->head
                                                         : t->layer >= n_layers - d->gpu_layers;
    return on_gpu ? HOME_GPU : host;
}

static uint64_t tensor_elements(const struct model_tensor *t)
{
    return t->tensor->ne[0] * tensor_rows(t->tensor);
}

uint64_t placement_tensor_bytes(const struct model_tensor *t, enum home home)
{
    uint64_t line = home == HOME_GPU ? GPU_LINE : LINE;
    if (t->spec->is_f32)
        return align_up(tensor_elements(t) * sizeof(float), line);
    return home == HOME_MAPPED ? t->tensor->bytes : align_up(t->tensor->bytes, line);
}

uint64_t placement_tensor_reads(const struct model *m, int i)
{
    const struct model_tensor *t = &m->tensors[i];
    if (t->role == ROLE_MTP)
        return 0;
    uint64_t bytes = t->spec->is_f32 ? tensor_elements(t) * sizeof(float) : t->tensor->bytes;
    if (t->role == ROLE_ROUTED)
        return bytes / (uint64_t)m->params.n_routed * (uint64_t)m->params.top_k;
    if (t->role == ROLE_EMBED && !m->params.tied_output)
        return bytes / t->tensor->ne[1];
    return bytes;
}

static enum part tensor_part(const struct model_tensor *t)
{
    return t->role == ROLE_MTP                             ? PART_DRAFT
         : t->role == ROLE_ROUTED                          ? PART_ROUTED
         : t->role == ROLE_EMBED || t->role == ROLE_HEAD   ? PART_ENDS
                                                           : PART_TRUNK;
}

/* Tensors come layer by layer. */
uint64_t placement_largest_expert(const struct model *m, bool drafts)
{
    uint64_t most = 0, bytes = 0;
    for (int i = 0; i < m->n_tensors; i++) {
        const struct model_tensor *t = &m->tensors[i];
        if (t->spec->role != ROLE_ROUTED || (t->role == ROLE_MTP && !drafts))
            continue;
        bytes = i > 0 && m->tensors[i - 1].layer == t->layer &&
                        m->tensors[i - 1].spec->role == ROLE_ROUTED
                    ? bytes
                    : 0;
        bytes += t->tensor->bytes / (uint64_t)m->params.n_routed;
        most = max_of(most, bytes);
    }
    return most;
}

uint64_t placement_one_expert_each(const struct chooser *c)
{
    uint64_t bytes = 0;
    int first = c->m->params.n_layers - c->p->gpu_layers;
    for (int i = 0; i < c->m->n_tensors; i++) {
        const struct model_tensor *t = &c->m->tensors[i];
        if (t->role == ROLE_ROUTED && t->layer >= first && c->p->homes[i] != HOME_GPU)
            bytes += t->tensor->bytes / (uint64_t)c->m->params.n_routed;
    }
    return bytes;
}

static uint64_t embedding_bytes(const struct model *m)
{
    for (int i = 0; i < m->n_tensors; i++)
        if (m->tensors[i].role == ROLE_EMBED && m->tensors[i].layer < 0)
            return m->tensors[i].tensor->bytes;
    return 0;
}

static void account_tensors(const struct chooser *c, const struct draft *d)
{
    struct placement *p = c->p;
    uint64_t copied = 0;
    for (int i = 0; i < c->m->n_tensors; i++) {
        const struct model_tensor *t = &c->m->tensors[i];
        enum home home = tensor_home(c, d, i);
        p->homes[i] = (unsigned char)home;
        if (home == HOME_NONE)
            continue;
        uint64_t bytes = placement_tensor_bytes(t, home);
        p->bytes[tensor_part(t)][home] += bytes;
        p->bytes_per_token[tensor_part(t)][home] += placement_tensor_reads(c->m, i);
        copied += home == HOME_RAM && !t->spec->is_f32 ? bytes : 0;
    }
    /* the copy is rounded up to whole huge pages; they count where most of it is */
    p->bytes[PART_TRUNK][HOME_RAM] += align_up(copied, HUGE_PAGE) - copied;
    /* a tied output matrix on the GPU is a second copy of the embedding, and read there */
    if (c->m->params.tied_output && d->head) {
        uint64_t bytes = embedding_bytes(c->m), row = bytes / (uint64_t)c->m->params.n_vocab;
        enum home host = d->copy ? HOME_RAM : HOME_MAPPED;
        p->bytes[PART_ENDS][HOME_GPU] += bytes;
        p->bytes_per_token[PART_ENDS][HOME_GPU] += bytes;
        p->bytes_per_token[PART_ENDS][host] -= bytes - row;
    }
}

static bool layer_on_gpu(const struct model *m, const struct draft *d, int layer)
{
    return layer >= m->params.n_layers - d->gpu_layers;
}

static void account_rest(const struct chooser *c, const struct draft *d)
{
    struct placement *p = c->p;
    const struct model *m = c->m;
    const struct params *q = &m->params;
    for (int i = 0; i < q->n_layers; i++) {
        enum home home = layer_on_gpu(m, d, i) ? HOME_GPU : HOME_RAM;
        uint64_t cache = kvcache_layer_bytes(m->arch, q, c->w->cache_type, d->n_ctx, i);
        p->bytes[PART_CACHE][home] += min_of(cache, ENDLESS_BYTES);
        if (m->arch->derived_bytes)
            p->bytes[PART_TRUNK][home] += m->arch->derived_bytes(m, i, c->w->act_f32);
    }
    if (c->drafts) {
        enum home home = all_on_gpu(m, d) ? HOME_GPU : HOME_RAM;
        int n_batch = (int)min_of((int64_t)p->n_batch, d->n_ctx);
        if (c->w->draft_bytes)
            p->bytes[PART_DRAFT][home] +=
                min_of(c->w->draft_bytes(m, c->w->cache_type, d->n_ctx, n_batch), ENDLESS_BYTES);
        if (m->arch->derived_bytes)
            p->bytes[PART_DRAFT][home] += m->arch->derived_bytes(m, q->n_layers, c->w->act_f32);
    }
    p->bytes[PART_WORK][HOME_RAM] =
        c->w->work_bytes ? c->w->work_bytes(m, c->w, d->n_ctx, c->w->work_ctx) : 0;
    bool uses_gpu = d->gpu_layers > 0 || p->bytes[PART_ROUTED][HOME_GPU] > 0 ||
                    p->bytes[PART_TRUNK][HOME_GPU] > 0;
    if (!uses_gpu)
        return;
    int n_batch = (int)min_of((int64_t)p->n_batch, d->n_ctx);
    int64_t tile = min_of((int64_t)ATTENTION_TILE, d->n_ctx);
    int64_t expanded = m->arch->has_latent_cache
                     ? (int64_t)q->n_heads * (q->qk_nope_dim + q->qk_rope_dim + q->value_dim) * 2
                     : 0;
    p->bytes[PART_DRIVER][HOME_GPU] = DRIVER_BYTES;
    p->bytes[PART_WORK][HOME_GPU] =
        c->w->gpu_work_bytes ? c->w->gpu_work_bytes(m, c->w, d->n_ctx, c->w->work_ctx)
                             : activations_bytes(m->arch, q, n_batch) + (uint64_t)(tile * expanded) +
                                   (uint64_t)q->n_vocab * sizeof(float);
    if (p->bytes[PART_ROUTED][HOME_RAM] + p->bytes[PART_ROUTED][HOME_MAPPED] > 0) {
        p->bytes[PART_STAGING][HOME_RAM] = 2 * (RING_COPIERS + 1) * p->expert_bytes;
        p->bytes[PART_STAGING][HOME_GPU] = RING_SLOTS * (RING_EXPERTS * p->expert_bytes + RING_BORDERS);
    }
}

bool placement_copy_asked(const struct placement_wishes *w)
{
    return w->load == LOAD_COPY || w->load == LOAD_DIRECT;
}

uint64_t placement_home_bytes(const struct placement *p, enum home home)
{
    uint64_t sum = 0;
    for (int part = 0; part < N_PARTS; part++)
        sum += p->bytes[part][home];
    return sum;
}

/* Room in main memory for what a draft allocates: what is free, less what it leaves to others. */
static uint64_t ram_room(const struct chooser *c, const struct draft *d)
{
    uint64_t left = !d->copy             ? RAM_MARGIN_BYTES
                  : placement_copy_asked(c->w)     ? COPY_ASKED_BYTES
                                         : COPY_ROOM_BYTES;
    uint64_t all = c->here->ram_bytes;
    return all > left ? all - left : 0;
}

/* Mapped pages have room too, unless the user accepts that they come from the disk again and again:
 * then what nobody asked for may take a quarter of the memory from them. */
static bool ram_fits(const struct chooser *c, const struct draft *d)
{
    uint64_t room = ram_room(c, d), used = c->p->ram_used, mapped = c->p->ram_mapped;
    if (used > room)
        return false;
    return mapped <= room - used || (c->w->force && used <= (c->w->n_ctx ? room : room / 4));
}

bool placement_try(const struct chooser *c, const struct draft *d)
{
    struct placement *p = c->p;
    memset(p->bytes, 0, sizeof p->bytes);
    memset(p->bytes_per_token, 0, sizeof p->bytes_per_token);
    p->n_ctx = d->n_ctx;
    p->copied = d->copy;
    p->gpu_layers = d->gpu_layers;
    p->cpu_moe = d->cpu_moe;
    p->head_on_gpu = d->head;
    p->expert_slots = 0;
    account_tensors(c, d);
    account_rest(c, d);
    p->ram_used = placement_home_bytes(p, HOME_RAM);
    p->ram_mapped = placement_home_bytes(p, HOME_MAPPED);
    p->vram_used = placement_home_bytes(p, HOME_GPU);
    p->ram_budget = ram_room(c, d);
    bool on_gpu = p->vram_used <= p->vram_budget, in_ram = ram_fits(c, d);
    p->short_home = on_gpu ? HOME_RAM : HOME_GPU;
    return p->fits = on_gpu && in_ram;
}
