/* Attention of the GPU library against sums in double: grouped heads, latents in both forms, both
 * numeric profiles, splits and chunks of positions. */
#include "src/format/quant.h"
#include "tests/gpu_test.h"

static struct gpu_test t;

#define MAX_CTX 1100 /* more than two chunks of expanded positions */

/* Softmax-weighted sum for one query: keys and values [seen, ...] as doubles. */
struct keys {
    const double *k, *v;
    int64_t k_stride, v_stride;
    int key, value;
};

static void attend_one(const double *q, struct keys s, int64_t seen, double scale, double *out)
{
    double *w = malloc((size_t)seen * sizeof *w), max = -INFINITY, sum = 0;
    for (int64_t p = 0; p < seen; p++) {
        w[p] = 0;
        for (int i = 0; i < s.key; i++)
            w[p] += q[i] * s.k[p * s.k_stride + i];
        w[p] *= scale;
        max = w[p] > max ? w[p] : max;
    }
    for (int64_t p = 0; p < seen; p++)
        sum += w[p] = exp(w[p] - max);
    for (int c = 0; c < s.value; c++) {
        out[c] = 0;
        for (int64_t p = 0; p < seen; p++)
            out[c] += w[p] / sum * s.v[p * s.v_stride + c];
    }
    free(w);
}

/* A cache of random rows on the device; `rows` gets what it holds. Rows that no query may see are
 * NaN. */
static void *cache_of(enum tensor_type type, double *rows, int64_t width, int64_t n_seen,
                      int64_t n_ctx)
{
    size_t element = type == TYPE_F16 ? 2 : 4;
    unsigned char *bytes = malloc((size_t)(n_ctx * width) * element);
    for (int64_t i = 0; i < n_ctx * width; i++) {
        float x = i < n_seen * width ? check_random_float(-1, 1) : NAN;
        if (type == TYPE_F16) {
            uint16_t half = f32_to_f16(x);
            memcpy(bytes + i * 2, &half, 2);
            x = f16_to_f32(half);
        } else {
            memcpy(bytes + i * 4, &x, 4);
        }
        rows[i] = x;
    }
    void *block = gpu_test_block(&t, (size_t)(n_ctx * width) * element, bytes);
    free(bytes);
    return block;
}

static double *doubles(const float *x, int64_t n)
{
    double *d = malloc((size_t)n * sizeof *d);
    for (int64_t i = 0; i < n; i++)
        d[i] = x[i];
    return d;
}

static void *step_at(int64_t n_past, int n_tokens)
{
    struct gpu_step step = { .n_past = n_past, .n_tokens = n_tokens };
    return gpu_test_block(&t, sizeof step, &step);
}

static double tolerance(void) { return t.s == t.profiles[1] ? 2e-5 : 4e-3; }

/* ---- grouped heads ---- */

static void test_gqa(int n_heads, int n_kv_heads, int head_dim, int64_t n_past, int n_tokens,
                     int64_t kv_bound)
{
    bool exact = t.s == t.profiles[1];
    enum tensor_type type = exact ? TYPE_F32 : TYPE_F16;
    check_case("gqa, %s, %d on %d heads of %d, %d tokens behind %d", exact ? "F32" : "F16", n_heads,
               n_kv_heads, head_dim, n_tokens, (int)n_past);
    int64_t width = n_heads * head_dim, kv_width = n_kv_heads * head_dim, seen = n_past + n_tokens;
    struct rows q = gpu_test_random(width, width + 4, n_tokens, 2);
    struct rows wanted = gpu_test_random(width, width + 2, n_tokens, 1);
    struct rows found = gpu_test_random(width, width + 2, n_tokens, 1);
    double *k = malloc((size_t)(kv_bound * kv_width) * sizeof *k);
    double *v = malloc((size_t)(kv_bound * kv_width) * sizeof *v);
    double *qd = doubles(q.data, q.stride * n_tokens), *out = malloc((size_t)head_dim * sizeof *out);
    double scale = 1 / sqrt(head_dim);
    for (int o = 0; gpu_test_order(&t, o); o++) {
        void *device_k = cache_of(type, k, kv_width, seen, kv_bound);
        void *device_v = cache_of(type, v, kv_width, seen, kv_bound);
        for (int i = 0; i < n_tokens * n_heads; i++) {
            int token = i / n_heads, head = i % n_heads, kv = head / (n_heads / n_kv_heads);
            struct keys s = { k + kv * head_dim, v + kv * head_dim, kv_width, kv_width, head_dim,
                              head_dim };
            attend_one(qd + token * q.stride + head * head_dim, s, n_past + token + 1, scale, out);
            for (int c = 0; c < head_dim; c++)
                wanted.data[token * wanted.stride + head * head_dim + c] = (float)out[c];
        }
        struct rows dst = gpu_test_rows(&t, found, n_tokens);
        t.gpu->attention_gqa(t.s, dst, gpu_test_rows(&t, q, n_tokens), device_k, device_v, type,
                             n_heads, n_kv_heads, head_dim, (float)scale,
                             step_at(n_past, n_tokens), kv_bound, n_tokens);
        gpu_test_read(&t, found.data, dst.data, (size_t)(found.stride * n_tokens) * sizeof(float));
        double d = gpu_test_difference(found, wanted, n_tokens, 1);
        CHECK_MSG(d <= tolerance(), "difference %.3g", d);
        gpu_test_clear(&t);
    }
    free(q.data), free(wanted.data), free(found.data);
    free(k), free(v), free(qd), free(out);
}

