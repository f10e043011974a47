#include "src/engine/card_bench.h"

#include <assert.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>

#include "src/base/util.h"
#include "src/format/quant.h"

#define MIB ((size_t)1 << 20)
#define ROWS_BYTE 0x3c /* 0.0115 as a float: activations of a sane size */

/* What the kernels work on: V3's shapes, or as little as makes each of them run. */
struct sizes {
    int64_t hidden, heads_width, expert;     /* columns and rows of o_proj; expert_size */
    int heads, rank, rope, nope, value;      /* latent attention */
    int kv_heads, head;                      /* grouped attention beside it */
    int routed, top_k;                       /* resident experts */
    int64_t short_kv, long_kv;
    int prompt;
    size_t pool;
};
static const struct sizes full = { 7168, 16384, 2048, 128, 512, 64, 128, 128, 8, 128, 16, 8,
                                   2048, 32768, 512, 512 * MIB };
static const struct sizes tiny = { 256, 512, 256, 2, 32, 16, 32, 32, 1, 32, 4, 2, 32, 96, 16, MIB };

struct bench {
    struct card card;
    struct card_bench *out;
    const struct sizes *z;
    card_progress *progress;
    void *progress_ctx;
    char *pool;   /* [z->pool] weights and caches */
    struct rows src, dst; /* [prompt, widest] */
    float *vector;        /* [widest] norm weights, angles */
    int32_t *ids;         /* [prompt, top_k] */
    float *weights;
    struct gpu_step *step;
};

/* What one launch function needs to know. */
struct call {
    struct bench *b;
    struct weight w;
    size_t bytes; /* of one of the things that rotate through the pool */
    int n_tokens;
    int64_t kv;
    struct mla mla;
    struct experts experts;
    struct router router;
};

static struct rows rows_of(struct rows r, int64_t width)
{
    return (struct rows){ r.data, width, width };
}

/* Number i of the things of `bytes` bytes in the pool. */
static char *turn(const struct call *k, int i)
{
    size_t n = max_of(k->b->z->pool / max_of(k->bytes, 1u), 1u);
    return k->b->pool + (size_t)i % n * k->bytes;
}

static struct weight turned(const struct call *k, int i)
{
    struct weight w = k->w;
    w.data = turn(k, i);
    return w;
}

static struct weight matrices(enum tensor_type type, int64_t cols, int64_t rows, int64_t n,
                              const void *data)
{
    size_t row_bytes = quant_row_bytes(type, cols);
    return (struct weight){ .data = data, .type = type, .cols = cols, .rows = rows,
                            .n_matrices = n, .row_bytes = row_bytes,
                            .matrix_bytes = row_bytes * (size_t)rows };
}

static size_t bytes_of(const struct weight *w)
{
    return w->matrix_bytes * (size_t)w->n_matrices;
}

/* ---- a row of the table ---- */

static struct card_row *add_row(struct bench *b, struct call *k, card_launch *launch, double bytes,
                                double ops, const char *kernel, const char *shape, ...)
{
    struct card_bench *out = b->out;
    struct card_row *row = &out->rows[out->n_rows];
    va_list args;
    if (out->n_rows == CARD_MAX_ROWS)
        return NULL;
    *row = (struct card_row){ .bytes = bytes, .ops = ops };
    snprintf(row->kernel, sizeof row->kernel, "%s", kernel);
    va_start(args, shape);
    vsnprintf(row->shape, sizeof row->shape, shape, args);
    va_end(args);
    k->b = b;
    row->us = 1e6 * card_time(&b->card, launch, k);
    if (!isfinite(row->us))
        return NULL;
    row->bound_us = max_of(bytes / (out->rates.vram_gb_s * 1e3), ops / (out->rates.tops * 1e6));
    out->n_rows++;
    if (b->progress)
        b->progress(b->progress_ctx, (double)out->n_rows / 60);
    return row;
}

/* ---- products ---- */

static void run_gemv(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    struct weight w = turned(k, i);
    c->gpu->gemv(c->s, rows_of(k->b->dst, w.rows), &w, rows_of(k->b->src, w.cols), NULL,
                 k->n_tokens);
}

