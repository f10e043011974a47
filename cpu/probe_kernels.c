/* The probe's view of the kernels: what they reach on the order of decode and prefill. */
#include <string.h>

#include "cpu/matmul.h"
#include "cpu/probe_rig.h"
#include "src/base/util.h"
#include "src/format/quant.h"
#include "src/format/weave.h"

struct kernel_arg {
    struct dot_plan plan;
    size_t row_bytes;
    struct encoded act;
    int n_tokens;
};

/* Rows that a slice holds: whole ones, and where rows are woven whole groups. */
static int64_t rows_of(const struct kernel_arg *k, size_t bytes)
{
    int64_t n_rows = (int64_t)(bytes / k->row_bytes);
    return k->plan.woven ? n_rows / WEAVE_ROWS * WEAVE_ROWS : n_rows;
}

/* All rows of the slice times all tokens, cut up as matmul and the experts do it. */
static void multiply_slice(struct probe *p, const void *arg, const uint8_t *slice, size_t bytes,
                           int worker)
{
    const struct kernel_arg *k = arg;
    float *out = p->out + (size_t)worker * p->out_stride;
    int64_t n_rows = rows_of(k, bytes);
    for (int64_t r = 0; r < n_rows; r += ROW_GROUP) {
        int rows = (int)min_of(n_rows - r, ROW_GROUP);
        for (int t = 0; t < k->n_tokens; t += TOKEN_TILE) {
            struct encoded act = { k->act.data + (size_t)t * k->act.stride, k->act.stride };
            dot_rows(&k->plan, slice + (size_t)r * k->row_bytes, k->row_bytes, rows, act,
                     min_of(k->n_tokens - t, TOKEN_TILE), NULL, out + (size_t)t * ROW_GROUP,
                     ROW_GROUP);
        }
    }
}

/* Activations as the dot product takes them; the values do not matter. */
static struct encoded encode_tokens(struct probe *p, const struct dot_plan *plan, int n_tokens)
{
    float x[PROBE_COLS];
    for (int t = 0; t < n_tokens; t++) {
        for (int i = 0; i < PROBE_COLS; i++)
            x[i] = (float)((i * 37 + t * 11) % 255 - 127) / 64;
        uint8_t *to = p->act + (size_t)t * p->act_stride;
        if (plan->encode)
            plan->encode(x, to, PROBE_COLS);
        else
            memcpy(to, x, sizeof x);
    }
    return (struct encoded){ p->act, p->act_stride };
}

bool probe_kernel(struct probe *p, unsigned isa, enum tensor_type type, int n_tokens,
                  struct probe_order order, double seconds, struct probe_rate *rate)
{
    struct device_cpu d = { 0 };
    kernels_init(&d.kernels, isa);
    *rate = (struct probe_rate){ 0 };
    if (!d.kernels.dot[type])
        return false;
    struct weight w = { .type = type, .cols = PROBE_COLS,
                        .woven = d.kernels.woven_matvec[type] && d.kernels.woven_gemm[type] };
    struct kernel_arg arg = { .plan = dot_plan(&d, &w),
                              .row_bytes = quant_row_bytes(type, PROBE_COLS),
                              .n_tokens = min_of(n_tokens, PROBE_MAX_TOKENS) };
    arg.act = encode_tokens(p, &arg.plan, arg.n_tokens);
    struct pass pass = { .fn = multiply_slice, .arg = &arg, .order = order,
                         .n_workers = probe_threads(p), .shuffled = true };
    /* Whole groups of rows; with many tokens a few of them are work enough. */
    size_t group = (size_t)ROW_GROUP * arg.row_bytes;
    size_t most = arg.n_tokens > 1 ? 4 * group : SIZE_MAX;
    pass.order.slice_bytes = max_of(min_of(order.slice_bytes, most), group);
    double bytes_s = probe_measure(p, &pass, seconds);
    /* A slice ends with a part of a row or group, which is not read. */
    size_t slice = pass.order.slice_bytes / 1024 * 1024;
    bytes_s *= (double)((size_t)rows_of(&arg, slice) * arg.row_bytes) / (double)slice;
    rate->gb_s = bytes_s / 1e9;
    rate->gops = rate->gb_s / (double)arg.row_bytes * 2 * PROBE_COLS * arg.n_tokens;
    return true;
}

bool probe_same_kernel(unsigned isa, unsigned other, enum tensor_type type, int n_tokens)
{
    struct kernels a, b;
    kernels_init(&a, isa);
    kernels_init(&b, other);
    return a.dot[type] == b.dot[type] && a.woven_matvec[type] == b.woven_matvec[type] &&
           a.woven_gemm[type] == b.woven_gemm[type] &&
           a.woven_gemm_wide[type] == b.woven_gemm_wide[type] &&
           (n_tokens < GEMM_MIN_TOKENS || a.gemm[type] == b.gemm[type]) &&
           (n_tokens < GEMM_WIDE_MIN_TOKENS || a.gemm_wide[type] == b.gemm_wide[type]);
}

struct int8_job {
    const struct kernels *kernels;
    int64_t rounds;
    _Atomic int64_t n_done; /* relaxed would do: the pool orders it before the reading */
};

static void run_int8(void *ctx, int64_t begin, int64_t end, int worker)
{
    struct int8_job *j = ctx;
    (void)begin, (void)end, (void)worker;
    j->n_done += j->kernels->count_int8(j->rounds);
}

double probe_int8(struct probe *p, unsigned isa, double seconds)
{
    struct kernels kernels;
    kernels_init(&kernels, isa);
    struct int8_job job = { .kernels = &kernels, .rounds = 500 };
    double best = 0, elapsed = 0, spent = 0;
    while (spent < seconds && !probe_cancelled(p)) {
        double start = now_s();
        job.n_done = 0;
        pool_run_team(p->pool, run_int8, &job);
        elapsed = now_s() - start;
        spent += elapsed;
        best = max_of(best, 2 * (double)job.n_done / elapsed / 1e9);
        if (elapsed < seconds / 8)
            job.rounds = min_of(2 * job.rounds, 10000000);
    }
    return best;
}
