/* Attention over a window, blocks and a sink on the CPU, against the formula in double precision: with
 * floats, and with the kernels of this machine over a cache of halves; with any number of threads the
 * same bits, and on BF16 in steps of any size too. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/device_cpu.h"
#include "cpu/features.h"
#include "cpu/kernels.h"
#include "src/base/util.h"
#include "src/format/quant.h"
#include "tests/check.h"

#define HEADS 80 /* more than a tile */
#define DIM 64
#define WINDOW 300 /* with the blocks more rows than meet a tile at a time */
#define RATIO 4
#define TOP_K 20
#define INDEX_DIM 16
#define N_CTX 420

static float queries[N_CTX][HEADS * DIM], rows[N_CTX][DIM], sinks[HEADS];
static float results[N_CTX][HEADS * DIM], others[N_CTX][HEADS * DIM];
static uint16_t blocks[N_CTX / RATIO][DIM];
static float keys[N_CTX / RATIO][INDEX_DIM];

static void fill(void)
{
    for (int t = 0; t < N_CTX; t++) {
        for (int i = 0; i < HEADS * DIM; i++)
            queries[t][i] = check_random_float(-1, 1);
        for (int i = 0; i < DIM; i++)
            rows[t][i] = check_random_float(-2, 2);
    }
    for (int h = 0; h < HEADS; h++)
        sinks[h] = check_random_float(-3, 3);
    for (int b = 0; b < N_CTX / RATIO; b++) {
        for (int i = 0; i < DIM; i++)
            blocks[b][i] = f32_to_f16(check_random_float(-2, 2));
        keys[b][0] = (float)(b * 37 % 101); /* a clear order among the blocks */
    }
}

static bool selected; /* the blocks: TOP_K of them, or all */

/* ---- the formula ---- */

static bool is_selected(int64_t block, int64_t n)
{
    int better = 0;
    for (int64_t i = 0; i < n; i++)
        better += keys[i][0] > keys[block][0];
    return !selected || better < TOP_K;
}

static float half(float x)
{
    return f16_to_f32(f32_to_f16(x));
}

/* Element i of the row that a query meets as number n of its positions, then of its blocks. */
static double seen_row(int64_t first, int64_t n_recent, int64_t n, int i)
{
    return (double)(n < n_recent ? half(rows[first + n][i]) : f16_to_f32(blocks[n - n_recent][i]));
}

static void formula(int64_t position, int head, double out[DIM])
{
    int64_t first = max_of(position + 1 - WINDOW, (int64_t)0), n_recent = position + 1 - first;
    int64_t n_blocks = (position + 1) / RATIO;
    double sum = exp((double)sinks[head]);
    memset(out, 0, DIM * sizeof *out);
    for (int64_t n = 0; n < n_recent + n_blocks; n++) {
        double score = 0;
        if (n >= n_recent && !is_selected(n - n_recent, n_blocks))
            continue;
        for (int i = 0; i < DIM; i++)
            score += 0.2 * (double)queries[position][head * DIM + i] * seen_row(first, n_recent, n, i);
        sum += exp(score);
        for (int i = 0; i < DIM; i++)
            out[i] += exp(score) * seen_row(first, n_recent, n, i);
    }
    for (int i = 0; i < DIM; i++)
        out[i] /= sum;
}

/* Largest difference between results and the formula, of some heads of some positions. */
static double worst_of_formula(void)
{
    double most = 0, out[DIM];
    for (int64_t p = 0; p < N_CTX; p += p < 10 ? 1 : 23) {
        for (int h = 0; h < HEADS; h += 13) {
            formula(p, h, out);
            for (int i = 0; i < DIM; i++)
                most = fmax(most, fabs(out[i] - (double)results[p][h * DIM + i]));
        }
    }
    return most;
}

/* ---- the device ---- */

static struct kvcache new_cache(struct device *d)
{
    struct error err = { 0 };
    struct kvcache c = { .type = TYPE_F16, .n_layers = 1, .n_ctx = N_CTX };
    struct kv_sparse *s = c.sparse = calloc(1, sizeof *s);
    s->n_window = WINDOW + 3;
    s->window = d->ops->alloc(d, (size_t)s->n_window * DIM * 2, "window", &err);
    s->blocks = d->ops->alloc(d, sizeof blocks, "blocks", &err);
    s->index = d->ops->alloc(d, sizeof keys, "index", &err);
    memset(s->window, 0x7e, (size_t)s->n_window * DIM * 2); /* NaN where nothing was stored */
    CHECK(s->blocks && s->index && d->ops->write(d, s->blocks, blocks, sizeof blocks, &err) &&
          d->ops->write(d, s->index, keys, sizeof keys, &err));
    return c;
}

