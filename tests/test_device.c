/* The CPU device: every operation against the obvious computation in double precision, with one,
 * two and four threads (same bits), with plain C and with the kernels of this machine. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/attention.h"
#include "cpu/device_cpu.h"
#include "cpu/features.h"
#include "cpu/router.h"
#include "src/base/mem.h"
#include "src/base/pool.h"
#include "src/base/util.h"
#include "src/device.h"
#include "src/format/quant.h"
#include "tests/check.h"

#define MAX_TOKENS 160
#define N_CTX 1400

static const int threads[] = { 1, 2, 4 };
#define N_RIGS 3

/* The same device with different numbers of threads. */
static struct pool *pools[N_RIGS];
static struct device *devices[N_RIGS];
static bool act_f32;
static unsigned isa_mask;

static struct device_cpu_options options(struct pool *pool, unsigned isa)
{
    return (struct device_cpu_options){
        .pool = pool, .isa = isa, .act_f32 = act_f32, .max_tokens = MAX_TOKENS, .max_cols = 768,
        .max_rows = 1100, .n_ctx = N_CTX, .n_heads = 12, .head_width = 160, .cache_width = 240,
        .n_routed = 24,
        .top_k = 6, .expert_size = 512,
    };
}

static void open_rigs(unsigned isa)
{
    isa_mask = isa;
    for (int i = 0; i < N_RIGS; i++) {
        struct error err = { 0 };
        struct device_cpu_options o = options(pools[i], isa);
        if (!CHECK_MSG(device_cpu_open(&devices[i], &o, &err), "%s", err.text))
            exit(check_finish());
    }
}

static void close_rigs(void)
{
    for (int i = 0; i < N_RIGS; i++)
        devices[i]->ops->close(devices[i]);
}

/* ---- material ---- */

static float *floats(int64_t n, float low, float high)
{
    float *x = malloc((size_t)max_of(n, 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = check_random_float(low, high);
    return x;
}

static struct rows rows_of(float *data, int64_t width, int64_t stride)
{
    return (struct rows){ data, width, stride };
}

static bool has_encoders(enum tensor_type type)
{
    return type == TYPE_F32 || (quant_traits(type)->quantize &&
                                quant_traits(quant_traits(type)->act)->quantize);
}

/* A random weight, and what it decodes to. matrix_bytes has a gap, as padded files may. */
struct material {
    struct weight w;
    float *values; /* [n_matrices * rows, cols] */
};

static struct material material(enum tensor_type type, int64_t cols, int64_t rows, int64_t matrices)
{
    const struct quant_traits *q = quant_traits(type);
    struct material m = { .values = floats(matrices * rows * cols, -1, 1) };
    m.w = (struct weight){ .type = type, .cols = cols, .rows = rows, .n_matrices = matrices,
                           .row_bytes = quant_row_bytes(type, cols), .name = "test" };
    m.w.matrix_bytes = m.w.row_bytes * (size_t)rows + 10;
    uint8_t *bytes = malloc(m.w.matrix_bytes * (size_t)matrices);
    for (int64_t i = 0; i < matrices; i++) {
        for (int64_t r = 0; r < rows; r++) {
            float *x = m.values + (i * rows + r) * cols;
            uint8_t *to = bytes + (size_t)i * m.w.matrix_bytes + (size_t)r * m.w.row_bytes;
            if (type == TYPE_F32)
                memcpy(to, x, m.w.row_bytes);
            else
                q->quantize(x, to, cols, NULL);
            q->dequantize(to, x, cols);
        }
    }
    m.w.data = bytes;
    return m;
}

static void discard(struct material *m)
{
    free((void *)m->w.data);
    free(m->values);
}

/* What the device multiplies with: activations after their encoding. */
static void round_activations(enum tensor_type weight_type, float *x, int64_t n)
{
    enum tensor_type act = quant_traits(weight_type)->act;
    bool no_dot = weight_type == TYPE_Q8_1 || weight_type == TYPE_Q8_K;
    if (act_f32 || act == TYPE_F32 || no_dot)
        return;
    uint8_t blocks[8192];
    quant_traits(act)->quantize(x, blocks, n, NULL);
    quant_traits(act)->dequantize(blocks, x, n);
}

static double dot(const float *a, const float *b, int64_t n, double *magnitude)
{
    double sum = 0, size = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)a[i] * b[i];
        size += fabs((double)a[i] * b[i]);
    }
    if (magnitude)
        *magnitude = size;
    return sum;
}

static void begin(struct device *d, int n_tokens, int64_t n_past)
{
    static int32_t tokens[MAX_TOKENS];
    struct step s = { .tokens = tokens, .n_tokens = n_tokens, .n_past = n_past };
    for (int t = 0; t < n_tokens; t++)
        tokens[t] = t * 7 % 40;
    d->ops->begin(d, &s);
}

static void begin_form(struct device *d, int n_tokens, int64_t n_past, enum mla_form form)
{
    struct step s = { .n_tokens = n_tokens, .n_past = n_past, .mla_form = form };
    d->ops->begin(d, &s);
}

/* Results of the rigs, to be compared bit by bit. */
static float *outputs[N_RIGS];

static void make_outputs(int64_t n)
{
    for (int i = 0; i < N_RIGS; i++) {
        outputs[i] = malloc((size_t)n * sizeof(float));
        memset(outputs[i], 0xff, (size_t)n * sizeof(float)); /* NaN: what is not written shows */
    }
}

static void free_outputs(int64_t n)
{
    for (int i = 0; i < N_RIGS; i++)
        CHECK_MSG(memcmp(outputs[i], outputs[0], (size_t)n * sizeof(float)) == 0,
                  "%d threads give other bits than one", threads[i]);
    for (int i = 0; i < N_RIGS; i++)
        free(outputs[i]);
}

