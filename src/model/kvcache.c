#include "src/model/kvcache.h"

#include <stdatomic.h>

#include "src/base/mem.h"
#include "src/base/util.h"

#define ALIGNMENT 64

/* ---- parts and sizes ---- */

static struct cache_part rows_part(const char *name, int layer, int64_t width,
                                   enum tensor_type type, int64_t n_ctx)
{
    return (struct cache_part){
        .name = name, .layer = layer, .kind = CACHE_ROWS, .n_rows = n_ctx, .span = 1,
        .row_bytes = (size_t)width * (type == TYPE_F32 ? 4 : 2),
    };
}

static int layer_parts(const struct arch *arch, const struct params *p, enum tensor_type type,
                       int64_t n_ctx, int layer, struct cache_part *parts)
{
    if (arch->cache_parts)
        return arch->cache_parts(p, type, n_ctx, layer, parts);
    if (arch->has_latent_cache) {
        parts[0] = rows_part("latent", layer, params_dim(p, DIM_KV_A), type, n_ctx);
        return 1;
    }
    parts[0] = rows_part("k", layer, params_dim(p, DIM_KV), type, n_ctx);
    parts[1] = rows_part("v", layer, params_dim(p, DIM_V), type, n_ctx);
    return 2;
}

/* Bytes of a part, padded so that the next one starts aligned. */
static uint64_t part_bytes(const struct cache_part *part)
{
    uint64_t bytes;
    if (__builtin_mul_overflow((uint64_t)part->row_bytes, (uint64_t)part->n_rows, &bytes) ||
        bytes > UINT64_MAX / 4096 / CACHE_MAX_PARTS)
        return UINT64_MAX;
    return align_up(bytes, ALIGNMENT);
}

uint64_t kvcache_layer_bytes(const struct arch *arch, const struct params *p, enum tensor_type type,
                             int64_t n_ctx, int layer)
{
    struct cache_part parts[CACHE_MAX_PARTS];
    uint64_t sum = 0;
    int n = layer_parts(arch, p, type, n_ctx, layer, parts);
    for (int i = 0; i < n; i++) {
        uint64_t bytes = part_bytes(&parts[i]);
        if (bytes == UINT64_MAX)
            return UINT64_MAX;
        sum += bytes;
    }
    return sum;
}

uint64_t kvcache_bytes(const struct arch *arch, const struct params *p, enum tensor_type type,
                       int64_t n_ctx)
{
    uint64_t sum = 0; /* of at most 512 layers, each below 2^53 */
    for (int i = 0; i < p->n_layers; i++) {
        uint64_t layer = kvcache_layer_bytes(arch, p, type, n_ctx, i);
        if (layer == UINT64_MAX)
            return UINT64_MAX;
        sum += layer;
    }
    return sum;
}

/* ---- open and close ---- */

static void *data_of(const struct kvcache *c, int layer, const char *name)
{
    const struct cache_part *part = kvcache_part(c, layer, name);
    return part ? part->data : NULL;
}

/* The parts of sparse attention where devices look for them. */
static struct kv_sparse sparse_of(const struct kvcache *c, int layer)
{
    const struct cache_part *window = kvcache_part(c, layer, "window");
    const struct cache_part *state = kvcache_part(c, layer, "state");
    return (struct kv_sparse){
        .index = data_of(c, layer, "index"), .window = data_of(c, layer, "window"),
        .blocks = data_of(c, layer, "blocks"), .index_scale = data_of(c, layer, "index_scale"),
        .state = data_of(c, layer, "state"),
        .index_state = data_of(c, layer, "index_state"),
        .n_window = window ? window->n_rows : 0, .n_state = state ? state->n_rows : 0,
    };
}

/* Give every part its place in the block. k is the first part of a layer, v the one of that name. */
static void place_parts(struct kvcache *c, const struct arch *arch, const struct params *p,
                        char *block)
{
    for (int layer = 0; layer < c->n_layers; layer++) {
        struct cache_part *parts = &c->parts[c->n_parts];
        int n = layer_parts(arch, p, c->type, c->n_ctx, layer, parts);
        for (int i = 0; i < n; i++) {
            parts[i].data = block;
            block += part_bytes(&parts[i]);
        }
        c->n_parts += n;
        c->k[layer] = parts[0].data;
        const struct cache_part *v = kvcache_part(c, layer, "v");
        c->v[layer] = v ? v->data : NULL;
        c->sparse[layer] = sparse_of(c, layer);
    }
}

