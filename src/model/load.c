/* Making weights ready: mapped pages brought in once, or a copy in huge pages of our own.
 *
 * Copied weights decode faster, because streaming through 4 KiB pages keeps the hardware from reading
 * ahead: V2-Lite's shape cut to 6 layers, 2 threads, in pairs: 38.9 and 34.5 tok/s mapped, 44.2 and
 * 44.7 copied. So the placement (placement.h) asks for a copy when weights, cache and room for everybody
 * else fit into memory, and for a mapping otherwise: the system then keeps what it can. The page cache behind a copy is given back unless
 * there is room for both, which makes the next start quick.
 *
 * Mapped pages are not only read but mapped, all of them: else decode takes a page fault for every
 * 64 KiB it meets the first time. MADV_RANDOM is not used on mapped experts: an expert is megabytes
 * in a row, and where a model is larger than memory the read-ahead is what makes fetching one
 * bearable. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/pages.h"
#include "src/format/quant.h"
#include "src/model/arch.h"
#include "src/model/copy.h"
#include "src/model/memory.h"
#include "src/model/placement.h"

#define PROGRESS_S 0.05
#define MARGIN_BYTES ((uint64_t)256 << 20) /* left to the system when copying was asked for */
#define ROOM_BYTES ((uint64_t)2 << 30)     /* of page cache worth keeping behind a copy */

struct loader {
    struct model *m;
    const struct load_options *o;
    uint64_t done, total; /* bytes of weights */
    double last_s;
    struct model_tensor **order; /* [n_order] the matrices, in the order to be read */
    int n_order;
    struct extent *extents;
    size_t n_extents;
};

/* Tell the caller how far we are, at most every PROGRESS_S unless `now`. */
static bool tick(struct loader *l, bool now, struct error *err)
{
    double t = now_s();
    if (!l->o->progress || (!now && t - l->last_s < PROGRESS_S))
        return true;
    l->last_s = t;
    if (l->o->progress(l->o->ctx, l->done, l->total))
        return true;
    return fail(err, ERR_INTERRUPTED, "loading was interrupted");
}

static bool is_matrix(const struct model_tensor *mt)
{
    return !mt->spec->is_f32 && mt->role != ROLE_MTP;
}

/* As they lie in the files: a disk likes that best. */
static int by_place(const void *a, const void *b)
{
    const struct tensor *x = (*(struct model_tensor *const *)a)->tensor;
    const struct tensor *y = (*(struct model_tensor *const *)b)->tensor;
    if (x->shard != y->shard)
        return x->shard - y->shard;
    return (x->file_offset > y->file_offset) - (x->file_offset < y->file_offset);
}

/* The trunk first, then by place: where not all fits, what is read for every token shall be there. */
static int trunk_first(const void *a, const void *b)
{
    int x = (*(struct model_tensor *const *)a)->role == ROLE_ROUTED;
    int y = (*(struct model_tensor *const *)b)->role == ROLE_ROUTED;
    return x != y ? x - y : by_place(a, b);
}

static bool list_matrices(struct loader *l, struct error *err)
{
    size_t n = (size_t)l->m->n_tensors;
    l->order = mem_alloc(n, sizeof *l->order, "list of tensors", err);
    if (!l->order)
        return false;
    for (int i = 0; i < l->m->n_tensors; i++) {
        if (!is_matrix(&l->m->tensors[i]) || (l->o->homes && l->o->homes[i] == HOME_GPU))
            continue;
        l->order[l->n_order++] = &l->m->tensors[i];
        l->total += l->m->tensors[i].tensor->bytes;
    }
    return true;
}

static bool read_extents(struct loader *l, bool direct, bool drop_cache, struct error *err)
{
    struct reading r = {
        .gguf = &l->m->gguf, .extents = l->extents, .n_extents = l->n_extents,
        .direct = direct, .drop_cache = drop_cache,
        .progress = l->o->progress, .ctx = l->o->ctx, .done = l->done, .total = l->total,
    };
    bool ok = reading_run(&r, err);
    l->done = r.done;
    return ok;
}

/* Routed experts that do not fit are left to be fetched when they are chosen. */
static bool map_all(struct loader *l, struct error *err)
{
    uint64_t budget = memory_available(), taken = 0;
    l->extents = mem_alloc((size_t)l->n_order, sizeof *l->extents, "list of what to read", err);
    if (!l->extents)
        return false;
    qsort(l->order, (size_t)l->n_order, sizeof *l->order, trunk_first);
    for (int i = 0; i < l->n_order; i++) {
        const struct tensor *t = l->order[i]->tensor;
        if (l->order[i]->role == ROLE_ROUTED && taken + t->bytes > budget)
            continue;
        l->extents[l->n_extents++] = (struct extent){ t->shard, t->file_offset, t->bytes, NULL };
        taken += t->bytes;
    }
    if (l->n_extents < (size_t)l->n_order)
        log_note("the model is larger than free memory (%" PRIu64 " MiB): experts are read from "
                 "the file when they are chosen", budget >> 20);
    return read_extents(l, false, false, err);
}

/* Parts that routed experts are split into: one for each memory node with workers on it. */
static int choose_parts(const struct loader *l)
{
    int n = l->o->n_parts ? l->o->n_parts : cpus_usable()->n_nodes;
    return max_of(1, min_of(n, NODES_MAX));
}

/* Ask for pages near those who will read them. */
static void bind_copy(const struct copy *c, char *base)
{
    const struct cpus *cpus = cpus_usable();
    uint64_t balancing = 0;
    if (c->n_parts == 1 || cpus->n_nodes == 1)
        return;
    if (!copy_bind(c, base, cpus))
        log_note("weights cannot be placed on their memory nodes: %s", strerror(errno));
    FILE *f = fopen("/proc/sys/kernel/numa_balancing", "re");
    if (f && fscanf(f, "%" SCNu64, &balancing) == 1 && balancing)
        log_detail("kernel.numa_balancing is on: it moves pages while they are read; "
                   "\"sysctl kernel.numa_balancing=0\" turns it off");
    if (f)
        fclose(f);
}