static void check_near(const float *found, const double *wanted, int64_t n, double tolerance)
{
    double worst = 0;
    int64_t at = 0;
    for (int64_t i = 0; i < n; i++) {
        double off = fabs(found[i] - wanted[i]);
        if (!(off <= worst)) { /* NaN too */
            worst = off;
            at = i;
        }
    }
    CHECK_MSG(worst <= tolerance, "element %lld is %g, wanted %g", (long long)at, found[at],
              wanted[at]);
}

/* ---- memory and simple operations ---- */

static void test_memory(void)
{
    check_case("device memory is zeroed, aligned, written and read");
    struct device *d = devices[0];
    struct error err = { 0 };
    unsigned char *block = d->ops->alloc(d, 1000, "block", &err), text[1000];
    CHECK(block && (uintptr_t)block % 64 == 0);
    for (int i = 0; i < 1000; i++)
        CHECK_INT(block[i], 0);
    memset(text, 7, sizeof text);
    CHECK(d->ops->write(d, block, text, 1000, &err) && block[999] == 7);
    memset(text, 0, sizeof text);
    CHECK(d->ops->read(d, text, block, 1000, &err) && text[999] == 7);
    d->ops->release(d, block);

    check_case("allocations that fail are reported");
    mem_fail_after(0);
    CHECK(d->ops->alloc(d, 1000, "block", &err) == NULL);
    CHECK_INT(err.code, ERR_FIT);
    for (int n = 0; n < 2; n++) {
        struct device *other;
        struct device_cpu_options o = options(pools[0], 0);
        error_clear(&err);
        mem_fail_after((uint64_t)n);
        CHECK(!device_cpu_open(&other, &o, &err) && other == NULL);
        CHECK_INT(err.code, ERR_FIT);
    }
    mem_fail_never();

    check_case("more tokens and threads take more memory");
    struct device_cpu_options o = options(pools[0], 0);
    size_t bytes = device_cpu_bytes(&o);
    o.pool = pools[2];
    CHECK(device_cpu_bytes(&o) > bytes);
    o.pool = pools[0];
    o.max_tokens *= 2;
    CHECK(device_cpu_bytes(&o) > bytes);
}

static void test_embed(const struct material *m)
{
    check_case("embed %s", quant_traits(m->w.type)->name);
    int64_t width = m->w.cols, stride = width + 88;
    make_outputs(5 * stride);
    for (int i = 0; i < N_RIGS; i++) {
        begin(devices[i], 5, 0);
        embed(devices[i], rows_of(outputs[i], width, stride), &m->w);
    }
    for (int t = 0; t < 5; t++)
        CHECK(memcmp(outputs[0] + t * stride, m->values + t * 7 % 40 * width,
                     (size_t)width * sizeof(float)) == 0);
    free_outputs(5 * stride);
}

static void test_rmsnorm(int n_tokens, int n_groups, int width)
{
    check_case("rmsnorm of %d tokens, %d groups of %d", n_tokens, n_groups, width);
    struct material m = material(TYPE_F32, width, 1, 1);
    int64_t total = n_groups * width, stride = total + 3;
    float *x = floats(n_tokens * stride, -2, 2);
    double *wanted = malloc((size_t)(n_tokens * total) * sizeof *wanted);
    for (int64_t g = 0; g < n_tokens * n_groups; g++) {
        const float *group = x + g / n_groups * stride + g % n_groups * width;
        double mean = dot(group, group, width, NULL) / width;
        for (int i = 0; i < width; i++)
            wanted[g * width + i] = group[i] / sqrt(mean + 1e-5) * m.values[i];
    }
    make_outputs(n_tokens * total);
    for (int i = 0; i < N_RIGS; i++) {
        begin(devices[i], n_tokens, 0);
        rmsnorm(devices[i], rows_of(outputs[i], total, total), rows_of(x, total, stride), &m.w,
                n_groups, 1e-5f);
    }
    check_near(outputs[0], wanted, n_tokens * total, 1e-5);
    struct rows in_place = rows_of(x, total, stride);
    rmsnorm(devices[0], in_place, in_place, &m.w, n_groups, 1e-5f);
    for (int t = 0; t < n_tokens; t++)
        check_near(x + t * stride, wanted + t * total, total, 1e-5);
    free_outputs(n_tokens * total);
    free(wanted);
    free(x);
    discard(&m);
}

static void test_elementwise(int n_tokens, int width)
{
    check_case("swiglu, add, add3, copy of %d tokens, width %d", n_tokens, width);
    int64_t stride = width + 5, n = n_tokens * stride;
    float *a = floats(n, -20, 20), *b = floats(n, -2, 2), *c = floats(n, -2, 2);
    a[0] = -200; /* e^200 is infinite */
    struct rows ra = rows_of(a, width, stride), rb = rows_of(b, width, stride);
    struct rows rc = rows_of(c, width, stride);
    make_outputs(4 * n);
    for (int i = 0; i < N_RIGS; i++) {
        struct device *d = devices[i];
        begin(d, n_tokens, 0);
        d->ops->swiglu(d, rows_of(outputs[i], width, stride), ra, rb);
        add(d, rows_of(outputs[i] + n, width, stride), ra, rb);
        add3(d, rows_of(outputs[i] + 2 * n, width, stride), ra, rb, rc);
        d->ops->copy(d, rows_of(outputs[i] + 3 * n, width, stride), ra);
    }
    const float *out = outputs[0];
    for (int64_t t = 0; t < n_tokens; t++) {
        for (int64_t i = t * stride; i < t * stride + width; i++) {
            double silu = a[i] / (1 + exp(-(double)a[i]));
            CHECK_MSG(fabs(out[i] - silu * b[i]) <= 1e-5 * (1 + fabs(silu * b[i])),
                      "swiglu(%g, %g) is %g", a[i], b[i], out[i]);
            CHECK(out[n + i] == a[i] + b[i]);
            CHECK(fabsf(out[2 * n + i] - (a[i] + b[i] + c[i])) < 1e-4f); /* any order */
            CHECK(out[3 * n + i] == a[i]);
        }
    }
    struct device *d = devices[1]; /* dst may be any of the three */
    float *copies = malloc((size_t)(3 * n) * sizeof(float));
    memcpy(copies, a, (size_t)n * sizeof(float));
    memcpy(copies + n, b, (size_t)n * sizeof(float));
    memcpy(copies + 2 * n, c, (size_t)n * sizeof(float));
    for (int which = 0; which < 3; which++) {
        struct rows r[3] = { ra, rb, rc };
        r[which].data = copies + which * n;
        add3(d, r[which], r[0], r[1], r[2]);
        for (int64_t i = 0; i < width; i++)
            CHECK(fabsf(copies[which * n + i] - out[2 * n + i]) < 1e-4f);
    }
    free(copies);
    free_outputs(4 * n);
    free(a);
    free(b);
    free(c);
}

