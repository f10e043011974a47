/* Launchers that read encoded weights, against src/format: every block type decoded bit by bit, the
 * embedding, GEMV, GEMM in both numeric profiles, and experts in device memory.
 *
 * Blocks are random bytes made harmless: values of a sane size, as an encoder gives them. */
#include "tests/gpu_test.h"

static struct gpu_test t;

static const enum tensor_type types[] = {
    TYPE_F32,  TYPE_F16,  TYPE_BF16,  TYPE_Q4_0,    TYPE_Q4_1,   TYPE_Q5_0,  TYPE_Q5_1,
    TYPE_Q8_0, TYPE_Q2_K, TYPE_Q3_K,  TYPE_Q4_K,    TYPE_Q5_K,   TYPE_Q6_K,  TYPE_IQ1_S,
    TYPE_IQ1_M, TYPE_IQ2_XXS, TYPE_IQ2_XS, TYPE_IQ2_S, TYPE_IQ3_XXS, TYPE_IQ3_S, TYPE_IQ4_NL,
    TYPE_IQ4_XS, TYPE_TQ1_0, TYPE_TQ2_0, TYPE_MXFP4, TYPE_NVFP4, TYPE_Q1_0, TYPE_Q2_0,
};
#define N_TYPES (sizeof types / sizeof types[0])

/* Random bytes that decode to finite numbers (for products: below 100), block by block. */
static uint8_t *random_blocks(enum tensor_type type, int64_t n, float limit)
{
    const struct quant_traits *q = quant_traits(type);
    size_t bytes = quant_row_bytes(type, n);
    uint8_t *blocks = malloc(bytes + 1);
    float *values = malloc((size_t)q->block_elements * sizeof *values);
    for (size_t at = 0; at < bytes; at += (size_t)q->block_bytes) {
        for (bool ok = false; !ok;) {
            for (int i = 0; i < q->block_bytes; i++)
                blocks[at + (size_t)i] = (uint8_t)(check_random() >> 24);
            q->dequantize(blocks + at, values, q->block_elements);
            ok = true;
            for (int i = 0; i < q->block_elements; i++)
                ok = ok && fabsf(values[i]) <= limit;
        }
    }
    free(values);
    return blocks;
}

/* n_matrices of [rows, cols] on the host and, at *device, the same on the card; the blocks begin one
 * element behind an aligned address where the type allows it. */
static struct weight random_weight(enum tensor_type type, int64_t cols, int64_t rows,
                                   int64_t n_matrices, struct weight *device)
{
    size_t row_bytes = quant_row_bytes(type, cols);
    struct weight w = { .type = type, .cols = cols, .rows = rows, .n_matrices = n_matrices,
                        .row_bytes = row_bytes, .matrix_bytes = row_bytes * (size_t)rows };
    w.data = random_blocks(type, cols * rows * n_matrices, 8);
    *device = w;
    device->data = gpu_test_block(&t, w.matrix_bytes * (size_t)n_matrices, w.data);
    return w;
}

static float *decode(const struct weight *w, int64_t matrix)
{
    float *values = malloc((size_t)(w->cols * w->rows) * sizeof *values);
    for (int64_t r = 0; r < w->rows; r++)
        quant_traits(w->type)->dequantize((const char *)w->data + w->matrix_bytes * (size_t)matrix +
                                              w->row_bytes * (size_t)r,
                                          values + r * w->cols, w->cols);
    return values;
}

/* ---- decoding ---- */

