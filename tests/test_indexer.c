/* Sparse latent attention (V3.2): which positions the indexer selects, ties included, and attention
 * over them, against the obvious computation in double precision. */
#include <math.h>
#include <stdlib.h>

#include "cpu/features.h"
#include "cpu/sparse.h"
#include "src/base/pool.h"
#include "src/base/util.h"
#include "src/format/quant.h"
#include "tests/check.h"

#define N_HEADS 80 /* more than a tile of queries */
#define NOPE 32
#define ROPE 32
#define VALUE 32
#define RANK 64
#define INDEX_HEADS 6
#define INDEX_DIM 64
#define N_CTX 1200
#define MAX_TOKENS 80 /* more than are kept at a time */
#define MAX_TOP_K 300

static float *floats(int64_t n)
{
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = check_random_float(-1, 1);
    return x;
}

static float held(enum tensor_type type, float x)
{
    return type == TYPE_F16 ? f16_to_f32(f32_to_f16(x)) : x;
}

static struct rows rows_of(float *data, int64_t width)
{
    return (struct rows){ data, width, width };
}

/* ---- ties ---- */

/* How many come before row i: larger ones, and of equal ones the earlier; NaN is the least. */
static int n_before(const float *scores, int n, int i)
{
    int before = 0;
    for (int k = 0; k < n; k++)
        before += isnan(scores[i]) ? !isnan(scores[k]) || k < i
                                   : scores[k] > scores[i] || (scores[k] == scores[i] && k < i);
    return before;
}

