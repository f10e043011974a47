#include "src/model/kvcache.h"

#include "src/base/mem.h"
#include "src/base/util.h"

#define ALIGNMENT 64

/* Elements per position and layer, of keys (or latents) and of values. */
static void cache_widths(const struct arch *arch, const struct params *p, int64_t *k, int64_t *v)
{
    *k = params_dim(p, arch->has_latent_cache ? DIM_KV_A : DIM_KV);
    *v = arch->has_latent_cache ? 0 : params_dim(p, DIM_V);
}

/* Bytes of one layer's keys (or values), padded so that the next one starts aligned. */
static uint64_t part_bytes(int64_t width, enum tensor_type type, int64_t n_ctx)
{
    uint64_t bytes, element = type == TYPE_F32 ? 4 : 2;
    if (__builtin_mul_overflow((uint64_t)width * element, (uint64_t)n_ctx, &bytes) ||
        bytes > UINT64_MAX / 4096)
        return UINT64_MAX;
    return align_up(bytes, ALIGNMENT);
}

uint64_t kvcache_layer_bytes(const struct arch *arch, const struct params *p, enum tensor_type type,
                             int64_t n_ctx, int layer)
{
    int64_t k_width, v_width;
    if (arch->cache_bytes)
        return arch->cache_bytes(p, type, n_ctx, layer);
    cache_widths(arch, p, &k_width, &v_width);
    uint64_t k = part_bytes(k_width, type, n_ctx), v = part_bytes(v_width, type, n_ctx);
    return k == UINT64_MAX || v == UINT64_MAX ? UINT64_MAX : k + v;
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

bool kvcache_open(struct kvcache *c, const struct arch *arch, const struct params *p,
                  enum tensor_type type, int64_t n_ctx, struct device *d, struct error *err)
{
    *c = (struct kvcache){ .type = type, .n_layers = p->n_layers, .n_ctx = n_ctx };
    cache_widths(arch, p, &c->k_width, &c->v_width);
    uint64_t bytes = kvcache_bytes(arch, p, type, n_ctx);
    if (bytes > SIZE_MAX / 2)
        return fail(err, ERR_FIT, "a cache of %lld positions is too large", (long long)n_ctx);
    c->bytes = (size_t)bytes;
    c->k = mem_alloc((size_t)p->n_layers * 2, sizeof *c->k, "cache table", err);
    char *block = c->k ? d->ops->alloc(d, c->bytes, "cache", err) : NULL;
    if (!block) {
        mem_free(c->k);
        *c = (struct kvcache){ 0 };
        return false;
    }
    c->v = c->k + p->n_layers;
    for (int i = 0; i < p->n_layers; i++) {
        c->k[i] = block;
        block += part_bytes(c->k_width, type, n_ctx);
        c->v[i] = c->v_width ? block : NULL;
        block += part_bytes(c->v_width, type, n_ctx);
    }
    return true;
}

void kvcache_close(struct kvcache *c, struct device *d)
{
    if (c->k)
        d->ops->release(d, c->k[0]);
    mem_free(c->k);
    *c = (struct kvcache){ 0 };
}