static void test_dequantize(enum tensor_type type)
{
    int64_t n = 512;
    check_case("dequantize %s", quant_traits(type)->name);
    uint8_t *blocks = random_blocks(type, n, 3e38f);
    float *wanted = malloc((size_t)n * 4);
    uint32_t *found = malloc((size_t)n * 4);
    quant_traits(type)->dequantize(blocks, wanted, n);
    for (int o = 0; gpu_test_order(&t, o); o++) {
        void *src = gpu_test_block(&t, quant_row_bytes(type, n), blocks);
        void *dst = gpu_test_block(&t, (size_t)n * 4, NULL);
        t.gpu->dequantize(t.s, dst, TYPE_F32, src, type, n);
        gpu_test_read(&t, found, dst, (size_t)n * 4);
        int bad = 0;
        for (int64_t i = 0; i < n; i++)
            bad += memcmp(&found[i], &wanted[i], 4) != 0;
        CHECK_INT(bad, 0);
        for (int small = 0; small < 2; small++) {
            enum tensor_type to = small ? TYPE_BF16 : TYPE_F16;
            t.gpu->dequantize(t.s, dst, to, src, type, n);
            gpu_test_read(&t, found, dst, (size_t)n * 2);
            for (int64_t i = 0; i < n; i++) {
                uint16_t h = small ? f32_to_bf16(wanted[i]) : f32_to_f16(wanted[i]);
                bad += ((uint16_t *)found)[i] != h;
            }
            CHECK_MSG(bad == 0, "%d of %s differ", bad, small ? "BF16" : "F16");
        }
        gpu_test_clear(&t);
    }
    free(blocks);
    free(wanted);
    free(found);
}

static void test_embed(enum tensor_type type, int64_t cols)
{
    check_case("embed %s, %d columns", quant_traits(type)->name, (int)cols);
    int32_t tokens[] = { 6, 0, 3 };
    for (int o = 0; gpu_test_order(&t, o); o++) {
        struct weight device, w = random_weight(type, cols, 7, 1, &device);
        float *all = decode(&w, 0);
        struct rows found = gpu_test_random(cols, cols + 5, 3, 1), wanted = found;
        wanted.data = malloc((size_t)(wanted.stride * 3) * sizeof(float));
        for (int i = 0; i < 3; i++)
            memcpy(wanted.data + i * wanted.stride, all + tokens[i] * cols,
                   (size_t)cols * sizeof(float));
        struct rows dst = gpu_test_rows(&t, found, 3);
        t.gpu->embed(t.s, dst, &device, gpu_test_block(&t, sizeof tokens, tokens), 3);
        gpu_test_read(&t, found.data, dst.data, (size_t)(found.stride * 3) * sizeof(float));
        CHECK(gpu_test_difference(found, wanted, 3, 1) == 0);
        gpu_test_clear(&t);
        free((void *)w.data);
        free(all);
        free(found.data);
        free(wanted.data);
    }
}

/* ---- products ---- */

enum { GEMV, GEMM, MATMUL };

static void multiply(const struct weight *w, struct rows src, const float *bias, int n_tokens,
                     struct rows dst)
{
    float *all = decode(w, 0);
    for (int i = 0; i < n_tokens; i++) {
        for (int64_t r = 0; r < w->rows; r++) {
            double sum = bias ? (double)bias[r] : 0;
            for (int64_t c = 0; c < w->cols; c++)
                sum += (double)all[r * w->cols + c] * (double)src.data[i * src.stride + c];
            dst.data[i * dst.stride + r] = (float)sum;
        }
    }
    free(all);
}

/* What the fast profile multiplies block types by: activations as bytes, 32 with one scale. */
static void round_to_bytes(struct rows x, int n_tokens)
{
    for (int i = 0; i < n_tokens; i++) {
        for (int64_t c = 0; c < x.width; c += 32) {
            float *run = x.data + i * x.stride + c, most = 0;
            for (int j = 0; j < 32; j++)
                most = fmaxf(most, fabsf(run[j]));
            for (int j = 0; j < 32 && most > 0; j++)
                run[j] = most / 127 * rintf(run[j] * (127 / most));
        }
    }
}

static bool by_bytes(enum tensor_type type, bool act_f32, int op, int n_tokens)
{
    bool blocks = type != TYPE_F32 && type != TYPE_F16 && type != TYPE_BF16;
    return blocks && !act_f32 && op != GEMM && n_tokens <= GPU_GEMV_TOKENS;
}

/* Largest sum of |w x|, which rounding errors are relative to. */
static double magnitude(const struct weight *w, float range)
{
    float *all = decode(w, 0);
    double most = 1e-30;
    for (int64_t r = 0; r < w->rows; r++) {
        double sum = 0;
        for (int64_t c = 0; c < w->cols; c++)
            sum += fabs((double)all[r * w->cols + c]);
        most = fmax(most, sum * (double)range);
    }
    free(all);
    return most;
}