static void run_gemm(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    struct weight w = turned(k, i);
    c->gpu->gemm(c->s, rows_of(k->b->dst, w.rows), &w, rows_of(k->b->src, w.cols), NULL,
                 k->n_tokens);
}

static void run_dequantize(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    (void)i; /* the first half of the pool into the second */
    c->gpu->dequantize(c->s, k->b->pool + k->b->z->pool / 2, TYPE_F16, k->b->pool, k->w.type,
                       k->w.cols * k->w.rows);
}

static bool is_weight_type(int type)
{
    const struct quant_traits *q = quant_traits((uint32_t)type);
    return q->block_elements && q->dequantize && type != TYPE_F64 && type != TYPE_Q8_1 &&
           type != TYPE_Q8_K;
}

static void bench_gemv(struct bench *b)
{
    char name[40];
    for (int type = 0; type < N_TENSOR_TYPES; type++) {
        if (!is_weight_type(type))
            continue;
        struct call k = { .n_tokens = 1 };
        k.w = matrices((enum tensor_type)type, b->z->heads_width, b->z->hidden, 1, NULL);
        k.bytes = bytes_of(&k.w);
        snprintf(name, sizeof name, "gemv %s", quant_traits((uint32_t)type)->name);
        add_row(b, &k, run_gemv, (double)k.bytes, 0, name, "%lld x %lld", (long long)k.w.cols,
                (long long)k.w.rows);
    }
    struct call k = { .n_tokens = GPU_GEMV_TOKENS };
    k.w = matrices(TYPE_Q4_K, b->z->heads_width, b->z->hidden, 1, NULL);
    k.bytes = bytes_of(&k.w);
    add_row(b, &k, run_gemv, (double)k.bytes, 0, "gemv Q4_K", "%lld x %lld, %d tokens",
            (long long)k.w.cols, (long long)k.w.rows, k.n_tokens);
}

static void bench_gemm(struct bench *b)
{
    static const enum tensor_type types[] = { TYPE_F16, TYPE_BF16, TYPE_Q8_0, TYPE_Q4_K, TYPE_Q6_K,
                                              TYPE_IQ2_XXS, TYPE_MXFP4 };
    char name[40];
    for (size_t i = 0; i < ARRAY_LEN(types); i++) {
        struct call k = { .n_tokens = b->z->prompt };
        k.w = matrices(types[i], b->z->hidden, b->z->expert, 1, NULL);
        k.bytes = bytes_of(&k.w);
        double ops = 2.0 * (double)(k.w.cols * k.w.rows) * k.n_tokens;
        snprintf(name, sizeof name, "gemm %s", quant_traits(types[i])->name);
        add_row(b, &k, run_gemm, (double)k.bytes, ops, name, "%lld x %lld, %d tokens",
                (long long)k.w.cols, (long long)k.w.rows, k.n_tokens);
    }
    struct call k = { .w = matrices(TYPE_Q4_K, b->z->hidden, b->z->expert, 1, NULL) };
    double n = (double)(k.w.cols * k.w.rows);
    add_row(b, &k, run_dequantize, (double)bytes_of(&k.w) + 2 * n, 0, "dequantize Q4_K",
            "%.1f M to F16", n / 1e6);
}

static void run_experts(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    (void)i;
    c->gpu->experts(c->s, rows_of(k->b->dst, k->b->z->hidden), rows_of(k->b->src, k->b->z->hidden),
                    &k->experts, NULL, k->b->ids, k->b->weights, k->n_tokens);
}

/* Every token picks experts 0 .. top_k - 1: matrices one behind the other in the pool. */
static void bench_experts(struct bench *b)
{
    const struct sizes *z = b->z;
    struct call k = { .n_tokens = 1 };
    struct experts *e = &k.experts;
    *e = (struct experts){ .n_routed = z->routed, .top_k = z->top_k, .expert_size = z->expert };
    e->gate = matrices(TYPE_Q4_K, z->hidden, z->expert, z->routed, b->pool);
    e->up = matrices(TYPE_Q4_K, z->hidden, z->expert, z->routed, b->pool + bytes_of(&e->gate));
    e->down = matrices(TYPE_Q4_K, z->expert, z->hidden, z->routed,
                       b->pool + 2 * bytes_of(&e->gate));
    double one = 3 * (double)e->gate.matrix_bytes;
    double ops = 6.0 * (double)(z->hidden * z->expert) * z->top_k;
    add_row(b, &k, run_experts, one * z->top_k, 0, "experts Q4_K", "%d of %lld x %lld", z->top_k,
            (long long)z->hidden, (long long)z->expert);
    k.n_tokens = z->prompt;
    add_row(b, &k, run_experts, one * z->top_k, ops * z->prompt, "experts Q4_K",
            "%d of %lld x %lld, %d tokens", z->top_k, (long long)z->hidden, (long long)z->expert,
            z->prompt);
}