bool kvcache_open(struct kvcache *c, const struct arch *arch, const struct params *p,
                  enum tensor_type type, int64_t n_ctx, struct device *d, struct error *err)
{
    static atomic_uint_fast64_t n_opened;
    *c = (struct kvcache){ .type = type, .n_layers = p->n_layers, .n_ctx = n_ctx };
    c->id = atomic_fetch_add(&n_opened, 1) + 1;
    c->k_width = params_dim(p, arch->has_latent_cache ? DIM_KV_A : DIM_KV);
    c->v_width = arch->has_latent_cache ? 0 : params_dim(p, DIM_V);
    uint64_t bytes = kvcache_bytes(arch, p, type, n_ctx);
    if (bytes > SIZE_MAX / 2)
        return fail(err, ERR_FIT, "a cache of %lld positions is too large", (long long)n_ctx);
    c->bytes = (size_t)bytes;
    c->k = mem_alloc((size_t)p->n_layers * 2, sizeof *c->k, "cache table", err);
    c->parts = c->k ? mem_alloc((size_t)p->n_layers * CACHE_MAX_PARTS, sizeof *c->parts,
                                "cache table", err) : NULL;
    c->sparse = c->parts ? mem_alloc((size_t)p->n_layers, sizeof *c->sparse, "cache table", err)
                         : NULL;
    char *block = c->sparse ? d->ops->alloc(d, c->bytes, "cache", err) : NULL;
    if (!block) {
        mem_free(c->k);
        mem_free(c->parts);
        mem_free(c->sparse);
        *c = (struct kvcache){ 0 };
        return false;
    }
    c->v = c->k + p->n_layers;
    place_parts(c, arch, p, block);
    return true;
}

void kvcache_close(struct kvcache *c, struct device *d)
{
    if (c->k)
        d->ops->release(d, c->k[0]);
    mem_free(c->k);
    mem_free(c->parts);
    mem_free(c->sparse);
    *c = (struct kvcache){ 0 };
}

const struct cache_part *kvcache_part(const struct kvcache *c, int layer, const char *name)
{
    for (int i = 0; i < c->n_parts; i++)
        if (c->parts[i].layer == layer && strcmp(c->parts[i].name, name) == 0)
            return &c->parts[i];
    return NULL;
}

/* ---- copies ---- */

static int64_t complete_rows(const struct cache_part *part, int64_t n_positions)
{
    return max_of((int64_t)0, n_positions - part->lag) / part->span;
}

struct cache_range cache_part_added(const struct cache_part *part, int64_t from, int64_t to)
{
    int64_t first = 0, end = part->n_rows;
    if (part->kind == CACHE_ROWS) {
        first = complete_rows(part, from);
        end = complete_rows(part, to);
    } else if (part->kind == CACHE_RING) {
        first = max_of(from, to - part->n_rows);
        end = to;
    }
    return (struct cache_range){ first, max_of((int64_t)0, end - first) };
}

/* Where unit `first` lies, and how many of n lie there one behind the other. */
static char *run_at(const struct cache_part *part, int64_t first, int64_t *n)
{
    int64_t row = part->kind == CACHE_RING ? first % part->n_rows : first;
    *n = min_of(*n, part->n_rows - row);
    return part->data + (size_t)row * part->row_bytes;
}

bool cache_part_read(const struct cache_part *part, struct device *d, int64_t first, int64_t n,
                     void *rows, struct error *err)
{
    char *to = rows;
    for (int64_t left = n, run; left > 0; first += run, left -= run) {
        run = left;
        const char *at = run_at(part, first, &run);
        if (!d->ops->read(d, to, at, (size_t)run * part->row_bytes, err))
            return false;
        to += (size_t)run * part->row_bytes;
    }
    return true;
}

bool cache_part_write(const struct cache_part *part, struct device *d, int64_t first, int64_t n,
                      const void *rows, struct error *err)
{
    const char *from = rows;
    for (int64_t left = n, run; left > 0; first += run, left -= run) {
        run = left;
        char *at = run_at(part, first, &run);
        if (!d->ops->write(d, at, from, (size_t)run * part->row_bytes, err))
            return false;
        from += (size_t)run * part->row_bytes;
    }
    return true;
}

/* ---- made up contexts ---- */

#define REPEAT_ROWS 1024 /* written at a time */

/* Rows r, r + 1, ... of a part, each a copy of one of the n_real rows in `real`. */
static void draw_rows(const struct cache_part *part, const char *real, int64_t n_real, int64_t r,
                      int64_t n, char *rows)
{
    for (int64_t i = 0; i < n; i++) {
        uint64_t mixed = ((uint64_t)(r + i) + 1) * 0x9e3779b97f4a7c15u; /* 2^64 by the golden ratio */
        uint64_t from = ((mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9u >> 32) % (uint64_t)n_real;
        memcpy(rows + (size_t)i * part->row_bytes, real + (size_t)from * part->row_bytes,
               part->row_bytes);
    }
}

static bool repeat_part(const struct cache_part *part, struct device *d, int64_t n_real, int64_t n,
                        struct error *err)
{
    int64_t first = complete_rows(part, n_real), end = complete_rows(part, n);
    if (part->kind != CACHE_ROWS || first < 1)
        return true;
    char *real = mem_alloc((size_t)(first + REPEAT_ROWS), part->row_bytes, "rows to repeat", err);
    bool ok = real && cache_part_read(part, d, 0, first, real, err);
    char *rows = ok ? real + (size_t)first * part->row_bytes : NULL;
    for (int64_t r = first, many; ok && r < end; r += many) {
        many = min_of(end - r, (int64_t)REPEAT_ROWS);
        draw_rows(part, real, first, r, many, rows);
        ok = cache_part_write(part, d, r, many, rows, err);
    }
    mem_free(real);
    return ok;
}

bool kvcache_repeat(const struct kvcache *c, struct device *d, int64_t n_real, int64_t n,
                    struct error *err)
{
    bool ok = true;
    for (int i = 0; ok && i < c->n_parts; i++)
        ok = repeat_part(&c->parts[i], d, n_real, n, err);
    return ok;
}
