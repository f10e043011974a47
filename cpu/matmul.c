#include "cpu/matmul.h"

#include <assert.h>

#include "src/base/util.h"
#include "src/format/quant.h"

#define ENCODE_PIECE 1024 /* elements per unit of encoding; a multiple of every block length */
#define ENCODE_GRAIN 8    /* units worth waking another worker */

struct dot_plan dot_plan(const struct device_cpu *d, const struct weight *w)
{
    const struct kernels *k = &d->kernels;
    struct dot_plan p = { .cols = w->cols };
    if (d->options.act_f32 || !k->dot[w->type]) { /* Q8_K and Q8_1 are not meant for weights */
        p.dot = k->dot[TYPE_F32];
        p.decode = w->type == TYPE_F32 ? NULL : k->decode[w->type];
        p.act = TYPE_F32;
    } else {
        p.dot = k->dot[w->type];
        p.woven = w->woven;
        p.matvec = (w->woven ? k->woven_matvec : k->matvec)[w->type];
        p.gemm = (w->woven ? k->woven_gemm : k->gemm)[w->type];
        p.gemm_wide = (w->woven ? k->woven_gemm_wide : k->gemm_wide)[w->type];
        p.act = quant_traits(w->type)->act;
        p.encode = p.act == TYPE_F32 ? NULL : k->quantize[p.act];
    }
    assert(p.dot && (p.decode || p.dot == k->dot[w->type])); /* types are checked at load */
    assert(!w->woven || (p.matvec && p.gemm));               /* device_cpu_woven said so */
    return p;
}

size_t encoded_bytes(int64_t cols)
{
    /* F16 and BF16 take two bytes per element, everything else less. Rows of different tokens
     * start on different lines. */
    return align_up(2 * (size_t)cols, 64) + 64;
}

struct encode_job {
    const struct dot_plan *plan;
    struct rows src;
    uint8_t *buffer;
    size_t stride;
    int64_t pieces; /* of one token */
};

/* Units: pieces of tokens. */
static void run_encode(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct encode_job *j = ctx;
    const struct dot_plan *p = j->plan;
    (void)worker;
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t t = unit / j->pieces, first = unit % j->pieces * ENCODE_PIECE;
        p->encode(j->src.data + t * j->src.stride + first,
                  j->buffer + (size_t)t * j->stride + quant_row_bytes(p->act, first),
                  min_of(p->cols - first, ENCODE_PIECE));
    }
}

struct encoded encode_rows(struct device_cpu *d, const struct dot_plan *p, struct rows src,
                           int n_tokens, uint8_t *buffer, size_t stride)
{
    if (!p->encode)
        return (struct encoded){ (const uint8_t *)src.data, (size_t)src.stride * sizeof(float) };
    int64_t pieces = (p->cols + ENCODE_PIECE - 1) / ENCODE_PIECE;
    struct encode_job job = { p, src, buffer, stride, pieces };
    pool_run(d->pool, run_encode, &job, pieces * n_tokens, ENCODE_GRAIN);
    return (struct encoded){ buffer, stride };
}

struct matmul_job {
    struct device_cpu *d;
    struct dot_plan plan;
    const struct weight *w;
    struct encoded act;
    int n_tokens;
    struct rows dst;
    const float *bias;
};

void dot_rows(const struct dot_plan *p, const uint8_t *rows, size_t row_bytes, int n_rows,
              struct encoded act, int n_tokens, float *row_floats, float *out, size_t out_stride)
{
    if (p->matvec && n_tokens == 1) {
        p->matvec(p->cols, rows, row_bytes, n_rows, act.data, out);
        return;
    }
    gemm_fn *gemm = p->woven || n_tokens >= GEMM_MIN_TOKENS ? p->gemm : NULL;
    if (p->gemm_wide && n_tokens >= GEMM_WIDE_MIN_TOKENS)
        gemm = p->gemm_wide;
    if (gemm) {
        gemm(p->cols, rows, row_bytes, n_rows, act.data, act.stride, n_tokens, out, out_stride);
        return;
    }
    float line[TOKEN_TILE];
    for (int r = 0; r < n_rows; r++) {
        dot_row(p, rows + (size_t)r * row_bytes, act, n_tokens, row_floats, line);
        for (int t = 0; t < n_tokens; t++)
            out[(size_t)t * out_stride + (size_t)r] = line[t];
    }
}

/* Rows [first, first + n_rows) times one tile of tokens. */
static void multiply_block(const struct matmul_job *j, int64_t first, int n_rows, int token,
                           int n_tokens, float *row_floats)
{
    struct encoded act = { j->act.data + (size_t)token * j->act.stride, j->act.stride };
    float *dst = j->dst.data + token * j->dst.stride + first;
    dot_rows(&j->plan, (const uint8_t *)j->w->data + (size_t)first * j->w->row_bytes,
             j->w->row_bytes, n_rows, act, n_tokens, row_floats, dst, (size_t)j->dst.stride);
    for (int t = 0; j->bias && t < n_tokens; t++, dst += j->dst.stride)
        j->d->kernels.add(dst, j->bias + first, dst, n_rows);
}

static void run_matmul(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct matmul_job *j = ctx;
    float *row_floats = j->d->scratch[worker].row;
    int64_t group = j->n_tokens == 1 ? LONE_GROUP : ROW_GROUP;
    for (int64_t r = begin; r < end && !step_cancelled(j->d); r += group) {
        int n_rows = (int)min_of(end - r, group);
        for (int t = 0; t < j->n_tokens; t += TOKEN_TILE)
            multiply_block(j, r, n_rows, t, min_of(j->n_tokens - t, TOKEN_TILE), row_floats);
    }
}

void matmul_rows(struct device_cpu *d, struct rows dst, const struct weight *w, struct rows src,
                 int n_tokens, const struct weight *bias)
{
    assert(w->cols <= d->options.max_cols && n_tokens <= d->options.max_tokens);
    assert(!bias || !bias->data || bias->type == TYPE_F32);
    struct matmul_job job = { .d = d, .plan = dot_plan(d, w), .w = w, .n_tokens = n_tokens,
                              .dst = dst, .bias = bias ? bias->data : NULL };
    job.act = encode_rows(d, &job.plan, src, n_tokens, d->act, d->act_stride);
    int64_t grain = grain_of(w->cols * n_tokens);
    pool_run(d->pool, run_matmul, &job, w->rows, (grain + ROW_TILE - 1) / ROW_TILE * ROW_TILE);
}