static void test_rope(enum rope_pairing pairing, int64_t n_past)
{
    check_case("rope %s from position %lld", pairing == ROPE_NORM ? "NORM" : "NEOX",
               (long long)n_past);
    struct rope *r = calloc(1, sizeof *r);
    r->pairing = pairing;
    r->n_rot = 24;
    r->magnitude = 1.25f;
    for (int i = 0; i < 12; i++)
        r->frequency[i] = pow(10000, -2.0 * i / 24);
    enum { TOKENS = 37, HEADS = 3, HEAD = 40, OFFSET = 16, WIDTH = HEADS * HEAD };
    float *x = floats(TOKENS * WIDTH, -1, 1);
    make_outputs(TOKENS * WIDTH);
    for (int i = 0; i < N_RIGS; i++) {
        memcpy(outputs[i], x, TOKENS * WIDTH * sizeof(float));
        begin(devices[i], TOKENS, n_past);
        rope(devices[i], rows_of(outputs[i], WIDTH, WIDTH), r, HEADS, HEAD, OFFSET);
    }
    for (int t = 0; t < TOKENS; t++) {
        for (int h = 0; h < HEADS; h++) {
            const float *before = x + t * WIDTH + h * HEAD;
            const float *after = outputs[0] + t * WIDTH + h * HEAD;
            for (int i = 0; i < OFFSET; i++)
                CHECK(after[i] == before[i]);
            for (int i = 0; i < 12; i++) {
                int p = OFFSET + (pairing == ROPE_NORM ? 2 * i : i);
                int q = OFFSET + (pairing == ROPE_NORM ? 2 * i + 1 : i + 12);
                double angle = (double)(n_past + t) * r->frequency[i];
                double c = cos(angle) * 1.25, s = sin(angle) * 1.25;
                CHECK(fabs(after[p] - (before[p] * c - before[q] * s)) < 2e-6);
                CHECK(fabs(after[q] - (before[p] * s + before[q] * c)) < 2e-6);
            }
        }
    }
    free_outputs(TOKENS * WIDTH);
    free(x);
    free(r);
}

/* ---- matrix products ---- */

/* The first `rows` rows of m. */
static void test_matmul(struct material m, int64_t rows, int n_tokens)
{
    enum tensor_type type = m.w.type;
    int64_t cols = m.w.cols;
    check_case("matmul %s [%lld, %lld], %d tokens%s", quant_traits(type)->name, (long long)rows,
               (long long)cols, n_tokens, act_f32 ? ", float activations" : "");
    m.w.rows = rows;
    struct material bias = material(TYPE_F32, rows, 1, 1);
    int64_t stride = cols + 8, n = n_tokens * rows;
    float *x = floats(n_tokens * stride, -1, 1);
    struct rows in = rows_of(x, cols, stride);
    make_outputs(n);
    for (int i = 0; i < N_RIGS; i++) {
        begin(devices[i], n_tokens, 0);
        matmul(devices[i], rows_of(outputs[i], rows, rows), &m.w, in, &bias.w);
    }
    float *one = malloc((size_t)rows * sizeof *one);
    for (int t = 0; t < n_tokens; t++) {
        float *row = x + t * stride;
        begin(devices[1], 1, 0);
        matmul(devices[1], rows_of(one, rows, rows), &m.w, rows_of(row, cols, stride), &bias.w);
        CHECK_MSG(memcmp(one, outputs[0] + t * rows, (size_t)rows * sizeof *one) == 0,
                  "token %d alone gives other bits", t);
        round_activations(type, row, cols);
        for (int64_t r = 0; r < rows; r++) {
            double size, sum = dot(m.values + r * cols, row, cols, &size) + bias.values[r];
            CHECK_MSG(fabs(outputs[0][t * rows + r] - sum) <= 2e-5 * (size + 1),
                      "row %lld is %g, wanted %g", (long long)r, outputs[0][t * rows + r], sum);
        }
    }
    free(one);
    free_outputs(n);
    free(x);
    discard(&bias);
}

static void test_logits(void)
{
    check_case("logits of the last tokens only");
    struct material m = material(TYPE_F32, 64, 301, 1);
    float *x = floats(9 * 64, -1, 1);
    make_outputs(4 * 301);
    for (int i = 0; i < N_RIGS; i++) {
        struct step s = { .n_tokens = 9, .n_logits = 4, .logits = outputs[i] };
        devices[i]->ops->begin(devices[i], &s);
        logits(devices[i], &m.w, rows_of(x, 64, 64));
        s.n_logits = 0;
        s.logits = NULL;
        devices[i]->ops->begin(devices[i], &s);
        logits(devices[i], &m.w, rows_of(x, 64, 64)); /* wants none: touches nothing */
    }
    for (int t = 0; t < 4; t++) {
        for (int r = 0; r < 301; r++) {
            double wanted = dot(m.values + r * 64, x + (t + 5) * 64, 64, NULL);
            CHECK(fabs(outputs[0][t * 301 + r] - wanted) < 1e-4);
        }
    }
    free_outputs(4 * 301);
    free(x);
    discard(&m);
}