/* ---- attention ---- */

static bool put_step(struct bench *b, int64_t n_past, int n_tokens)
{
    struct gpu_step step = { .n_past = n_past, .n_tokens = n_tokens };
    b->card.gpu->write(b->card.s, b->step, &step, sizeof step);
    return b->card.gpu->finish(b->card.s, NULL);
}

static int64_t bound_of(int64_t kv)
{
    int64_t bound = 1;
    while (bound < kv)
        bound *= 2;
    return bound;
}

static void run_absorbed(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    const struct mla *m = &k->mla;
    c->gpu->mla_absorbed(c->s, rows_of(k->b->dst, (int64_t)m->n_heads * m->value),
                         rows_of(k->b->src, (int64_t)m->n_heads * (m->nope + m->rope)), turn(k, i),
                         TYPE_F16, m, k->b->step, bound_of(k->kv), k->n_tokens);
}

static void run_decompressed(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    const struct mla *m = &k->mla;
    c->gpu->mla_decompressed(c->s, rows_of(k->b->dst, (int64_t)m->n_heads * m->value),
                             rows_of(k->b->src, (int64_t)m->n_heads * (m->nope + m->rope)),
                             turn(k, i), TYPE_F16, m, k->b->step, bound_of(k->kv), k->n_tokens);
}

static void run_gqa(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    const struct sizes *z = k->b->z;
    char *keys = turn(k, i);
    int64_t width = (int64_t)4 * z->kv_heads * z->head;
    c->gpu->attention_gqa(c->s, rows_of(k->b->dst, width), rows_of(k->b->src, width), keys,
                          keys + k->bytes / 2, TYPE_F16, 4 * z->kv_heads, z->kv_heads, z->head,
                          0.1f, k->b->step, bound_of(k->kv), k->n_tokens);
}

static struct mla mla_of(const struct bench *b)
{
    const struct sizes *z = b->z;
    struct mla m = { .n_heads = z->heads, .nope = z->nope, .rope = z->rope, .value = z->value,
                     .rank = z->rank, .scale = 0.05f };
    m.k_b = matrices(TYPE_Q8_0, z->nope, z->rank, z->heads, b->pool);
    m.v_b = matrices(TYPE_Q8_0, z->rank, z->value, z->heads, b->pool);
    return m;
}

/* Decode over two lengths, and what the positions between them add. */
static void bench_decode_attention(struct bench *b)
{
    const struct sizes *z = b->z;
    const int64_t lengths[] = { z->short_kv, z->long_kv };
    struct card_row *row, *before = NULL;
    double width = z->rank + z->rope, per_position = 2.0 * z->heads * (width + z->rank);
    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        struct call k = { .n_tokens = 1, .kv = lengths[i], .mla = mla_of(b) };
        k.bytes = (size_t)(width * (double)z->long_kv) * 2;
        double kv = (double)k.kv, own = (double)(bytes_of(&k.mla.k_b) + bytes_of(&k.mla.v_b));
        put_step(b, k.kv - 1, 1);
        row = add_row(b, &k, run_absorbed, own + 2 * width * kv, per_position * kv, "mla decode",
                      "%d heads, %lld positions", z->heads, (long long)k.kv);
        if (before && row && b->out->n_rows < CARD_MAX_ROWS) {
            struct card_row *added = &b->out->rows[b->out->n_rows++];
            *added = (struct card_row){ .us = row->us - before->us,
                                        .bytes = row->bytes - before->bytes,
                                        .ops = row->ops - before->ops };
            snprintf(added->kernel, sizeof added->kernel, "mla decode, added");
            snprintf(added->shape, sizeof added->shape, "%lld more positions",
                     (long long)(lengths[1] - lengths[0]));
            added->bound_us = max_of(added->bytes / (b->out->rates.vram_gb_s * 1e3),
                                     added->ops / (b->out->rates.tops * 1e6));
        }
        before = row;
    }
    struct call k = { .n_tokens = 1, .kv = z->long_kv };
    k.bytes = (size_t)z->kv_heads * (size_t)z->head * 2 * 2 * (size_t)z->long_kv;
    put_step(b, k.kv - 1, 1);
    add_row(b, &k, run_gqa, (double)k.bytes, 16.0 * z->kv_heads * z->head * (double)k.kv,
            "gqa decode", "%d of %d heads, %lld positions", z->kv_heads, 4 * z->kv_heads,
            (long long)k.kv);
}