static bool copy_all(struct loader *l, bool direct, struct error *err)
{
    struct model *m = l->m;
    struct copy c = { .tensors = l->order, .n_tensors = l->n_order, .n_parts = choose_parts(l) };
    qsort(l->order, (size_t)l->n_order, sizeof *l->order, by_place);
    copy_measure(&c);
    size_t bytes = c.common_bytes + (size_t)c.n_parts * c.part_bytes;
    uint64_t available = memory_available();
    if (available < MARGIN_BYTES || bytes > available - MARGIN_BYTES)
        return fail(err, ERR_FIT, "a copy of the model needs %zu MiB, available are %" PRIu64
                    " MiB; --load mmap needs less", bytes >> 20, available >> 20);
    l->extents = mem_alloc(c.n_extents, sizeof *l->extents, "list of what to read", err);
    m->copy = l->extents ? mem_map(bytes, "copy of the model", err) : NULL;
    if (!m->copy)
        return false;
    m->copy_bytes = bytes;
    m->n_parts = c.n_parts;
    l->n_extents = c.n_extents;
    copy_place(&c, m->copy, l->extents);
    bind_copy(&c, m->copy);
    double start = now_s();
    if (!read_extents(l, direct, available / 2 < bytes + ROOM_BYTES / 2, err))
        return false;
    struct pages p;
    if (pages_of(m->copy, bytes, &p))
        log_detail("copied %zu MiB in %.2f s, %.0f %% of it in huge pages", bytes >> 20,
                   now_s() - start, 100 * (double)p.huge_bytes / (double)p.resident_bytes);
    return true;
}

/* Norms, biases and routers: decoded to F32 in the model's arena. */
static bool decode_small(struct model *m, struct error *err)
{
    for (int i = 0; i < m->n_tensors; i++) {
        struct model_tensor *mt = &m->tensors[i];
        struct weight *w = mt->weight;
        if (!mt->spec->is_f32)
            continue;
        int64_t n = w->cols * w->rows * w->n_matrices;
        float *values = arena_alloc(&m->arena, (size_t)n, sizeof *values, err);
        if (!values)
            return false;
        quant_traits(w->type)->dequantize(mt->tensor->data, values, n);
        w->data = values;
        w->type = TYPE_F32;
        w->row_bytes = (size_t)w->cols * sizeof *values;
        w->matrix_bytes = w->row_bytes * (size_t)w->rows;
    }
    return true;
}

/* Views and operation structs on the new addresses; then what this file lacks, and again. */
static bool assemble_all(struct loader *l, struct error *err)
{
    struct model *m = l->m;
    size_t before = m->arena.total_bytes;
    for (int i = 0; i < m->params.n_layers + m->params.n_mtp; i++) {
        if (!m->arch->assemble(m, i, err) || !tick(l, false, err))
            return false;
        if (m->arch->derive &&
            (!m->arch->derive(m, i, l->o->act_f32, err) || !m->arch->assemble(m, i, err)))
            return false;
    }
    m->derived_bytes = m->arena.total_bytes - before;
    if (m->params.tied_output)
        m->output = m->token_embd;
    return true;
}

/* The bytes of all extents where they lie now. */
static uint64_t each_extent(const struct loader *l, int (*act)(const void *data, size_t bytes),
                            bool *ok)
{
    uint64_t bytes = 0;
    *ok = true;
    for (size_t i = 0; i < l->n_extents; i++) {
        const struct extent *e = &l->extents[i];
        const char *map = (const char *)l->m->gguf.shards[e->shard].map;
        *ok = *ok && act(e->to ? e->to : map + e->offset, e->bytes) == 0;
        bytes += e->bytes;
    }
    return bytes;
}

/* All or nothing, and never a reason not to run. */
static void lock_weights(const struct loader *l)
{
    bool ok, unlocked;
    uint64_t bytes = each_extent(l, mlock, &ok);
    if (ok) {
        log_detail("--mlock: %" PRIu64 " MiB of weights are locked in memory", bytes >> 20);
        return;
    }
    char reason[128];
    struct rlimit limit = { 0 };
    snprintf(reason, sizeof reason, "%s", strerror(errno));
    each_extent(l, munlock, &unlocked);
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0 && limit.rlim_cur < bytes)
        log_note("--mlock: nothing is locked: this process may lock %" PRIu64 " KiB, the weights "
                 "take %" PRIu64 " KiB; try after \"ulimit -l unlimited\", or raise memlock in "
                 "/etc/security/limits.conf", (uint64_t)limit.rlim_cur >> 10, bytes >> 10);
    else
        log_note("--mlock: nothing is locked: %s", reason);
}

bool model_load(struct model *m, const struct load_options *o, struct error *err)
{
    struct loader l = { .m = m, .o = o, .last_s = now_s() };
    bool ok = list_matrices(&l, err) && tick(&l, true, err);
    if (ok && (o->mode == LOAD_COPY || o->mode == LOAD_DIRECT))
        ok = copy_all(&l, o->mode == LOAD_DIRECT, err);
    else
        ok = ok && (o->lazy || map_all(&l, err));
    ok = ok && decode_small(m, err) && assemble_all(&l, err);
    if (ok && o->lock)
        lock_weights(&l);
    mem_free(l.order);
    mem_free(l.extents);
    l.done = l.total;
    return model_check_files(m, err) && ok && tick(&l, true, err);
}