/* ---- latents ---- */

/* Random matrices of `type`, `gap` bytes between them; `values` gets what they hold. */
static struct weight matrices(enum tensor_type type, int n, int64_t rows, int64_t cols, size_t gap,
                              double *values)
{
    struct weight w = { .type = type, .n_matrices = n, .rows = rows, .cols = cols };
    w.row_bytes = quant_row_bytes(type, cols);
    w.matrix_bytes = w.row_bytes * (size_t)rows + gap;
    uint8_t *bytes = calloc((size_t)n, w.matrix_bytes);
    float *x = malloc((size_t)(rows * cols) * sizeof *x);
    for (int m = 0; m < n; m++) {
        uint8_t *to = bytes + (size_t)m * w.matrix_bytes;
        for (int64_t i = 0; i < rows * cols; i++)
            x[i] = check_random_float(-0.3f, 0.3f);
        if (type == TYPE_F32)
            memcpy(to, x, (size_t)(rows * cols) * sizeof *x);
        else
            quant_traits(type)->quantize(x, to, rows * cols, NULL);
        quant_traits(type)->dequantize(to, x, rows * cols);
        for (int64_t i = 0; i < rows * cols; i++)
            values[m * rows * cols + i] = x[i];
    }
    w.data = gpu_test_block(&t, (size_t)n * w.matrix_bytes, bytes);
    free(bytes);
    free(x);
    return w;
}

struct shape {
    int n_heads, nope, rope, value, rank;
    enum tensor_type type; /* of k_b and v_b */
};

/* Expanded keys [seen, nope + rope] and values [seen, value] of one head. */
static void expand(struct shape h, int head, const double *latents, const double *k_b,
                   const double *v_b, int64_t seen, double *k, double *v)
{
    int key = h.nope + h.rope, width = h.rank + h.rope;
    for (int64_t p = 0; p < seen; p++) {
        const double *latent = latents + p * width;
        for (int i = 0; i < h.nope; i++) {
            k[p * key + i] = 0;
            for (int r = 0; r < h.rank; r++)
                k[p * key + i] += latent[r] * k_b[(head * h.rank + r) * h.nope + i];
        }
        for (int i = 0; i < h.rope; i++)
            k[p * key + h.nope + i] = latent[h.rank + i];
        for (int i = 0; i < h.value; i++) {
            v[p * h.value + i] = 0;
            for (int r = 0; r < h.rank; r++)
                v[p * h.value + i] += latent[r] * v_b[(head * h.value + i) * h.rank + r];
        }
    }
}