static void test_product(int op, enum tensor_type type, int64_t cols, int64_t rows, int n_tokens,
                         bool act_f32, bool with_bias)
{
    static const char *const names[] = { "gemv", "gemm", "matmul" };
    check_case("%s %s, %d x %d, %d tokens, %s", names[op], quant_traits(type)->name, (int)rows,
               (int)cols, n_tokens, act_f32 ? "f32" : "fast");
    gpu_test_profile(&t, act_f32);
    struct weight device, w = random_weight(type, cols, rows, 1, &device);
    gpu_test_clear(&t);
    struct rows src = gpu_test_random(cols, cols + 3, n_tokens, 1);
    struct rows wanted = gpu_test_random(rows, rows + 1, n_tokens, 1);
    struct rows found = gpu_test_random(rows, rows + 1, n_tokens, 1);
    struct rows bias = gpu_test_random(rows, rows, 1, 1);
    bool bytes = by_bytes(type, act_f32, op, n_tokens);
    struct rows rounded = src;
    if (bytes) {
        rounded.data = malloc((size_t)(src.stride * n_tokens) * sizeof(float));
        memcpy(rounded.data, src.data, (size_t)(src.stride * n_tokens) * sizeof(float));
        round_to_bytes(rounded, n_tokens);
    }
    multiply(&w, rounded, with_bias ? bias.data : NULL, n_tokens, wanted);
    if (bytes)
        free(rounded.data);
    double scale = magnitude(&w, 1);
    for (int o = 0; gpu_test_order(&t, o); o++) {
        device.data = gpu_test_block(&t, w.matrix_bytes, w.data);
        struct rows x = gpu_test_rows(&t, src, n_tokens), y = gpu_test_rows(&t, found, n_tokens);
        float *b = with_bias ? gpu_test_rows(&t, bias, 1).data : NULL;
        if (op == GEMV)
            t.gpu->gemv(t.s, y, &device, x, b, n_tokens);
        else if (op == GEMM)
            t.gpu->gemm(t.s, y, &device, x, b, n_tokens);
        else
            t.gpu->matmul(t.s, y, &device, x, b, n_tokens);
        gpu_test_read(&t, found.data, y.data,
                      (size_t)(found.stride * n_tokens) * sizeof(float));
        double d = gpu_test_difference(found, wanted, n_tokens, scale);
        CHECK_MSG(d <= (act_f32 || bytes ? 2e-6 : 1e-3), "difference %.3g of the sum of |w x|", d);
        gpu_test_clear(&t);
    }
    free((void *)w.data);
    free(src.data), free(wanted.data), free(found.data), free(bias.data);
    gpu_test_profile(&t, true);
}

/* gate and up with SwiGLU in one launch, against the same by itself. */
static void test_gemv_swiglu(enum tensor_type type, int64_t cols, int64_t rows, int n_tokens)
{
    check_case("gemv_swiglu %s, %d x %d, %d tokens", quant_traits(type)->name, (int)rows, (int)cols,
               n_tokens);
    gpu_test_profile(&t, false);
    struct rows src = gpu_test_random(cols, cols, n_tokens, 0.1f);
    struct rows wanted = gpu_test_random(rows, rows + 3, n_tokens, 1);
    struct rows found = gpu_test_random(rows, rows + 3, n_tokens, 1);
    size_t bytes = (size_t)(found.stride * n_tokens) * sizeof(float);
    for (int o = 0; gpu_test_order(&t, o); o++) {
        struct weight gate, up, g = random_weight(type, cols, rows, 1, &gate);
        struct weight u = random_weight(type, cols, rows, 1, &up);
        struct rows x = gpu_test_rows(&t, src, n_tokens), y = gpu_test_rows(&t, found, n_tokens);
        struct rows a = gpu_test_rows(&t, wanted, n_tokens), b = gpu_test_rows(&t, wanted, n_tokens);
        t.gpu->gemv(t.s, a, &gate, x, NULL, n_tokens);
        t.gpu->gemv(t.s, b, &up, x, NULL, n_tokens);
        t.gpu->swiglu(t.s, a, a, b, n_tokens);
        gpu_test_read(&t, wanted.data, a.data, bytes);
        CHECK(t.gpu->gemv_swiglu(t.s, y, &gate, &up, x, n_tokens));
        gpu_test_read(&t, found.data, y.data, bytes);
        CHECK(gpu_test_difference(found, wanted, n_tokens, 1) == 0);
        up.type = TYPE_F32; /* not of one type: refused, nothing done */
        CHECK(!t.gpu->gemv_swiglu(t.s, y, &gate, &up, x, n_tokens));
        gpu_test_clear(&t);
        free((void *)g.data), free((void *)u.data);
    }
    free(src.data), free(wanted.data), free(found.data);
    gpu_test_profile(&t, true);
}