/* ---- attention ---- */

/* One query over keys and values [n, width]; the judge. */
static void attend_naive(const float *q, const double *keys, const double *values, int64_t n,
                         int64_t key_width, int64_t value_width, double scale, double *out)
{
    double *p = malloc((size_t)n * sizeof *p), max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
        p[i] = 0;
        for (int64_t j = 0; j < key_width; j++)
            p[i] += scale * q[j] * keys[i * key_width + j];
        max = max_of(max, p[i]);
    }
    for (int64_t j = 0; j < value_width; j++)
        out[j] = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = exp(p[i] - max);
        sum += e;
        for (int64_t j = 0; j < value_width; j++)
            out[j] += e * values[i * value_width + j];
    }
    for (int64_t j = 0; j < value_width; j++)
        out[j] /= sum;
    free(p);
}

/* A cache of one layer, and its contents as floats. */
static struct kvcache new_cache(enum tensor_type type, int64_t k_width, int64_t v_width)
{
    struct kvcache c = { .type = type, .n_layers = 1, .n_ctx = N_CTX, .k_width = k_width,
                         .v_width = v_width };
    c.k = malloc(sizeof *c.k);
    c.v = malloc(sizeof *c.v);
    c.k[0] = calloc((size_t)(N_CTX * k_width), 4);
    c.v[0] = calloc((size_t)(N_CTX * v_width) + 1, 4);
    return c;
}

static void free_cache(struct kvcache *c)
{
    free(c->k[0]);
    free(c->v[0]);
    free(c->k);
    free(c->v);
}

static float cached(enum tensor_type type, float x)
{
    return type == TYPE_F16 ? f16_to_f32(f32_to_f16(x)) : x;
}

/* Fill positions [0, n) through the device, in steps it accepts. */
static void fill_cache(struct kvcache *c, float *k, float *v, int64_t n)
{
    struct device *d = devices[1];
    for (int64_t p = 0; p < n; p += MAX_TOKENS) {
        begin(d, (int)min_of(n - p, MAX_TOKENS), p);
        if (v)
            cache_gqa(d, c, 0, rows_of(k + p * c->k_width, c->k_width, c->k_width),
                      rows_of(v + p * c->v_width, c->v_width, c->v_width));
        else
            cache_mla(d, c, 0, rows_of(k + p * c->k_width, c->k_width, c->k_width));
    }
}

/* Machines that can multiply BF16 fast round the operands of attention. */
static bool rounds_operands(enum tensor_type cache, int width)
{
    return !act_f32 && isa_mask & ISA_AMX && cache == TYPE_F16 && width % 16 == 0;
}

static void test_gqa(enum tensor_type type, int n_heads, int n_kv, int head, int n_tokens,
                     int64_t n_past)
{
    check_case("attention_gqa %s cache, %d/%d heads of %d, %d tokens after %lld",
               quant_traits(type)->name, n_heads, n_kv, head, n_tokens, (long long)n_past);
    int64_t kw = n_kv * head, n = n_past + n_tokens, width = n_heads * head;
    float *k = floats(n * kw, -1, 1), *v = floats(n * kw, -1, 1);
    float *q = floats(n_tokens * width, -2, 2);
    struct kvcache c = new_cache(type, kw, kw);
    fill_cache(&c, k, v, n);
    make_outputs(n_tokens * width);
    for (int i = 0; i < N_RIGS; i++) {
        begin(devices[i], n_tokens, n_past);
        attention_gqa(devices[i], rows_of(outputs[i], width, width), rows_of(q, width, width), &c,
                      0, n_heads, n_kv, head, 0.5f);
    }
    double *keys = malloc((size_t)(n * head) * sizeof *keys), wanted[256];
    double *values = malloc((size_t)(n * head) * sizeof *values);
    for (int h = 0; h < n_heads; h++) {
        int kv = h / (n_heads / n_kv);
        for (int64_t i = 0; i < n * head; i++) {
            keys[i] = cached(type, k[i / head * kw + kv * head + i % head]);
            values[i] = cached(type, v[i / head * kw + kv * head + i % head]);
        }
        for (int t = 0; t < n_tokens; t += n_tokens > 20 ? 19 : 1) {
            attend_naive(q + t * width + h * head, keys, values, n_past + t + 1, head, head, 0.5,
                         wanted);
            check_near(outputs[0] + t * width + h * head, wanted, head,
                       rounds_operands(type, head) ? 1e-2 : 1e-5);
        }
    }
    free(keys);
    free(values);
    free_outputs(n_tokens * width);
    free_cache(&c);
    free(k);
    free(v);
    free(q);
}

enum { NOPE = 32, ROPE = 16, VALUE = 64, RANK = 96, MLA_HEADS = 9 };

/* Keys and values of one head, as the decompressed form defines them. */
static void expand_naive(const struct material *k_b, const struct material *v_b, int h,
                         const float *latents, enum tensor_type type, int64_t n, double *keys,
                         double *values)
{
    for (int64_t p = 0; p < n; p++) {
        float row[RANK + ROPE];
        for (int i = 0; i < RANK + ROPE; i++)
            row[i] = cached(type, latents[p * (RANK + ROPE) + i]);
        for (int i = 0; i < NOPE; i++) {
            double sum = 0;
            for (int r = 0; r < RANK; r++)
                sum += (double)k_b->values[(h * RANK + r) * NOPE + i] * row[r];
            keys[p * (NOPE + ROPE) + i] = sum;
        }
        for (int i = 0; i < ROPE; i++)
            keys[p * (NOPE + ROPE) + NOPE + i] = row[RANK + i];
        for (int i = 0; i < VALUE; i++)
            values[p * VALUE + i] = dot(v_b->values + (h * VALUE + i) * RANK, row, RANK, NULL);
    }
}