static void drop_cache(struct device *d, struct kvcache *c)
{
    d->ops->release(d, c->sparse->window);
    d->ops->release(d, c->sparse->blocks);
    d->ops->release(d, c->sparse->index);
    free(c->sparse);
}

static void run_step(struct device *d, struct kvcache *c, int64_t n_past, int n)
{
    static float q[N_CTX][HEADS * DIM], row[N_CTX][DIM], weight[N_CTX], index[N_CTX][INDEX_DIM];
    struct window_attention a = { .n_heads = HEADS, .head_dim = DIM, .window = WINDOW, .ratio = RATIO,
                                  .selected = selected, .scale = 0.2f,
                                  .sinks = { .data = sinks, .type = TYPE_F32 } };
    struct indexer x = { .n_heads = 1, .dim = INDEX_DIM, .top_k = TOP_K, .ratio = RATIO };
    struct error err = { 0 };
    memcpy(q, queries[n_past], (size_t)n * sizeof q[0]);
    memcpy(row, rows[n_past], (size_t)n * sizeof row[0]);
    for (int t = 0; t < n; t++)
        weight[t] = index[t][0] = 1;
    struct rows heads = { q[0], HEADS * DIM, HEADS * DIM };
    d->ops->begin(d, &(struct step){ .n_tokens = n, .n_past = n_past });
    indexer_topk(d, (struct rows){ index[0], INDEX_DIM, INDEX_DIM }, (struct rows){ weight, 1, 1 }, c,
                 0, &x);
    attention_window(d, heads, heads, (struct rows){ row[0], DIM, DIM }, c, 0, &a);
    CHECK(d->ops->end(d, &err));
    memcpy(results[n_past], q, (size_t)n * sizeof q[0]);
}

/* All positions in steps of these sizes, over and over. */
static void run_all(bool act_f32, int n_threads, const int *sizes, int n_sizes)
{
    struct error err = { 0 };
    struct pool *pool = NULL;
    struct device *d = NULL;
    CHECK(pool_open(&pool, n_threads, &err));
    struct device_cpu_options o = {
        .pool = pool, .isa = cpu_isa(), .act_f32 = act_f32, .max_tokens = N_CTX, .max_cols = HEADS * DIM,
        .max_rows = HEADS * DIM, .n_ctx = N_CTX, .n_heads = HEADS, .head_width = DIM,
        .index_top_k = TOP_K,
    };
    if (!CHECK_MSG(device_cpu_open(&d, &o, &err), "%s", err.text))
        exit(check_finish());
    struct kvcache c = new_cache(d);
    int64_t past = 0;
    for (int i = 0; past < N_CTX; i = (i + 1) % n_sizes) {
        int n = (int)min_of((int64_t)sizes[i], N_CTX - past);
        run_step(d, &c, past, n);
        past += n;
    }
    drop_cache(d, &c);
    d->ops->close(d);
    pool_close(pool);
}

static double worst_of_others(void)
{
    double most = 0;
    for (int t = 0; t < N_CTX; t++)
        for (int i = 0; i < HEADS * DIM; i++)
            most = fmax(most, fabs((double)(results[t][i] - others[t][i])));
    return most;
}

#define RUN(act_f32, n_threads, ...)                                                              \
    run_all(act_f32, n_threads, (const int[]){ __VA_ARGS__ },                                     \
            (int)(sizeof((const int[]){ __VA_ARGS__ }) / sizeof(int)))

int main(void)
{
    fill();
    for (int i = 0; i < 2; i++) {
        selected = i == 1;
        const char *what = selected ? "some of the blocks" : "all blocks";
        check_case("floats, %s", what);
        RUN(true, 2, 100, 1, 3, 57);
        double of_floats = worst_of_formula();
        CHECK_MSG(of_floats < 2e-5, "off by %g", of_floats);

        check_case("the machine's kernels, %s", what);
        RUN(false, 2, 100, 1, 3, 57);
        double of_kernels = worst_of_formula();
        CHECK_MSG(of_kernels < 2e-2, "off by %g", of_kernels);
        memcpy(others, results, sizeof others);

        check_case("the same in other steps, %s", what);
        struct kernels k;
        kernels_init(&k, cpu_isa());
        double allowed = k.bf16_gemm ? 0 : 1e-6;
        RUN(false, 2, 1, 2, 4, 130);
        CHECK_MSG(worst_of_others() <= allowed, "off by %g", worst_of_others());

        check_case("the same bits with other threads, %s", what);
        RUN(false, 1, 100, 1, 3, 57);
        CHECK(memcmp(others, results, sizeof others) == 0);
        RUN(false, 3, 100, 1, 3, 57);
        CHECK(memcmp(others, results, sizeof others) == 0);
    }
    return check_finish();
}
