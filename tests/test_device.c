/* The CPU device: simple operations and products against the obvious computation in double precision,
 * with one, two and four threads (same bits), with plain C and with the kernels of this machine.
 * Attention and experts: test_device_attention.c, test_device_experts.c. */
#include "tests/device_rig.h"

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
    test_no_allocation();
}

int main(void)
{
    if (!on_all_rigs(test_all))
        return 1;
    for (int type = 0; type < N_TENSOR_TYPES; type++)
        discard(&weights[type]);
    return check_finish();
}