static void test_mla(enum tensor_type type, enum tensor_type weights, enum mla_form form,
                     int n_tokens, int64_t n_past)
{
    static const char *const names[] = { "automatic", "absorbed", "decompressed" };
    check_case("attention_mla %s, %s cache, %s weights, %d tokens after %lld%s", names[form],
               quant_traits(type)->name, quant_traits(weights)->name, n_tokens, (long long)n_past,
               act_f32 ? ", float activations" : "");
    struct material k_b = material(weights, NOPE, RANK, MLA_HEADS);
    struct material v_b = material(weights, RANK, VALUE, MLA_HEADS);
    struct mla m = { MLA_HEADS, NOPE, ROPE, VALUE, RANK, 0.1f, 0, k_b.w, v_b.w };
    int64_t n = n_past + n_tokens, width = MLA_HEADS * (NOPE + ROPE), out = MLA_HEADS * VALUE;
    float *latents = floats(n * (RANK + ROPE), -1, 1), *q = floats(n_tokens * width, -1, 1);
    struct kvcache c = new_cache(type, RANK + ROPE, 0);
    fill_cache(&c, latents, NULL, n);
    make_outputs(n_tokens * out);
    for (int i = 0; i < N_RIGS; i++) {
        begin_form(devices[i], n_tokens, n_past, form);
        attention_mla(devices[i], rows_of(outputs[i], out, out), rows_of(q, width, width), &c, 0,
                      &m);
    }
    /* Few tokens are encoded, so not the exact inputs; the float forms are held tight. */
    bool rounds = rounds_operands(type, NOPE);
    bool exact = act_f32 || weights == TYPE_F32 || n_tokens > 4 || form == MLA_DECOMPRESSED;
    double *keys = malloc((size_t)(n * (NOPE + ROPE)) * sizeof *keys), wanted[VALUE];
    double *values = malloc((size_t)(n * VALUE) * sizeof *values);
    for (int h = 0; h < MLA_HEADS; h += n > 100 ? 4 : 1) {
        expand_naive(&k_b, &v_b, h, latents, type, n, keys, values);
        for (int t = 0; t < n_tokens; t += n_tokens > 20 ? 29 : 1) {
            attend_naive(q + t * width + h * (NOPE + ROPE), keys, values, n_past + t + 1,
                         NOPE + ROPE, VALUE, 0.1f, wanted);
            check_near(outputs[0] + t * out + h * VALUE, wanted, VALUE,
                       exact ? rounds ? 0.05 : 2e-5 : 0.1);
        }
    }
    free(keys);
    free(values);
    free_outputs(n_tokens * out);
    free_cache(&c);
    free(latents);
    free(q);
    discard(&k_b);
    discard(&v_b);
}

static void test_mla_choice(void)
{
    check_case("the form of latent attention follows the arithmetic");
    struct mla v3 = { .n_heads = 128, .nope = 128, .rope = 64, .value = 128, .rank = 512 };
    CHECK_INT(attention_mla_form(&v3, 1, 0), MLA_ABSORBED);
    CHECK_INT(attention_mla_form(&v3, 1, 100000), MLA_ABSORBED);
    CHECK_INT(attention_mla_form(&v3, 512, 0), MLA_DECOMPRESSED);
    CHECK_INT(attention_mla_form(&v3, 100, 100000), MLA_ABSORBED);
    CHECK_INT(attention_mla_form(&v3, 512, 100000), MLA_DECOMPRESSED);
}

/* ---- experts ---- */