static void bench_prompt_attention(struct bench *b)
{
    const struct sizes *z = b->z;
    const int64_t behind[] = { 0, z->short_kv - z->prompt };
    for (size_t i = 0; i < ARRAY_LEN(behind); i++) {
        struct call k = { .n_tokens = z->prompt, .kv = behind[i] + z->prompt, .mla = mla_of(b) };
        double positions = (double)k.kv, seen = (double)behind[i] + z->prompt / 2.0;
        double expand = 2.0 * z->heads * (z->nope + z->value) * z->rank * positions;
        double attend = 2.0 * z->heads * (z->nope + z->rope + z->value) * seen * z->prompt;
        k.bytes = (size_t)(z->rank + z->rope) * (size_t)z->long_kv * 2;
        put_step(b, behind[i], z->prompt);
        add_row(b, &k, run_decompressed, 0, expand + attend, "mla prefill",
                "%d tokens behind %lld", z->prompt, (long long)behind[i]);
    }
}

/* ---- the small ones: a launch each ---- */

static void run_rmsnorm(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    int64_t n = k->b->z->hidden;
    (void)i;
    c->gpu->rmsnorm(c->s, rows_of(k->b->dst, n), rows_of(k->b->src, n), k->b->vector, n, 1, 1e-6f,
                    k->n_tokens);
}

static void run_add3(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    struct rows x = rows_of(k->b->src, k->b->z->hidden);
    (void)i;
    c->gpu->add3(c->s, rows_of(k->b->dst, x.width), x, x, x, k->n_tokens);
}

static void run_swiglu(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    struct rows x = rows_of(k->b->src, k->b->z->expert);
    (void)i;
    c->gpu->swiglu(c->s, rows_of(k->b->dst, x.width), x, x, k->n_tokens);
}

static void run_rope(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    const struct sizes *z = k->b->z;
    int64_t head = z->nope + z->rope;
    (void)i;
    c->gpu->rope(c->s, rows_of(k->b->dst, z->heads * head), k->b->vector, k->b->vector, z->rope / 2,
                 ROPE_NORM, z->heads, head, z->nope, k->n_tokens);
}

static void run_store(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    (void)i;
    c->gpu->cache_store(c->s, k->b->pool, TYPE_F16,
                        rows_of(k->b->src, k->b->z->rank + k->b->z->rope), k->b->step, k->n_tokens);
}

static void run_router(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    (void)i; /* ids of its own: those of the experts stay as they are */
    c->gpu->router_topk(c->s, &k->router, rows_of(k->b->dst, k->router.n_routed),
                        NULL, (int32_t *)(void *)(k->b->pool + k->b->z->pool / 2),
                        (float *)(void *)(k->b->pool + k->b->z->pool / 4), k->n_tokens);
}

static void bench_small(struct bench *b)
{
    const struct sizes *z = b->z;
    struct call k = { .n_tokens = 1 };
    k.router = (struct router){ .scoring = ROUTER_SIGMOID, .n_routed = 16 * z->routed,
                                .top_k = z->top_k, .normalize = true, .scale = 2.5f };
    put_step(b, 0, 1);
    add_row(b, &k, run_rmsnorm, 0, 0, "rmsnorm", "%lld", (long long)z->hidden);
    add_row(b, &k, run_add3, 0, 0, "add3", "%lld", (long long)z->hidden);
    add_row(b, &k, run_swiglu, 0, 0, "swiglu", "%lld", (long long)z->expert);
    add_row(b, &k, run_rope, 0, 0, "rope", "%d heads of %d", z->heads, z->rope);
    add_row(b, &k, run_store, 0, 0, "cache store", "%d", z->rank + z->rope);
    add_row(b, &k, run_router, 0, 0, "router top-k", "%d of %d", z->top_k, k.router.n_routed);
    k.n_tokens = z->prompt;
    double floats = (double)z->hidden * z->prompt * sizeof(float);
    add_row(b, &k, run_rmsnorm, 2 * floats, 0, "rmsnorm", "%lld, %d tokens", (long long)z->hidden,
            z->prompt);
    add_row(b, &k, run_add3, 4 * floats, 0, "add3", "%lld, %d tokens", (long long)z->hidden,
            z->prompt);
}

