/* Operations that take each row, or each element, for itself: the embedding, norms, the router's
 * choice, SwiGLU, sums, copies. Rows go to the workers as they are; elements in fixed runs of
 * columns. */
#include "cpu/ops.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/router.h"
#include "src/base/util.h"

#define COLUMN_GRAIN 1024 /* columns per unit of elementwise work; results never depend on cuts */

/* ---- row by row ---- */

struct rows_job {
    struct device_cpu *d;
    struct rows dst, a, b, c;
    const struct weight *weight, *bias;
    int n_groups;
    float eps, low, high;
    const struct router *router;
};

/* Rows dealt out to the workers; in the calling thread when there is little to do. */
static void run_rows(struct rows_job *j, pool_job *job, int64_t width)
{
    int64_t grain = max_of(SMALL_FLOATS / max_of(width, 1), 1);
    pool_run(j->d->pool, job, j, j->d->step.n_tokens, grain);
}

static void embed_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct rows_job *j = ctx;
    const struct weight *w = j->weight;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        int64_t token = j->d->step.tokens[t];
        assert(token >= 0 && token < w->rows); /* ids are checked above the seam */
        j->d->kernels.decode[w->type]((const uint8_t *)w->data + (size_t)token * w->row_bytes,
                                      j->dst.data + t * j->dst.stride, w->cols);
    }
}

void cpu_embed(struct device *d, struct rows dst, const struct weight *w)
{
    struct rows_job job = { .d = cpu(d), .dst = dst, .weight = w };
    run_rows(&job, embed_job, w->cols);
}

/* Without a weight. */
static void normalize(const struct kernels *k, const float *x, float *y, int64_t n, float eps)
{
    float scale = 1 / sqrtf(k->dot_f32(x, x, n) / (float)n + eps);
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * scale;
}

static void rmsnorm_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct rows_job *j = ctx;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        for (int g = 0; g < j->n_groups; g++) {
            int64_t n = j->weight->cols, at = g * n;
            const float *x = j->a.data + t * j->a.stride + at;
            float *y = j->dst.data + t * j->dst.stride + at;
            if (j->weight->data)
                j->d->kernels.rmsnorm(x, j->weight->data, y, n, j->eps);
            else
                normalize(&j->d->kernels, x, y, n, j->eps);
        }
    }
}

void cpu_rmsnorm(struct device *d, struct rows dst, struct rows src,
                 const struct weight *weight, int n_groups, float eps)
{
    assert(!weight->data || weight->type == TYPE_F32);
    struct rows_job job = { .d = cpu(d), .dst = dst, .a = src, .weight = weight,
                            .n_groups = n_groups, .eps = eps };
    run_rows(&job, rmsnorm_job, weight->cols * n_groups);
}

static void layernorm_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct rows_job *j = ctx;
    const float *weight = j->weight->data, *bias = j->bias->data;
    int64_t n = j->weight->cols;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const float *x = j->a.data + t * j->a.stride;
        float *y = j->dst.data + t * j->dst.stride;
        double mean = 0, variance = 0;
        for (int64_t i = 0; i < n; i++)
            mean += (double)x[i] / (double)n;
        for (int64_t i = 0; i < n; i++)
            variance += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
        double scale = 1 / sqrt(variance + (double)j->eps);
        for (int64_t i = 0; i < n; i++)
            y[i] = (float)(((double)x[i] - mean) * scale) * weight[i] + bias[i];
    }
}

void cpu_layernorm(struct device *d, struct rows dst, struct rows src,
                   const struct weight *weight, const struct weight *bias, float eps)
{
    assert(weight->type == TYPE_F32 && bias->type == TYPE_F32);
    struct rows_job job = { .d = cpu(d), .dst = dst, .a = src, .weight = weight, .bias = bias,
                            .eps = eps };
    run_rows(&job, layernorm_job, 4 * weight->cols);
}

static void router_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct rows_job *j = ctx;
    struct choice *c = &j->d->choice;
    (void)worker;
    for (int64_t t = begin; t < end; t++)
        router_choose(j->router, j->a.data + t * j->a.stride, j->d->step.tokens[t],
                      c->ids + t * c->top_k, c->weights + t * c->top_k);
}