static void test_router_rules(void)
{
    int32_t ids[4];
    float w[4];

    check_case("router: ties favour the lower id, best first");
    struct router r = { .scoring = ROUTER_SOFTMAX, .n_routed = 6, .top_k = 3, .scale = 1 };
    router_choose(&r, (float[]){ 1, 2, 2, 0, 2, 1 }, 0, ids, w);
    CHECK(ids[0] == 1 && ids[1] == 2 && ids[2] == 4);
    router_choose(&r, (float[]){ 0, 0, 0, 0, 0, 0 }, 0, ids, w);
    CHECK(ids[0] == 0 && ids[1] == 1 && ids[2] == 2);
    CHECK(fabsf(w[0] - 1.0f / 6) < 1e-6f); /* no renormalisation unless asked */

    check_case("router: the bias steers the choice, not the weight");
    float bias[8] = { 0, 0, 0, 10, 0, 0, 0, 0 };
    r = (struct router){ .scoring = ROUTER_SIGMOID, .n_routed = 8, .top_k = 2, .scale = 2.5f,
                         .normalize = true, .normalize_floor = 6.1035e-5f };
    r.bias = (struct weight){ .data = bias, .type = TYPE_F32, .cols = 8, .rows = 1 };
    router_choose(&r, (float[]){ 1, 3, 0, -3, 0, 0, 0, 0 }, 0, ids, w);
    CHECK(ids[0] == 3 && ids[1] == 1);
    double p3 = 1 / (1 + exp(3)), p1 = 1 / (1 + exp(-3));
    CHECK(fabs(w[0] - 2.5 * p3 / (p3 + p1)) < 1e-6 && fabs(w[1] - 2.5 * p1 / (p3 + p1)) < 1e-6);

    check_case("router: the floor of the sum");
    r.bias.data = NULL;
    router_choose(&r, (float[]){ -20, -21, -30, -30, -30, -30, -30, -30 }, 0, ids, w);
    CHECK(fabs(w[0] - 2.5 / (1 + exp(20)) / 6.1035e-5) < 1e-9);
    r.normalize_floor = 0;
    router_choose(&r, (float[]){ -20, -21, -30, -30, -30, -30, -30, -30 }, 0, ids, w);
    CHECK(fabs(w[0] + w[1] - 2.5) < 1e-5);

    check_case("router: groups by their maximum or their two largest");
    r = (struct router){ .scoring = ROUTER_SIGMOID, .n_routed = 8, .top_k = 2, .scale = 1,
                         .n_groups = 2, .n_groups_used = 1, .group_score = GROUP_MAX };
    float lone[8] = { 3, -5, -5, -5, 2, 2, 2, 2 };
    float scores[8];
    memcpy(scores, lone, sizeof lone);
    router_choose(&r, scores, 0, ids, w);
    CHECK(ids[0] == 0 && ids[1] == 1);
    r.group_score = GROUP_TOP2_SUM;
    memcpy(scores, lone, sizeof lone);
    router_choose(&r, scores, 0, ids, w);
    CHECK(ids[0] == 4 && ids[1] == 5);

    check_case("router: masked experts lose even to negative ones");
    for (int i = 0; i < 8; i++)
        bias[i] = i < 4 ? -2 : -3;
    r.bias.data = bias;
    memcpy(scores, lone, sizeof lone);
    router_choose(&r, scores, 0, ids, w);
    CHECK(ids[0] == 0 && ids[1] == 1);

    check_case("router: as many groups as experts");
    struct router wide = { .scoring = ROUTER_SIGMOID, .n_routed = ROUTER_MAX_GROUPS, .top_k = 4,
                           .scale = 1, .n_groups = ROUTER_MAX_GROUPS, .n_groups_used = 4,
                           .group_score = GROUP_TOP2_SUM };
    float many[ROUTER_MAX_GROUPS] = { [7] = 1, [900] = 3, [901] = 2, [1023] = 4 };
    router_choose(&wide, many, 0, ids, w);
    CHECK(ids[0] == 1023 && ids[1] == 900 && ids[2] == 901 && ids[3] == 7);

    check_case("router: no scores lead out of range");
    float bad[] = { NAN, INFINITY, -INFINITY, 1 };
    for (int round = 0; round < 500; round++) {
        r.top_k = 4;
        r.n_groups = 1 << check_random() % 3;
        r.n_groups_used = max_of(r.n_groups / 2, 1);
        r.scoring = check_random() % 2 ? ROUTER_SIGMOID : ROUTER_SOFTMAX;
        for (int i = 0; i < 8; i++)
            scores[i] = bad[check_random() % 4];
        router_choose(&r, scores, 0, ids, w);
        for (int a = 0; a < 4; a++) {
            CHECK(ids[a] >= 0 && ids[a] < 8);
            for (int b = 0; b < a; b++)
                CHECK(ids[a] != ids[b]);
        }
    }
}

/* Groups and picks by sorting, the way the papers write it. */
static void choose_naive(const struct router *r, const float *score, int32_t *ids, double *w)
{
    double p[64], c[64], sum = 0, group[64];
    for (int i = 0; i < r->n_routed; i++)
        sum += exp(score[i]);
    for (int i = 0; i < r->n_routed; i++) {
        p[i] = r->scoring == ROUTER_SOFTMAX ? exp(score[i]) / sum : 1 / (1 + exp(-score[i]));
        c[i] = p[i] + (r->bias.data ? ((const float *)r->bias.data)[i] : 0);
    }
    int size = r->n_routed / max_of(r->n_groups, 1);
    for (int g = 0; g < r->n_groups; g++) {
        double best = -INFINITY, second = -INFINITY;
        for (int i = g * size; i < (g + 1) * size; i++) {
            second = max_of(second, min_of(best, c[i]));
            best = max_of(best, c[i]);
        }
        group[g] = best + (r->group_score == GROUP_TOP2_SUM ? second : 0);
    }
    for (int g = 0; g < r->n_groups; g++) {
        int better = 0;
        for (int o = 0; o < r->n_groups; o++)
            better += group[o] > group[g];
        for (int i = g * size; better >= r->n_groups_used && i < (g + 1) * size; i++)
            c[i] = -INFINITY;
    }
    sum = 0;
    for (int k = 0; k < r->top_k; k++) {
        int best = 0;
        for (int i = 1; i < r->n_routed; i++)
            best = c[i] > c[best] ? i : best;
        ids[k] = best;
        w[k] = p[best];
        sum += p[best];
        c[best] = -INFINITY;
    }
    for (int k = 0; k < r->top_k; k++)
        w[k] *= r->scale / (r->normalize ? sum : 1);
}

static void test_router(int n_tokens)
{
    check_case("router_topk of %d tokens against sorting", n_tokens);
    float *bias = floats(24, -0.5, 0.5), *scores = floats(n_tokens * 24, -3, 3);
    struct router r = { .scoring = ROUTER_SIGMOID, .n_routed = 24, .top_k = 5, .n_groups = 6,
                        .n_groups_used = 3, .group_score = GROUP_TOP2_SUM, .normalize = true,
                        .scale = 2.5f };
    for (int variant = 0; variant < 3; variant++) {
        r.bias = (struct weight){ .data = variant ? bias : NULL, .type = TYPE_F32, .cols = 24 };
        r.scoring = variant == 2 ? ROUTER_SOFTMAX : ROUTER_SIGMOID;
        r.n_groups = variant == 2 ? 1 : 6;
        for (int i = 0; i < N_RIGS; i++) {
            float *copy = malloc((size_t)n_tokens * 24 * sizeof *copy);
            memcpy(copy, scores, (size_t)n_tokens * 24 * sizeof *copy);
            begin(devices[i], n_tokens, 0);
            router_topk(devices[i], &r, rows_of(copy, 24, 24));
            int32_t ids[MAX_TOKENS * 5], wanted_ids[5];
            float w[MAX_TOKENS * 5];
            double wanted[5];
            CHECK(devices[i]->ops->read_choice(devices[i], ids, w, NULL));
            for (int t = 0; t < n_tokens; t++) {
                choose_naive(&r, scores + t * 24, wanted_ids, wanted);
                CHECK(memcmp(ids + t * 5, wanted_ids, sizeof wanted_ids) == 0);
                check_near(w + t * 5, wanted, 5, 1e-5);
            }
            free(copy);
        }
    }
    free(bias);
    free(scores);
}