/* ---- the run ---- */

static void run_least(struct card *c, void *ctx, int i)
{
    struct call *k = ctx;
    struct rows x = rows_of(k->b->src, 32);
    (void)i;
    c->gpu->add(c->s, rows_of(k->b->dst, 32), x, x, 1);
}

static void run_round_trip(struct card *c, void *ctx, int i)
{
    run_least(c, ctx, i);
    c->gpu->finish(c->s, NULL);
}

static struct gpu_limits limits_of(const struct sizes *z)
{
    return (struct gpu_limits){
        .max_tokens = z->prompt, .max_cols = z->heads_width, .max_rows = z->heads_width,
        .n_ctx = z->long_kv, .n_heads = z->heads, .head_width = z->nope + z->rope + z->rank,
        .mla_rank = z->rank, .n_routed = 16 * z->routed, .top_k = z->top_k,
        .expert_size = z->expert,
    };
}

static bool prepare(struct bench *b, struct error *err)
{
    const struct sizes *z = b->z;
    struct card *c = &b->card;
    int64_t widest = max_of(max_of(z->hidden, z->heads_width),
                            (int64_t)z->heads * (z->nope + z->rope));
    size_t rows = (size_t)widest * (size_t)z->prompt * sizeof(float);
    size_t picks = (size_t)z->prompt * (size_t)z->top_k;
    int32_t ids[64];
    assert(z->top_k <= 64);
    for (int i = 0; i < z->top_k; i++)
        ids[i] = i;
    b->pool = card_block(c, z->pool, 0x21, err);
    b->src.data = card_block(c, rows, ROWS_BYTE, err);
    b->dst.data = card_block(c, rows, 0, err);
    b->vector = card_block(c, (size_t)widest * sizeof(float), ROWS_BYTE, err);
    b->ids = card_block(c, picks * sizeof *b->ids, 0, err);
    b->weights = card_block(c, picks * sizeof *b->weights, ROWS_BYTE, err);
    b->step = card_block(c, sizeof *b->step, 0, err);
    if (!b->pool || !b->src.data || !b->dst.data || !b->vector || !b->ids || !b->weights || !b->step)
        return false;
    for (int t = 0; t < z->prompt; t++)
        c->gpu->write(c->s, b->ids + t * z->top_k, ids, (size_t)z->top_k * sizeof *ids);
    return card_check(c, err);
}

bool card_bench_run(struct card_bench *out, int index, const atomic_int *cancel,
                    card_progress *progress, void *ctx, struct error *err)
{
    const struct gpu_library *library;
    struct bench b = { .out = out, .z = &full, .progress = progress, .progress_ctx = ctx };
    *out = (struct card_bench){ 0 };
    if (!card_find(&library, &out->info, index, err) ||
        !card_probe(&out->rates, index, cancel, err))
        return false;
    if (out->info.emulated)
        b.z = &tiny;
    struct gpu_limits limits = limits_of(b.z);
    if (!card_open(&b.card, index, &limits, err))
        return false;
    b.card.cancel = cancel;
    bool ok = prepare(&b, err);
    if (ok) {
        struct call k = { .b = &b };
        out->launch_us = 1e6 * card_time(&b.card, run_least, &k);
        out->round_trip_us = 1e6 * card_time(&b.card, run_round_trip, &k);
        bench_gemv(&b);
        bench_gemm(&b);
        bench_experts(&b);
        bench_decode_attention(&b);
        bench_prompt_attention(&b);
        bench_small(&b);
        ok = card_check(&b.card, err);
    }
    card_close(&b.card);
    return ok;
}