/* A token's bits do not depend on the others. */
static void test_batch_bits(bool act_f32)
{
    check_case("gemv, %s: the same bits for a token alone and among others",
               act_f32 ? "f32" : "fast");
    gpu_test_profile(&t, act_f32);
    struct weight device, w = random_weight(TYPE_Q4_K, 512, 20, 1, &device);
    struct rows src = gpu_test_random(512, 512, 8, 1), x = gpu_test_rows(&t, src, 8);
    struct rows found = gpu_test_random(20, 20, 8, 1), y = gpu_test_rows(&t, found, 8);
    for (int n = 1; n <= 8; n++) {
        float alone[20];
        struct rows last = x;
        last.data += (n - 1) * x.stride;
        t.gpu->gemv(t.s, y, &device, x, NULL, n);
        gpu_test_read(&t, found.data, y.data, (size_t)(20 * n) * sizeof(float));
        t.gpu->gemv(t.s, y, &device, last, NULL, 1);
        gpu_test_read(&t, alone, y.data, sizeof alone);
        CHECK(memcmp(alone, found.data + 20 * (n - 1), sizeof alone) == 0);
    }
    gpu_test_clear(&t);
    free((void *)w.data);
    free(src.data), free(found.data);
    gpu_test_profile(&t, true);
}

/* From about a hundred tokens on cuBLAS multiplies, in slabs of 512 rows here; where it is not installed,
 * makes no handle or refuses a product, our own kernels do. */
static void test_blas(void)
{
    uint64_t (*launches)(const char *);
    gpu_test_hook("cuda_host_launches", &launches);
    uint64_t before = launches ? launches("cublasGemmEx") : 0;
    test_product(MATMUL, TYPE_Q4_K, 256, 530, 97, false, true);
    test_product(MATMUL, TYPE_Q8_0, 96, 70, 96, false, false);
    test_product(MATMUL, TYPE_IQ3_S, 256, 40, 100, true, true);
    test_product(MATMUL, TYPE_F16, 77, 9, 96, true, false);
    if (!launches)
        return;
    check_case("cuBLAS was asked: two slabs, then one each");
    CHECK_INT(launches("cublasGemmEx") - before, 3 * 5);
    before = launches("cublasGemmEx");
    setenv("TANDEM_GPU_EMULATE", "failblas", 1);
    test_product(MATMUL, TYPE_Q4_K, 256, 30, 97, false, true);
    static const char *const absent[] = { "noblas", "badblas" };
    for (int i = 0; i < 2; i++) {
        setenv("TANDEM_GPU_EMULATE", absent[i], 1);
        struct gpu_stream *s, *with = t.profiles[0];
        struct error err = { 0 };
        struct gpu_limits l = { .max_tokens = 100, .max_cols = 1024, .max_rows = 64 };
        check_case("a stream, %s", absent[i]);
        CHECK_MSG(t.library->stream_open(&s, 0, &l, &err), "%s", err.text);
        t.profiles[0] = s;
        test_product(MATMUL, TYPE_Q4_K, 256, 30, 97, false, true);
        t.profiles[0] = with;
        t.library->stream_close(s);
    }
    unsetenv("TANDEM_GPU_EMULATE");
    CHECK_INT(launches("cublasGemmEx") - before, 0);
}

/* ---- experts ---- */

#define N_ROUTED 5
#define TOP_K 3

