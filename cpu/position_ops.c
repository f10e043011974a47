/* Operations that depend on the position of a token: its rotation, and its rows into the cache. */
#include "cpu/ops.h"

#include <assert.h>
#include <string.h>

#include "cpu/angles.h"
#include "cpu/sparse.h"
#include "src/base/util.h"

/* ---- rotation ---- */

struct rope_job {
    struct device_cpu *d;
    const struct angles *angles;
    const struct rope *rope;
    struct rows x;
    int n_heads;
    int64_t head_stride, offset;
};

static void angles_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct rope_job *j = ctx;
    int n_pairs = j->rope->n_rot / 2;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        double position = (double)(j->d->step.n_past + t);
        for (int i = 0; i < n_pairs; i++)
            angle_at(j->rope, position, i, &j->angles->cosine[t * n_pairs + i],
                     &j->angles->sine[t * n_pairs + i]);
    }
}

static void rotate_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct rope_job *j = ctx;
    int n_pairs = j->rope->n_rot / 2;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        for (int h = 0; h < j->n_heads; h++)
            rotate(j->x.data + t * j->x.stride + h * j->head_stride + j->offset,
                   j->angles->cosine + t * n_pairs, j->angles->sine + t * n_pairs,
                   j->rope->pairing, n_pairs);
    }
}

/* The angles of a rope, once per step: all layers share them. */
static const struct angles *angles_of(struct device_cpu *d, const struct rope *rope)
{
    struct angles *a = NULL;
    for (int i = 0; i < N_ANGLES && !a; i++)
        a = d->angles[i].rope == rope ? &d->angles[i] : NULL;
    if (!a) {
        a = &d->angles[d->next_angles];
        d->next_angles = (d->next_angles + 1) % N_ANGLES;
    } else if (a->step == d->n_steps) {
        return a;
    }
    struct rope_job job = { .d = d, .angles = a, .rope = rope };
    a->rope = rope;
    a->step = d->n_steps;
    pool_run(d->pool, angles_job, &job, d->step.n_tokens, 16);
    return a;
}

void cpu_rope(struct device *dev, struct rows x, const struct rope *rope, int n_heads,
              int64_t head_stride, int64_t offset)
{
    struct device_cpu *d = cpu(dev);
    assert(rope->n_rot <= d->options.head_width && rope->n_rot / 2 <= ROPE_MAX_PAIRS);
    struct rope_job job = { d, angles_of(d, rope), rope, x, n_heads, head_stride, offset };
    int64_t floats = max_of((int64_t)n_heads * rope->n_rot, 1);
    pool_run(d->pool, rotate_job, &job, d->step.n_tokens, max_of(SMALL_FLOATS / floats, 1));
}

/* ---- the cache ---- */

struct cache_job {
    struct device_cpu *d;
    struct rows k, v;
    void *k_cache, *v_cache;
    int64_t k_width, v_width;
    bool f16;
};

static void store(const struct cache_job *j, void *cache, int64_t width, const float *row,
                  int64_t position)
{
    if (j->f16)
        j->d->kernels.to_f16(row, (uint16_t *)cache + position * width, width);
    else
        memcpy((float *)cache + position * width, row, (size_t)width * sizeof *row);
}

static void store_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct cache_job *j = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t position = j->d->step.n_past + t;
        store(j, j->k_cache, j->k_width, j->k.data + t * j->k.stride, position);
        if (j->v.data)
            store(j, j->v_cache, j->v_width, j->v.data + t * j->v.stride, position);
    }
}

static void run_store(struct device_cpu *d, struct kvcache *c, int layer, struct rows k,
                      struct rows v)
{
    assert(d->step.n_past + d->step.n_tokens <= c->n_ctx);
    struct cache_job job = { d, k, v, c->k[layer], v.data ? c->v[layer] : NULL, c->k_width,
                             c->v_width, c->type == TYPE_F16 };
    int64_t floats = max_of(c->k_width + c->v_width, 1);
    pool_run(d->pool, store_job, &job, d->step.n_tokens, max_of(SMALL_FLOATS / floats, 1));
}

void cpu_cache_gqa(struct device *d, struct kvcache *c, int layer, struct rows k,
                   struct rows v)
{
    run_store(cpu(d), c, layer, k, v);
}

void cpu_cache_mla(struct device *d, struct kvcache *c, int layer, struct rows latent_rope)
{
    run_store(cpu(d), c, layer, latent_rope, (struct rows){ 0 });
}

void cpu_cache_index(struct device *d, struct kvcache *c, int layer, struct rows keys)
{
    assert(cpu(d)->step.n_past + cpu(d)->step.n_tokens <= c->n_ctx);
    index_store(cpu(d), &c->sparse[layer], keys);
}
