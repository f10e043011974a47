/* Hyper-connections: a token's streams become the input of a sublayer, and its output is spread over
 * them again. A few multiplications per element of the streams: bound by reading those. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/sparse.h"
#include "src/base/util.h"

#define MOST_STREAMS 8
#define GRAIN 16384   /* floats of streams worth another worker */
#define COLUMNS 512   /* of one stream per unit: all streams stay in the first cache */

static float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

/* Rows, then columns, are divided by their sums, n_passes times; the softmax was the first pass over
 * rows. The first index of c is the source. */
static void sinkhorn(const struct hyper *h, float *c)
{
    int n = h->n_streams;
    for (int pass = 0; pass < h->n_passes; pass++) {
        for (int j = 0; j < n && pass > 0; j++) {
            float sum = h->eps;
            for (int k = 0; k < n; k++)
                sum += c[j * n + k];
            for (int k = 0; k < n; k++)
                c[j * n + k] /= sum;
        }
        for (int k = 0; k < n; k++) {
            float sum = h->eps;
            for (int j = 0; j < n; j++)
                sum += c[j * n + k];
            for (int j = 0; j < n; j++)
                c[j * n + k] /= sum;
        }
    }
}

static void softmax(float *x, int n, float eps)
{
    float max = -INFINITY, sum = 0;
    for (int i = 0; i < n; i++)
        max = max_of(max, x[i]);
    for (int i = 0; i < n; i++)
        sum += x[i] = expf(x[i] - max);
    for (int i = 0; i < n; i++)
        x[i] = x[i] / sum + eps;
}

void hyper_gates(const struct hyper *h, const float *mix, float *pre, float *post, float *c)
{
    const float *scale = h->scale.data, *base = h->base.data;
    int n = h->n_streams;
    for (int i = 0; i < n; i++)
        pre[i] = sigmoid(mix[i] * scale[0] + base[i]) + h->eps;
    if (h->base.cols == n)
        return;
    for (int i = 0; i < n; i++)
        post[i] = 2 * sigmoid(mix[n + i] * scale[1] + base[n + i]);
    for (int i = 0; i < n * n; i++)
        c[i] = mix[2 * n + i] * scale[2] + base[2 * n + i];
    for (int j = 0; j < n; j++)
        softmax(c + j * n, n, h->eps);
    sinkhorn(h, c);
}

struct hyper_job {
    struct device_cpu *d;
    struct rows dst, mix, hidden, out;
    const struct hyper *h;
    int n;           /* streams */
    int64_t pieces;  /* of COLUMNS columns */
};

/* Unit: one token. */
static void run_mix(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct hyper_job *j = ctx;
    const struct kernels *k = &j->d->kernels;
    int64_t width = j->dst.width;
    (void)worker;
    for (int64_t t = begin; t < end; t++) {
        const float *x = j->hidden.data + t * j->hidden.stride;
        float *mix = j->mix.data + t * j->mix.stride, *dst = j->dst.data + t * j->dst.stride;
        float pre[MOST_STREAMS], scaled[MOST_STREAMS * (MOST_STREAMS + 2)];
        float square = k->dot_f32(x, x, j->n * width);
        float inverse = 1 / sqrtf(square / (float)(j->n * width) + j->h->rms_eps);
        for (int64_t i = 0; i < j->mix.width; i++)
            scaled[i] = mix[i] * inverse;
        hyper_gates(j->h, scaled, pre, mix, mix + j->n);
        for (int64_t i = 0; i < width; i++)
            dst[i] = pre[0] * x[i];
        for (int s = 1; s < j->n; s++)
            k->axpy_f32(pre[s], x + s * width, dst, width);
    }
}

void hyper_run_mix(struct device_cpu *d, struct rows dst, struct rows mix, struct rows hidden,
                   const struct hyper *h)
{
    struct hyper_job job = { .d = d, .dst = dst, .mix = mix, .hidden = hidden, .h = h,
                             .n = h->n_streams };
    assert(h->n_streams <= MOST_STREAMS && h->base.cols == mix.width &&
           hidden.width == dst.width * h->n_streams);
    pool_run(d->pool, run_mix, &job, d->step.n_tokens, max_of(GRAIN / hidden.width, 1));
}

/* Unit: COLUMNS columns of all streams of one token. */
static void run_join(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct hyper_job *j = ctx;
    const struct kernels *k = &j->d->kernels;
    int64_t width = j->out.width;
    (void)worker;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t t = unit / j->pieces, first = unit % j->pieces * COLUMNS;
        int64_t n = min_of(width - first, (int64_t)COLUMNS);
        const float *post = j->mix.data + t * j->mix.stride, *c = post + j->n;
        const float *out = j->out.data + t * j->out.stride + first;
        float *x = j->hidden.data + t * j->hidden.stride + first;
        float before[MOST_STREAMS][COLUMNS];
        for (int s = 0; s < j->n; s++) {
            memcpy(before[s], x + s * width, (size_t)n * sizeof *x);
            memset(x + s * width, 0, (size_t)n * sizeof *x);
        }
        for (int s = 0; s < j->n; s++) {
            k->axpy_f32(post[s], out, x + s * width, n);
            for (int from = 0; from < j->n; from++)
                k->axpy_f32(c[from * j->n + s], before[from], x + s * width, n);
        }
    }
}

void hyper_run_join(struct device_cpu *d, struct rows hidden, struct rows mix, struct rows out)
{
    struct hyper_job job = { .d = d, .mix = mix, .hidden = hidden, .out = out,
                             .n = (int)(hidden.width / out.width),
                             .pieces = (out.width + COLUMNS - 1) / COLUMNS };
    assert(job.n <= MOST_STREAMS && mix.width == (int64_t)job.n * (job.n + 2));
    pool_run(d->pool, run_join, &job, job.pieces * d->step.n_tokens,
             max_of(GRAIN / (COLUMNS * job.n), 1));
}