/* `bytes`: of the fast profile for few tokens, what down multiplies is rounded (x is already). */
static void expert_sum(const struct experts *e, const float *x, int id, float weight, bool bytes,
                       double *sum)
{
    struct weight gate = e->gate_up.data ? e->gate_up : e->gate, up = e->up;
    if (e->gate_up.data)
        up = gate;
    float *g = decode(&gate, id), *u = decode(&up, id), *d = decode(&e->down, id);
    const float *up_rows = e->gate_up.data ? g + e->expert_size * gate.cols : u;
    struct rows h = { malloc((size_t)e->expert_size * sizeof(float)), e->expert_size, e->expert_size };
    for (int64_t r = 0; r < e->expert_size; r++) {
        double a = 0, b = 0;
        for (int64_t c = 0; c < gate.cols; c++) {
            a += (double)g[r * gate.cols + c] * (double)x[c];
            b += (double)up_rows[r * gate.cols + c] * (double)x[c];
        }
        h.data[r] = (float)(a / (1 + exp(-a)) * b);
    }
    if (bytes)
        round_to_bytes(h, 1);
    for (int64_t r = 0; r < e->down.rows; r++) {
        double y = 0;
        for (int64_t c = 0; c < e->expert_size; c++)
            y += (double)d[r * e->expert_size + c] * (double)h.data[c];
        sum[r] += (double)weight * y;
    }
    free(g), free(u), free(d), free(h.data);
}

/* slots: where each expert lies, -1 not resident. The device's matrices lie in that order. */
static void test_experts(enum tensor_type type, bool fused, bool some, int n_tokens, bool act_f32)
{
    check_case("experts %s%s%s, %d tokens, %s", quant_traits(type)->name,
               fused ? ", gate and up fused" : "", some ? ", some resident" : "", n_tokens,
               act_f32 ? "f32" : "fast");
    gpu_test_profile(&t, act_f32);
    bool bytes = by_bytes(type, act_f32, GEMV, n_tokens);
    int64_t hidden = 256, size = 256;
    int32_t slots[N_ROUTED] = { 2, -1, 0, -1, 1 }, ids[80 * TOP_K];
    float weights[80 * TOP_K];
    struct experts e = { .n_routed = N_ROUTED, .top_k = TOP_K, .expert_size = size };
    for (int i = 0; i < n_tokens * TOP_K; i++) {
        ids[i] = (i / TOP_K + i % TOP_K * 2) % N_ROUTED;
        weights[i] = check_random_float(0, 1);
    }
    if (some && n_tokens > 1) /* a token with nothing here */
        ids[0] = 1, ids[1] = 3, ids[2] = 1;
    struct rows src = gpu_test_random(hidden, hidden + 16, n_tokens, 0.3f);
    struct rows found = gpu_test_random(hidden, hidden + 4, n_tokens, 1), wanted = found;
    for (int o = 0; gpu_test_order(&t, o); o++) {
        struct experts d = e;
        if (fused)
            e.gate_up = random_weight(type, hidden, 2 * size, N_ROUTED, &d.gate_up);
        else
            e.gate = random_weight(type, hidden, size, N_ROUTED, &d.gate),
            e.up = random_weight(type, hidden, size, N_ROUTED, &d.up);
        e.down = random_weight(type, size, hidden, N_ROUTED, &d.down);
        wanted.data = calloc((size_t)(wanted.stride * n_tokens), sizeof(float));
        double most = 1e-30;
        for (int i = 0; i < n_tokens; i++) {
            double sum[256] = { 0 };
            struct rows x = { malloc(256 * sizeof(float)), 256, 256 };
            memcpy(x.data, src.data + i * src.stride, 256 * sizeof(float));
            if (bytes)
                round_to_bytes(x, 1);
            for (int k = i * TOP_K; k < (i + 1) * TOP_K; k++) {
                int at = some ? slots[ids[k]] : ids[k];
                if (at >= 0)
                    expert_sum(&e, x.data, at, weights[k], bytes, sum);
            }
            free(x.data);
            for (int r = 0; r < 256; r++) {
                wanted.data[i * wanted.stride + r] = (float)sum[r];
                most = fmax(most, fabs(sum[r]));
            }
        }
        struct rows x = gpu_test_rows(&t, src, n_tokens), y = gpu_test_rows(&t, found, n_tokens);
        t.gpu->experts(t.s, y, x, &d, some ? gpu_test_block(&t, sizeof slots, slots) : NULL,
                       gpu_test_block(&t, sizeof ids, ids),
                       gpu_test_block(&t, sizeof weights, weights), n_tokens);
        gpu_test_read(&t, found.data, y.data,
                      (size_t)(found.stride * n_tokens) * sizeof(float));
        double difference = gpu_test_difference(found, wanted, n_tokens, most);
        /* a rounding that falls to the other side moves a byte by one */
        CHECK_MSG(difference <= (act_f32 ? 1e-5 : bytes ? 5e-4 : 5e-3), "difference %.3g of the largest", difference);
        gpu_test_clear(&t);
        free((void *)e.gate.data), free((void *)e.up.data), free((void *)e.gate_up.data);
        free((void *)e.down.data), free(wanted.data);
        e.gate.data = e.up.data = e.gate_up.data = NULL;
    }
    free(src.data), free(found.data);
    gpu_test_profile(&t, true);
}