static void test_mla(struct shape h, bool decompressed, int64_t n_past, int n_tokens,
                     int64_t kv_bound, size_t gap)
{
    bool exact = t.s == t.profiles[1];
    enum tensor_type cache_type = exact ? TYPE_F32 : TYPE_F16;
    check_case("mla %s, %s, %d heads, %s matrices, rank %d, %d tokens behind %d",
               decompressed ? "decompressed" : "absorbed", exact ? "F32" : "F16", h.n_heads,
               quant_traits(h.type)->name, h.rank, n_tokens, (int)n_past);
    int key = h.nope + h.rope, width = h.rank + h.rope;
    int64_t seen = n_past + n_tokens;
    struct rows q = gpu_test_random(h.n_heads * key, h.n_heads * key + 4, n_tokens, 1);
    struct rows wanted = gpu_test_random(h.n_heads * h.value, h.n_heads * h.value, n_tokens, 1);
    struct rows found = gpu_test_random(h.n_heads * h.value, h.n_heads * h.value, n_tokens, 1);
    size_t per_head = (size_t)h.n_heads * (size_t)h.rank;
    double *k_b = malloc(per_head * (size_t)h.nope * sizeof *k_b);
    double *v_b = malloc(per_head * (size_t)h.value * sizeof *v_b);
    double *latents = malloc((size_t)(kv_bound * width) * sizeof *latents);
    double *k = malloc((size_t)(seen * key) * sizeof *k);
    double *v = malloc((size_t)(seen * h.value) * sizeof *v);
    double *qd = doubles(q.data, q.stride * n_tokens), *out = malloc((size_t)h.value * sizeof *out);
    struct mla m = { .n_heads = h.n_heads, .nope = h.nope, .rope = h.rope, .value = h.value,
                     .rank = h.rank, .scale = (float)(1 / sqrt(key)) };
    for (int o = 0; gpu_test_order(&t, o); o++) {
        m.k_b = matrices(h.type, h.n_heads, h.rank, h.nope, gap, k_b);
        m.v_b = matrices(h.type, h.n_heads, h.value, h.rank, gap, v_b);
        void *cache = cache_of(cache_type, latents, width, seen, kv_bound);
        struct keys s = { k, v, key, h.value, key, h.value };
        for (int head = 0; head < h.n_heads; head++) {
            expand(h, head, latents, k_b, v_b, seen, k, v);
            for (int i = 0; i < n_tokens; i++) {
                attend_one(qd + i * q.stride + head * key, s, n_past + i + 1, (double)m.scale, out);
                for (int c = 0; c < h.value; c++)
                    wanted.data[i * wanted.stride + head * h.value + c] = (float)out[c];
            }
        }
        struct rows dst = gpu_test_rows(&t, found, n_tokens);
        struct rows device_q = gpu_test_rows(&t, q, n_tokens);
        (decompressed ? t.gpu->mla_decompressed : t.gpu->mla_absorbed)(
            t.s, dst, device_q, cache, cache_type, &m, step_at(n_past, n_tokens), kv_bound,
            n_tokens);
        gpu_test_read(&t, found.data, dst.data, (size_t)(found.stride * n_tokens) * sizeof(float));
        double d = gpu_test_difference(found, wanted, n_tokens, 1);
        CHECK_MSG(d <= 4 * tolerance(), "difference %.3g", d);
        gpu_test_clear(&t);
    }
    free(q.data), free(wanted.data), free(found.data);
    free(k_b), free(v_b), free(latents), free(k), free(v), free(qd), free(out);
}

int main(void)
{
    struct gpu_limits limits = { .max_tokens = 24, .n_ctx = MAX_CTX, .n_heads = 34,
                                 .head_width = 600, .mla_rank = 512 };
    if (!gpu_test_open(&t, &limits))
        return check_finish();
    struct shape small = { 3, 20, 6, 12, 40, TYPE_F32 };
    struct shape coded = { 18, 32, 8, 32, 64, TYPE_Q8_0 };
    struct shape wide = { 2, 64, 16, 96, 320, TYPE_F16 };
    struct shape full = { 34, 8, 64, 8, 512, TYPE_F16 }; /* V3's latents */
    for (int exact = 1; exact >= 0; exact--) {
        gpu_test_profile(&t, exact);
        test_gqa(1, 1, 1, 0, 1, 1);
        test_gqa(6, 2, 24, 0, 5, 8);
        test_gqa(4, 4, 64, 70, 1, 128);
        test_gqa(20, 1, 128, 33, 2, 64); /* on tensor cores: blocks of 64, 32 and 16 rows */
        test_gqa(20, 1, 128, 150, 1, 256);
        test_gqa(16, 1, 64, 70, 1, 128);
        test_gqa(8, 2, 16, 200, 9, 256);
        for (int decompressed = 0; decompressed <= 1; decompressed++) {
            test_mla(small, decompressed, 0, 1, 1, 0);
            test_mla(small, decompressed, 45, 3, 64, 16);
            test_mla(coded, decompressed, 20, 7, 32, 34);
            test_mla(wide, decompressed, 90, 20, 128, 0);
        }
        test_mla(full, false, 70, 1, 128, 0);
        test_mla(small, true, 1030, 17, MAX_CTX, 0);
    }
    gpu_test_close(&t);
    return check_finish();
}