void cpu_router_topk(struct device *d, const struct router *r, struct rows scores)
{
    assert(r->top_k <= cpu(d)->options.top_k && r->n_routed <= cpu(d)->options.n_routed);
    cpu(d)->choice.top_k = r->top_k;
    struct rows_job job = { .d = cpu(d), .a = scores, .router = r };
    run_rows(&job, router_job, (int64_t)r->n_routed * r->top_k);
}

bool cpu_read_choice(struct device *d, int32_t *ids, float *weights, struct error *err)
{
    const struct choice *c = &cpu(d)->choice;
    size_t n = (size_t)cpu(d)->step.n_tokens * (size_t)c->top_k;
    (void)err;
    memcpy(ids, c->ids, n * sizeof *ids);
    memcpy(weights, c->weights, n * sizeof *weights);
    return true;
}

/* ---- element by element: cut at fixed columns, so that a single long row is shared too ---- */

static void elementwise(struct rows_job *j, pool_job *job)
{
    int64_t pieces = (j->dst.width + COLUMN_GRAIN - 1) / COLUMN_GRAIN;
    pool_run(j->d->pool, job, j, pieces * j->d->step.n_tokens, SMALL_FLOATS / COLUMN_GRAIN);
}

/* Token and columns of unit `unit`. */
static int64_t piece(const struct rows_job *j, int64_t unit, int64_t *token, int64_t *n)
{
    int64_t pieces = (j->dst.width + COLUMN_GRAIN - 1) / COLUMN_GRAIN;
    int64_t first = unit % pieces * COLUMN_GRAIN;
    *token = unit / pieces;
    *n = min_of(j->dst.width - first, COLUMN_GRAIN);
    return first;
}

static void swiglu_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct rows_job *j = ctx;
    (void)worker;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t t, n, at = piece(j, unit, &t, &n);
        j->d->kernels.swiglu(j->a.data + t * j->a.stride + at, j->b.data + t * j->b.stride + at,
                             j->dst.data + t * j->dst.stride + at, n);
    }
}

void cpu_swiglu(struct device *d, struct rows dst, struct rows gate, struct rows up)
{
    struct rows_job job = { .d = cpu(d), .dst = dst, .a = gate, .b = up };
    elementwise(&job, swiglu_job);
}

static void clamp_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct rows_job *j = ctx;
    (void)worker;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t t, n, at = piece(j, unit, &t, &n);
        clamp_floats(j->dst.data + t * j->dst.stride + at, n, j->low, j->high);
    }
}

void cpu_clamp(struct device *d, struct rows x, float low, float high)
{
    struct rows_job job = { .d = cpu(d), .dst = x, .low = low, .high = high };
    elementwise(&job, clamp_job);
}

static void add_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct rows_job *j = ctx;
    (void)worker;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t t, n, at = piece(j, unit, &t, &n);
        float *dst = j->dst.data + t * j->dst.stride + at;
        j->d->kernels.add(j->a.data + t * j->a.stride + at, j->b.data + t * j->b.stride + at, dst,
                          n);
        if (j->c.data)
            j->d->kernels.add(dst, j->c.data + t * j->c.stride + at, dst, n);
    }
}

void cpu_add(struct device *d, struct rows dst, struct rows a, struct rows b)
{
    struct rows_job job = { .d = cpu(d), .dst = dst, .a = a, .b = b };
    elementwise(&job, add_job);
}

/* (a + b) + c. The sum goes through dst, so dst may be a or b; when it is c, c is added first. */
void cpu_add3(struct device *d, struct rows dst, struct rows a, struct rows b, struct rows c)
{
    struct rows_job job = { .d = cpu(d), .dst = dst, .a = a, .b = b, .c = c };
    if (dst.data == c.data) {
        job.a = c;
        job.b = a;
        job.c = b;
        if (dst.data == b.data) /* c and b are one */
            job.b = b, job.c = a;
    }
    elementwise(&job, add_job);
}

static void copy_job(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct rows_job *j = ctx;
    (void)worker;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t t, n, at = piece(j, unit, &t, &n);
        memmove(j->dst.data + t * j->dst.stride + at, j->a.data + t * j->a.stride + at,
                (size_t)n * sizeof(float));
    }
}

void cpu_copy(struct device *d, struct rows dst, struct rows src)
{
    struct rows_job job = { .d = cpu(d), .dst = dst, .a = src };
    elementwise(&job, copy_job);
}