int main(void)
{
    struct gpu_limits limits = { .max_tokens = 100, .max_cols = 1024, .max_rows = 64,
                                 .n_routed = N_ROUTED, .top_k = TOP_K, .expert_size = 256 };
    if (!gpu_test_open(&t, &limits))
        return check_finish();
    for (size_t i = 0; i < N_TYPES; i++) {
        enum tensor_type type = types[i];
        test_dequantize(type);
        test_embed(type, 256);
        test_product(GEMV, type, 512, 9, 1, true, i % 2);
        test_product(GEMV, type, 256, 5, 3, true, false);
        test_product(GEMV, type, 768, 5, 1, false, i % 2);
        test_product(GEMV, type, 256, 5, 3, false, false);
        test_product(GEMM, type, 256, 33, 10, true, i % 2);
        test_product(GEMM, type, 256, 17, 9, false, false);
        test_experts(type, i % 2, false, 1, true);
        test_experts(type, i % 2 == 0, i % 3 == 0, 1, false);
    }
    for (int op = GEMV; op <= MATMUL; op++) { /* columns that are no multiple of anything */
        test_product(op, TYPE_F32, 1, 1, 1, true, true);
        test_product(op, TYPE_F32, 77, 70, 8, true, true);
        test_product(op, TYPE_F16, 100, 3, 5, true, false);
    }
    test_embed(TYPE_F32, 1);
    test_embed(TYPE_BF16, 77);
    test_product(GEMM, TYPE_F32, 77, 130, 70, false, true);
    test_product(GEMM, TYPE_Q8_0, 96, 64, 65, false, false);
    test_product(GEMM, TYPE_F32, 130, 40, 70, true, true);
    test_product(MATMUL, TYPE_Q6_K, 256, 40, 12, false, true);
    test_product(GEMV, TYPE_Q4_K, 256, 9, 8, false, true);
    test_product(GEMV, TYPE_Q6_K, 1024, 67, 2, false, false); /* warps that share rows */
    test_product(GEMV, TYPE_Q4_0, 96, 70, 1, false, true);     /* rows that share a warp */
    test_product(GEMV, TYPE_IQ2_S, 1024, 7, 1, false, true);
    test_product(GEMV, TYPE_F16, 1000, 5, 2, false, false);
    test_gemv_swiglu(TYPE_Q4_K, 512, 21, 1);
    test_gemv_swiglu(TYPE_Q8_0, 64, 5, 3);
    test_blas();
    test_batch_bits(true);
    test_batch_bits(false);
    test_experts(TYPE_Q4_K, false, true, 4, true);
    test_experts(TYPE_F32, true, true, 8, true);
    test_experts(TYPE_IQ2_XS, true, true, 3, false);
    test_experts(TYPE_F16, false, true, 2, false);
    test_experts(TYPE_Q8_0, true, true, 37, true); /* sorted by expert, in tiles */
    test_experts(TYPE_Q4_K, false, false, 9, true);
    test_experts(TYPE_Q5_0, false, true, 70, false);
    test_experts(TYPE_Q6_K, true, false, 24, false);
    gpu_test_close(&t);
    return check_finish();
}