struct expert_test {
    struct material gate, up, gate_up, down;
    struct experts e;
    int64_t hidden;
};

static struct expert_test expert_test(enum tensor_type gate_type, enum tensor_type up_type,
                                      enum tensor_type down_type, int64_t hidden, int64_t size,
                                      int n_routed, bool fused)
{
    struct expert_test x = { .hidden = hidden };
    x.down = material(down_type, size, hidden, n_routed);
    x.e = (struct experts){ .down = x.down.w, .n_routed = n_routed, .top_k = 5,
                            .expert_size = size };
    if (fused) {
        x.gate_up = material(gate_type, hidden, 2 * size, n_routed);
        x.e.gate_up = x.gate_up.w;
    } else {
        x.gate = material(gate_type, hidden, size, n_routed);
        x.up = material(up_type, hidden, size, n_routed);
        x.e.gate = x.gate.w;
        x.e.up = x.up.w;
    }
    return x;
}

/* down h for one token and expert, and how large its terms are. */
static void expert_naive(const struct expert_test *x, int id, const float *src, double *out)
{
    int64_t size = x->e.expert_size;
    bool fused = x->e.gate_up.data != NULL;
    float in_gate[1024], in_up[1024], h[1024];
    memcpy(in_gate, src, (size_t)x->hidden * sizeof *src);
    memcpy(in_up, src, (size_t)x->hidden * sizeof *src);
    round_activations(fused ? x->e.gate_up.type : x->e.gate.type, in_gate, x->hidden);
    round_activations(fused ? x->e.gate_up.type : x->e.up.type, in_up, x->hidden);
    for (int64_t i = 0; i < size; i++) {
        const float *g = fused ? x->gate_up.values + (id * 2 * size + i) * x->hidden
                               : x->gate.values + (id * size + i) * x->hidden;
        const float *u = fused ? x->gate_up.values + (id * 2 * size + size + i) * x->hidden
                               : x->up.values + (id * size + i) * x->hidden;
        double z = dot(g, in_gate, x->hidden, NULL);
        h[i] = (float)(z / (1 + exp(-z)) * dot(u, in_up, x->hidden, NULL));
    }
    round_activations(x->e.down.type, h, size);
    for (int64_t r = 0; r < x->hidden; r++)
        out[r] = dot(x->down.values + (id * x->hidden + r) * size, h, size, NULL);
}

static void test_experts(struct expert_test x, const char *what, int n_tokens)
{
    check_case("experts %s, %d tokens%s", what, n_tokens, act_f32 ? ", float activations" : "");
    float *src = floats(n_tokens * x.hidden, -1, 1), *scores = floats(n_tokens * 24, -3, 3);
    struct router r = { .scoring = ROUTER_SOFTMAX, .n_routed = x.e.n_routed, .top_k = 5,
                        .scale = 1.5f };
    int32_t ids[MAX_TOKENS * 5];
    float w[MAX_TOKENS * 5];
    struct rows in = rows_of(src, x.hidden, x.hidden);
    for (int t = 0; t < n_tokens; t++)
        scores[t * 24 + 3] += 4; /* a popular expert */
    make_outputs(n_tokens * x.hidden);
    for (int i = 0; i < N_RIGS; i++) {
        float *copy = malloc((size_t)n_tokens * 24 * sizeof *copy);
        memcpy(copy, scores, (size_t)n_tokens * 24 * sizeof *copy);
        begin(devices[i], n_tokens, 0);
        router_topk(devices[i], &r, rows_of(copy, 24, 24));
        devices[i]->ops->read_choice(devices[i], ids, w, NULL);
        experts_begin(devices[i], &x.e, in);
        experts_end(devices[i], rows_of(outputs[i], x.hidden, x.hidden));
        free(copy);
    }
    double *wanted = malloc((size_t)x.hidden * sizeof *wanted);
    double *part = malloc((size_t)x.hidden * sizeof *part);
    float *one = malloc((size_t)x.hidden * sizeof *one);
    for (int t = 0; t < n_tokens; t++) {
        begin(devices[2], 1, 0); /* alone: the same bits */
        router_topk(devices[2], &r, rows_of(scores + t * 24, 24, 24));
        experts_begin(devices[2], &x.e, rows_of(src + t * x.hidden, x.hidden, x.hidden));
        experts_end(devices[2], rows_of(one, x.hidden, x.hidden));
        CHECK_MSG(memcmp(one, outputs[0] + t * x.hidden, (size_t)x.hidden * sizeof *one) == 0,
                  "token %d alone gives other bits", t);
        if (t % (n_tokens > 10 ? 31 : 1))
            continue;
        double largest = 0;
        memset(wanted, 0, (size_t)x.hidden * sizeof *wanted);
        for (int k = 0; k < 5; k++) {
            expert_naive(&x, ids[t * 5 + k], src + t * x.hidden, part);
            for (int64_t i = 0; i < x.hidden; i++) {
                wanted[i] += w[t * 5 + k] * part[i];
                largest = max_of(largest, fabs(wanted[i]));
            }
        }
        /* h is rounded to bytes in fast mode, and a last-place difference may move one step. */
        check_near(outputs[0] + t * x.hidden, wanted, x.hidden, (act_f32 ? 1e-5 : 1e-2) * largest);
    }
    free(part);
    free(one);
    free(wanted);
    free_outputs(n_tokens * x.hidden);
    free(src);
    free(scores);
}