static void test_select(void)
{
    float scores[400], scratch[100];
    int32_t ids[400];
    check_case("the best of few, ties to the earlier");
    for (int round = 0; round < 200; round++) {
        int n = 1 + (int)(check_random() % 400), top_k = 1 + (int)(check_random() % 400);
        for (int i = 0; i < n; i++) /* few different values */
            scores[i] = (float)((int)(check_random() % 9) - 4) / 4;
        if (round % 8 == 0)
            scores[check_random() % (unsigned)n] = NAN;
        int count = select_best(scores, n, top_k, ids, scratch, 100);
        CHECK_INT(count, min_of(n, top_k));
        for (int i = 0, at = 0; i < n; i++) {
            bool selected = at < count && ids[at] == i;
            CHECK_MSG(selected == (n_before(scores, n, i) < top_k), "row %d of %d", i, n);
            at += selected;
        }
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* Of many, where a sample says what is likely; it may mislead, and there may be too little room. */
static void test_select_many(void)
{
    enum { N = 9000, BEST = 700 };
    static const char *const kinds[] = { "random", "rising", "a few values", "falling in steps",
                                         "what the sample sees is high", "what it sees is low",
                                         "mostly no numbers", "all equal" };
    static float scores[N], sorted[N], scratch[2 * N];
    static int32_t ids[BEST];
    for (int kind = 0; kind < (int)ARRAY_LEN(kinds); kind++) {
        for (int64_t room = 0; room <= 2 * N; room += N / 2) {
            int n = N - kind, step = n / 1024;
            check_case("the best of many: %s, room for %d", kinds[kind], (int)room);
            for (int i = 0; i < n; i++) {
                float x = check_random_float(-1, 1);
                scores[i] = kind == 0   ? x
                            : kind == 1 ? (float)i
                            : kind == 2 ? (float)(int)(3 * x)
                            : kind == 3 ? (float)(-i / 500)
                            : kind == 4 ? x + (i % step == 0 ? 5 : 0)
                            : kind == 5 ? x - (i % step == 0 ? 5 : 0)
                            : kind == 6 ? (i % 17 ? NAN : x)
                                        : 0.5f;
                sorted[i] = isnan(scores[i]) ? -INFINITY : scores[i];
            }
            qsort(sorted, (size_t)n, sizeof *sorted, by_value);
            float limit = sorted[BEST - 1];
            int equal = BEST, at = 0;
            for (int i = 0; i < BEST; i++)
                equal -= sorted[i] > limit;
            CHECK_INT(select_best(scores, n, BEST, ids, scratch, room), BEST);
            for (int i = 0; i < n; i++) {
                float score = isnan(scores[i]) ? -INFINITY : scores[i];
                bool wanted = score > limit || (score == limit && equal > 0);
                equal -= score == limit && wanted;
                bool selected = at < BEST && ids[at] == i;
                CHECK_MSG(selected == wanted, "row %d of %d", i, n);
                at += selected;
            }
        }
    }
}

/* ---- bytes ---- */

/* The definition: a dense Hadamard matrix, H[i][j] negative where i and j share an odd number of bits. */
static void turn_naive(const float *x, int dim, int block, double *turned)
{
    for (int i = 0; i < dim; i++) {
        turned[i] = 0;
        for (int j = 0; j < block; j++) {
            double v = (double)x[i / block * block + j];
            turned[i] += __builtin_parity((unsigned)(i % block & j)) ? -v : v;
        }
        turned[i] /= sqrt((double)block);
    }
}

static void test_bytes(void)
{
    static const struct { int dim, block; } rows[] = { { 4, 4 }, { 64, 64 }, { 96, 32 }, { 128, 128 },
                                                       { 100, 4 } };
    check_case("keys and queries in bytes: turned, scaled, rounded");
    for (int round = 0; round < 40; round++) {
        int dim = rows[round % 5].dim;
        double turned[128], largest = 0;
        float x[128] = { 0 }, work[128];
        int8_t bytes[128];
        for (int i = 0; i < dim; i++)
            x[i] = check_random_float(-1, 1) * (check_random() % 20 == 0 ? 50 : 1); /* outliers */
        memcpy(work, x, sizeof work);
        float scale = index_to_bytes(work, dim, bytes);
        turn_naive(x, dim, rows[round % 5].block, turned);
        for (int i = 0; i < dim; i++)
            largest = max_of(largest, fabs(turned[i]));
        CHECK(fabs((double)scale - largest / 127) < 1e-5 * largest);
        for (int i = 0; i < dim; i++)
            CHECK_MSG(fabs((double)bytes[i] * (double)scale - turned[i]) < 0.501 * (double)scale,
                      "element %d of %d: %d of %g for %g", i, dim, bytes[i], scale, turned[i]);
    }

    check_case("no key, and one that is no number");
    float zero[64] = { 0 }, wrong[64] = { 1, NAN, 3 }, large[64] = { 1, INFINITY };
    int8_t bytes[64];
    CHECK(index_to_bytes(zero, 64, bytes) == 0 && bytes[5] == 0);
    CHECK(isnan(index_to_bytes(wrong, 64, bytes)) && bytes[0] == 0);
    CHECK(isnan(index_to_bytes(large, 64, bytes)) && bytes[63] == 0);

    check_case("the choice by bytes is the choice by floats, but for what is close");
    enum { N = 4000, BEST = 256 };
    static float scores[2][N];
    static int32_t best[2][BEST];
    static float scratch[4 * BEST];
    int8_t a[8][128], b[128];
    float q[8][128], key[128], q_scale[8];
    for (int h = 0; h < 8; h++) {
        for (int i = 0; i < 128; i++)
            q[h][i] = check_random_float(-1, 1) * (i == 17 ? 40 : 1);
        float work[128];
        memcpy(work, q[h], sizeof work);
        q_scale[h] = index_to_bytes(work, 128, a[h]);
    }
    for (int n = 0; n < N; n++) {
        for (int i = 0; i < 128; i++)
            key[i] = check_random_float(-1, 1) * (i == 90 ? 40 : 1);
        float dot[8] = { 0 };
        for (int h = 0; h < 8; h++)
            for (int i = 0; i < 128; i++)
                dot[h] += q[h][i] * key[i];
        float scale = index_to_bytes(key, 128, b);
        scores[0][n] = scores[1][n] = 0;
        for (int h = 0; h < 8; h++) {
            int whole = 0;
            for (int i = 0; i < 128; i++)
                whole += a[h][i] * b[i];
            scores[0][n] += max_of(dot[h], 0.0f);
            scores[1][n] += max_of((float)whole * scale * q_scale[h], 0.0f);
        }
    }
    int same = 0;
    for (int i = 0; i < 2; i++)
        CHECK_INT(select_best(scores[i], N, BEST, best[i], scratch, 4 * BEST), BEST);
    for (int i = 0, k = 0; i < BEST; i++) {
        while (k < BEST && best[1][k] < best[0][i])
            k++;
        same += k < BEST && best[1][k] == best[0][i];
    }
    CHECK_MSG(same >= BEST * 95 / 100, "%d of %d", same, BEST);
}

/* ---- one model's layer ---- */

struct layer_rig {
    enum tensor_type type;
    float *latents, *keys, *q, *index_q, *weights;
    struct weight k_b, v_b;
    struct kvcache cache;
    struct kv_sparse sparse;
    void *k_data[1];
};

static void *rounded(enum tensor_type type, const float *x, int64_t n)
{
    if (type == TYPE_F32)
        return memcpy(malloc((size_t)n * sizeof *x), x, (size_t)n * sizeof *x);
    uint16_t *h = malloc((size_t)n * sizeof *h);
    for (int64_t i = 0; i < n; i++)
        h[i] = f32_to_f16(x[i]);
    return h;
}

static struct weight matrices(int64_t cols, int64_t rows)
{
    return (struct weight){ .data = floats(N_HEADS * cols * rows), .type = TYPE_F32, .cols = cols,
                            .rows = rows, .n_matrices = N_HEADS,
                            .row_bytes = (size_t)cols * sizeof(float),
                            .matrix_bytes = (size_t)(cols * rows) * sizeof(float), .name = "test" };
}

static int8_t *bytes_at(const struct layer_rig *r, int64_t position)
{
    return (int8_t *)r->sparse.index + position * INDEX_DIM;
}

/* A vector in bytes; returns their scale. */
static float bytes_of(const float *x, int8_t *bytes)
{
    float turned[INDEX_DIM];
    memcpy(turned, x, sizeof turned);
    return index_to_bytes(turned, INDEX_DIM, bytes);
}

static void rig_open(struct layer_rig *r, enum tensor_type type)
{
    *r = (struct layer_rig){ .type = type };
    r->latents = floats(N_CTX * (RANK + ROPE));
    r->keys = floats(N_CTX * INDEX_DIM);
    r->q = floats(MAX_TOKENS * N_HEADS * (NOPE + ROPE));
    r->index_q = floats(MAX_TOKENS * INDEX_HEADS * INDEX_DIM);
    r->weights = floats(MAX_TOKENS * INDEX_HEADS);
    r->k_b = matrices(NOPE, RANK);
    r->v_b = matrices(RANK, VALUE);
    r->k_data[0] = rounded(type, r->latents, N_CTX * (RANK + ROPE));
    if (type == TYPE_F32) {
        r->sparse.index = rounded(type, r->keys, N_CTX * INDEX_DIM);
    } else { /* what V3.2's cache holds */
        r->sparse.index = calloc(N_CTX, INDEX_DIM);
        r->sparse.index_scale = calloc(N_CTX, sizeof(float));
        for (int64_t p = 0; p < N_CTX; p++)
            r->sparse.index_scale[p] = bytes_of(r->keys + p * INDEX_DIM, bytes_at(r, p));
    }
    r->cache = (struct kvcache){ .type = type, .n_layers = 1, .n_ctx = N_CTX, .k = r->k_data,
                                 .k_width = RANK + ROPE, .sparse = &r->sparse };
}

static void rig_close(struct layer_rig *r)
{
    free(r->latents);
    free(r->keys);
    free(r->q);
    free(r->index_q);
    free(r->weights);
    free((void *)(uintptr_t)r->k_b.data);
    free((void *)(uintptr_t)r->v_b.data);
    free(r->k_data[0]);
    free(r->sparse.index);
    free(r->sparse.index_scale);
}

/* What is selected scores at least what is not, within rounding; as many as there may be. */
static void check_selection(const struct layer_rig *r, const int32_t *ids, int count, int t,
                            int64_t n_visible, int top_k)
{
    double *scores = calloc((size_t)n_visible, sizeof *scores), lowest = INFINITY, highest = -INFINITY;
    bool *in = calloc((size_t)n_visible, sizeof *in);
    CHECK_INT(count, min_of(n_visible, (int64_t)top_k));
    for (int i = 0; i < count; i++) {
        CHECK(ids[i] >= 0 && ids[i] < n_visible && (i == 0 || ids[i] > ids[i - 1]));
        in[ids[i]] = true;
    }
    for (int64_t p = 0; p < n_visible; p++) {
        for (int h = 0; h < INDEX_HEADS; h++) {
            const float *q = r->index_q + (t * INDEX_HEADS + h) * INDEX_DIM;
            double dot = 0;
            int8_t bytes[INDEX_DIM] = { 0 };
            float scale = r->sparse.index_scale ? r->sparse.index_scale[p] * bytes_of(q, bytes) : 0;
            for (int i = 0; i < INDEX_DIM; i++)
                dot += r->sparse.index_scale
                           ? (double)(bytes[i] * bytes_at(r, p)[i]) * (double)scale
                           : (double)q[i] * (double)r->keys[p * INDEX_DIM + i];
            scores[p] += (double)r->weights[t * INDEX_HEADS + h] * max_of(dot, 0.0);
        }
        lowest = in[p] ? min_of(lowest, scores[p]) : lowest;
        highest = in[p] ? highest : max_of(highest, scores[p]);
    }
    CHECK_MSG(lowest >= highest - 1e-4, "selected %.6g, left out %.6g", lowest, highest);
    free(scores);
    free(in);
}

/* Attention of head h over the ids; wanted [VALUE]. */
static void attend_naive(const struct layer_rig *r, int t, int h, const int32_t *ids, int count,
                         float scale, double *wanted)
{
    const float *q = r->q + (t * N_HEADS + h) * (NOPE + ROPE);
    const float *k_b = (const float *)r->k_b.data + h * RANK * NOPE;
    const float *v_b = (const float *)r->v_b.data + h * VALUE * RANK;
    double absorbed[RANK] = { 0 }, sum = 0, latent[RANK] = { 0 };
    for (int i = 0; i < RANK; i++)
        for (int k = 0; k < NOPE; k++)
            absorbed[i] += (double)k_b[i * NOPE + k] * (double)q[k];
    for (int n = 0; n < count; n++) {
        const float *row = r->latents + (int64_t)ids[n] * (RANK + ROPE);
        double score = 0;
        for (int i = 0; i < RANK; i++)
            score += absorbed[i] * (double)held(r->type, row[i]);
        for (int i = 0; i < ROPE; i++)
            score += (double)q[NOPE + i] * (double)held(r->type, row[RANK + i]);
        double weight = exp(score * (double)scale);
        sum += weight;
        for (int i = 0; i < RANK; i++)
            latent[i] += weight * (double)held(r->type, row[i]);
    }
    for (int v = 0; v < VALUE; v++) {
        wanted[v] = 0;
        for (int i = 0; i < RANK; i++)
            wanted[v] += (double)v_b[v * RANK + i] * latent[i] / sum;
    }
}

/* From here on, whoever reads this latent gets something else than a number. */
static void spoil_row(const struct layer_rig *r, int64_t position)
{
    int64_t width = RANK + ROPE;
    for (int64_t i = position * width; i < (position + 1) * width; i++) {
        if (r->type == TYPE_F16)
            ((uint16_t *)r->k_data[0])[i] = 0x7e00;
        else
            ((float *)r->k_data[0])[i] = NAN;
    }
}

static void test_layer(struct pool *pool, enum tensor_type type, bool act_f32, unsigned isa,
                       int n_tokens, int64_t n_past, int top_k)
{
    check_case("%d tokens after %lld, %d of all, %s cache%s, %s", n_tokens, (long long)n_past, top_k,
               quant_traits(type)->name, act_f32 ? ", float activations" : "", cpu_isa_name(isa));
    struct device_cpu_options o = {
        .pool = pool, .isa = isa, .act_f32 = act_f32, .max_tokens = MAX_TOKENS,
        .max_cols = 512, .max_rows = 512, .n_ctx = N_CTX, .n_heads = N_HEADS, .head_width = 96,
        .cache_width = RANK + ROPE, .index_top_k = MAX_TOP_K,
    };
    struct device *d = NULL;
    struct error err = { 0 };
    if (!CHECK_MSG(device_cpu_open(&d, &o, &err), "%s", err.text))
        return;
    struct layer_rig r;
    rig_open(&r, type);
    struct mla m = { .n_heads = N_HEADS, .nope = NOPE, .rope = ROPE, .value = VALUE, .rank = RANK,
                     .scale = 0.3f, .n_selected = top_k, .k_b = r.k_b, .v_b = r.v_b };
    struct indexer x = { .n_heads = INDEX_HEADS, .dim = INDEX_DIM, .top_k = top_k, .ratio = 1 };
    struct step s = { .n_tokens = n_tokens, .n_past = n_past, .cache = &r.cache };
    float *out = calloc(MAX_TOKENS * N_HEADS * VALUE, sizeof *out);
    d->ops->begin(d, &s);
    cache_mla(d, &r.cache, 0, rows_of(r.latents + n_past * (RANK + ROPE), RANK + ROPE));
    cache_index(d, &r.cache, 0, rows_of(r.keys + n_past * INDEX_DIM, INDEX_DIM));
    indexer_topk(d, rows_of(r.index_q, INDEX_HEADS * INDEX_DIM), rows_of(r.weights, INDEX_HEADS),
                 &r.cache, 0, &x);
    const struct selection *chosen = &((struct device_cpu *)d)->selection;
    int64_t n_wanted = 0, n_rows = n_past + n_tokens; /* rows that any token chose; the others go bad */
    for (int64_t p = 0; p < n_rows; p++) {
        bool wanted = n_rows <= top_k;
        for (int t = 0; t < n_tokens && !wanted; t++)
            for (int i = 0; i < chosen->count[t] && !wanted; i++)
                wanted = chosen->ids[t * chosen->top_k + i] == p;
        n_wanted += wanted;
        if (!wanted)
            spoil_row(&r, p);
    }
    CHECK_MSG(n_tokens > 1 || n_wanted == min_of(n_rows, (int64_t)top_k),
              "one token reads %lld of %lld latents", (long long)n_wanted, (long long)n_rows);
    attention_mla(d, rows_of(out, N_HEADS * VALUE), rows_of(r.q, N_HEADS * (NOPE + ROPE)), &r.cache,
                  0, &m);
    CHECK(d->ops->end(d, NULL));
    double worst = 0, allowed = act_f32 ? 1e-4 : 0.06;
    for (int t = 0; t < n_tokens; t += n_tokens > 8 ? 7 : 1) {
        const int32_t *ids = chosen->ids + t * chosen->top_k;
        check_selection(&r, ids, chosen->count[t], t, n_past + t + 1, top_k);
        for (int h = 0; h < N_HEADS; h += 3) {
            double wanted[VALUE];
            attend_naive(&r, t, h, ids, chosen->count[t], m.scale, wanted);
            for (int i = 0; i < VALUE; i++) {
                double off = fabs(wanted[i] - (double)out[(t * N_HEADS + h) * VALUE + i]);
                worst = max_of(worst, off == off ? off : INFINITY);
            }
        }
    }
    CHECK_MSG(worst < allowed, "differs by %.3g, allowed %.3g", worst, allowed);
    free(out);
    rig_close(&r);
    d->ops->close(d);
}

static void test_layernorm(struct pool *pool)
{
    check_case("layernorm");
    struct device_cpu_options o = { .pool = pool, .isa = cpu_isa(), .max_tokens = 4,
                                    .max_cols = 64, .max_rows = 64, .n_ctx = 8, .n_heads = 1,
                                    .head_width = 64, .cache_width = 64 };
    struct device *d = NULL;
    if (!CHECK(device_cpu_open(&d, &o, NULL)))
        return;
    float *x = floats(3 * 64), *w = floats(64), *b = floats(64), y[3 * 64];
    struct weight weight = { .data = w, .type = TYPE_F32, .cols = 64, .rows = 1 };
    struct weight bias = { .data = b, .type = TYPE_F32, .cols = 64, .rows = 1 };
    d->ops->begin(d, &(struct step){ .n_tokens = 3 });
    for (int i = 0; i < 64; i++)
        x[i] += 1000; /* far from 0: the mean must go first */
    layernorm(d, rows_of(y, 64), rows_of(x, 64), &weight, &bias, 1e-6f);
    for (int t = 0; t < 3; t++) {
        double mean = 0, square = 0;
        for (int i = 0; i < 64; i++)
            mean += (double)x[t * 64 + i] / 64;
        for (int i = 0; i < 64; i++)
            square += pow((double)x[t * 64 + i] - mean, 2) / 64;
        for (int i = 0; i < 64; i++) {
            double wanted = ((double)x[t * 64 + i] - mean) / sqrt(square + 1e-6) * (double)w[i] +
                            (double)b[i];
            CHECK(fabs((double)y[t * 64 + i] - wanted) < 1e-5);
        }
    }
    CHECK(d->ops->end(d, NULL));
    free(x);
    free(w);
    free(b);
    d->ops->close(d);
}

int main(void)
{
    struct error err = { 0 };
    struct pool *pool = NULL;
    if (!CHECK_MSG(pool_open(&pool, 2, &err), "%s", err.text))
        return check_finish();
    test_select();
    test_select_many();
    test_bytes();
    test_layernorm(pool);
    for (int mode = 0; mode < 3; mode++) { /* floats, halves, halves without tiles of BF16 */
        enum tensor_type type = mode ? TYPE_F16 : TYPE_F32;
        unsigned isa = mode == 2 ? cpu_isa() & ~(unsigned)ISA_AMX : cpu_isa();
        if (mode == 2 && isa == cpu_isa())
            continue;
        test_layer(pool, type, !mode, isa, 1, 700, 300);  /* a piece and a bit */
        test_layer(pool, type, !mode, isa, 1, 299, 300);  /* everything, just so */
        test_layer(pool, type, !mode, isa, 3, 298, 300);  /* across the limit */
        test_layer(pool, type, !mode, isa, 4, 900, 7);
        test_layer(pool, type, !mode, isa, 40, 0, 8);     /* from the first position on */
        test_layer(pool, type, !mode, isa, 33, 1000, 128);
        test_layer(pool, type, !mode, isa, 70, 900, 300); /* two chunks, two blocks of rows */
        test_layer(pool, type, !mode, isa, 40, 100, 300); /* fewer than may be selected */
    }
    pool_close(pool);
    return check_finish();
}