static void free_expert_test(struct expert_test *x)
{
    discard(&x->gate);
    discard(&x->up);
    discard(&x->gate_up);
    discard(&x->down);
}

/* ---- allocation ---- */

static void test_no_allocation(void)
{
    check_case("operations allocate nothing");
    struct material m = material(TYPE_F32, 96, 40, 1);
    float *x = floats(8 * 96, -1, 1), y[8 * 40];
    uint64_t before = mem_allocations();
    begin(devices[1], 8, 0);
    matmul(devices[1], rows_of(y, 40, 40), &m.w, rows_of(x, 96, 96), NULL);
    CHECK(devices[1]->ops->end(devices[1], NULL));
    CHECK_INT(mem_allocations(), before);
    free(x);
    discard(&m);
}

/* ---- all of it ---- */

/* Weights of every type, encoded once. */
static struct material weights[N_TENSOR_TYPES];

static void test_products(bool thorough)
{
    static const int counts[] = { 1, 3, 65, 140 };
    struct material odd = material(TYPE_F32, 67, 35, 1), tiny = material(TYPE_F32, 1, 1, 1);
    for (int c = 0; c < 4; c++) {
        test_matmul(odd, 35, counts[c]);
        test_matmul(tiny, 1, counts[c]);
    }
    discard(&odd);
    discard(&tiny);
    int n_types = 0;
    for (int type = 1; type < N_TENSOR_TYPES; type++) {
        if (!quant_traits((uint32_t)type)->dequantize || !has_encoders((enum tensor_type)type))
            continue;
        if (!weights[type].values)
            weights[type] = material((enum tensor_type)type, 768, 40, 1);
        test_embed(&weights[type]);
        test_matmul(weights[type], 18, 1);
        test_matmul(weights[type], 2, thorough ? 70 : 3);
        n_types++;
    }
    check_case("all types were there");
    CHECK_MSG(n_types >= 23, "only %d types have encoders", n_types);
}

static void test_attention(bool thorough)
{
    static const struct {
        int n_tokens;
        int64_t n_past;
    } spans[] = { { 1, 1399 }, { 4, 600 }, { 5, 0 }, { 131, 400 },
                  { 1, 0 }, { 3, 255 }, { 7, 300 }, { 150, 0 } };
    for (size_t i = 0; i < (thorough ? 8 : 4); i++) {
        int n = spans[i].n_tokens;
        int64_t past = spans[i].n_past;
        enum tensor_type type = i % 2 ? TYPE_F16 : TYPE_F32;
        test_gqa(type, 5, 1, 24, n, past);
        test_gqa(type, 12, 4, 16, n, past);
        test_gqa(TYPE_F16, 3, 3, 31, n, past);
        for (enum mla_form form = MLA_AUTO; form <= MLA_DECOMPRESSED; form++) {
            test_mla(type, TYPE_F32, form, n, past);
            test_mla(TYPE_F16, TYPE_Q8_0, form, n, past);
        }
    }
}

static void test_mixture(bool thorough)
{
    const int counts[] = { 1, 3, thorough ? 150 : 75 };
    struct expert_test tests[] = {
        expert_test(TYPE_F32, TYPE_F32, TYPE_F32, 96, 72, 24, false),
        expert_test(TYPE_F32, TYPE_F32, TYPE_F32, 100, 33, 7, true),
        expert_test(TYPE_Q4_K, TYPE_Q4_K, TYPE_Q8_0, 256, 96, 24, false),
        expert_test(TYPE_Q4_K, TYPE_Q8_0, TYPE_Q4_K, 256, 256, 9, false),
    };
    static const char *const names[] = { "F32", "F32 fused", "Q4_K, down Q8_0",
                                         "gate Q4_K, up Q8_0" };
    for (int i = 0; i < 4; i++) {
        for (int c = 0; c < 3; c++)
            test_experts(tests[i], names[i], counts[c]);
        free_expert_test(&tests[i]);
    }
}

static void test_all(bool thorough)
{
    test_memory();
    test_rmsnorm(1, 1, 67);
    test_rmsnorm(130, 3, 32);
    test_elementwise(1, 5);
    test_elementwise(3, 67);
    test_elementwise(20, 2100);
    for (int64_t past = 0; past < 200000; past = past * 4 + 999) {
        test_rope(ROPE_NORM, past);
        test_rope(ROPE_NEOX, past);
    }
    test_products(thorough);
    test_logits();
    test_attention(thorough);
    test_mla_choice();
    test_router_rules();
    test_router(1);
    test_router(MAX_TOKENS);
    test_mixture(thorough);
    test_no_allocation();
}

int main(void)
{
    for (int i = 0; i < N_RIGS; i++) {
        if (!pool_open(&pools[i], threads[i], NULL))
            return 1;
    }
    unsigned masks[] = { ISA_REF, cpu_isa() };
    for (int i = 0; i < 2; i++) {
        for (int f32 = 0; f32 < 2; f32++) {
            printf("-- %s%s\n", cpu_isa_name(masks[i]), f32 ? ", float activations" : "");
            act_f32 = f32;
            open_rigs(masks[i]);
            test_all(i > 0);
            close_rigs();
        }
        if (masks[1] == masks[0])
            break;
    }
    for (int i = 0; i < N_RIGS; i++)
        pool_close(pools[i]);
    for (int type = 0; type < N_TENSOR_TYPES; type++)
        discard(&weights[type]);
    return check_finish();
}
