/* The truth: every kernel in plain C, as short as its definition. Sums run in double, because the
 * judge should be better than the judged. Nothing here is changed for speed.
 *
 * The dot products of all weight types are one function: decode a piece of the row and the same
 * piece of the encoded activation to floats, multiply, add. The fast versions multiply the integers
 * and apply the scales once per block; both compute the same sum of products, so they differ by
 * rounding only. */
#include <math.h>
#include <string.h>

#include "cpu/kernels.h"
#include "src/base/util.h"
#include "src/format/quant.h"

#define PIECE 256 /* elements decoded at a time; every block length divides it */

static float dot_f32(const float *x, const float *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * y[i];
    return (float)sum;
}

static float dot_f32_f16(const float *x, const uint16_t *y, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * f16_to_f32(y[i]);
    return (float)sum;
}

static double dot_encoded(enum tensor_type type, int64_t n, const uint8_t *row, const uint8_t *act)
{
    const struct quant_traits *w = quant_traits(type), *a = quant_traits(w->act);
    float wf[PIECE], af[PIECE];
    double sum = 0;
    for (int64_t i = 0; i < n; i += PIECE) {
        int64_t len = min_of(n - i, PIECE);
        w->dequantize(row + quant_row_bytes(type, i), wf, len);
        a->dequantize(act + quant_row_bytes(w->act, i), af, len);
        for (int64_t j = 0; j < len; j++)
            sum += (double)wf[j] * af[j];
    }
    return sum;
}

static void dot_tokens(enum tensor_type type, int64_t n, const void *row, const void *act,
                       size_t act_stride, int n_tokens, float *out)
{
    for (int t = 0; t < n_tokens; t++)
        out[t] = (float)dot_encoded(type, n, row, (const uint8_t *)act + (size_t)t * act_stride);
}

/* Weight types with a dot product. The table holds functions that do not know their row, so each
 * type gets a small one of its own. */
#define DOT_TYPES(X)                                                                              \
    X(F32) X(F16) X(BF16) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) \
    X(Q6_K) X(IQ1_S) X(IQ1_M) X(IQ2_XXS) X(IQ2_XS) X(IQ2_S) X(IQ3_XXS) X(IQ3_S) X(IQ4_NL)         \
    X(IQ4_XS) X(TQ1_0) X(TQ2_0) X(MXFP4) X(NVFP4) X(Q1_0) X(Q2_0)

#define DEFINE_DOT(T)                                                                             \
    static void dot_##T(int64_t n, const void *row, const void *act, size_t act_stride,           \
                        int n_tokens, float *out)                                                 \
    {                                                                                             \
        dot_tokens(TYPE_##T, n, row, act, act_stride, n_tokens, out);                             \
    }
DOT_TYPES(DEFINE_DOT)

/* The encoders of quant.c, without importance. */
#define ACT_TYPES(X) X(F32) X(F16) X(BF16) X(Q8_0) X(Q8_1) X(Q8_K)

#define DEFINE_QUANTIZE(T)                                                                        \
    static void quantize_##T(const float *x, void *blocks, int64_t n)                             \
    {                                                                                             \
        quant_traits(TYPE_##T)->quantize(x, blocks, n, NULL);                                     \
    }
ACT_TYPES(DEFINE_QUANTIZE)

static void axpy_f32(float a, const float *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += a * x[i];
}

static void axpy_f16(float a, const uint16_t *x, float *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] += a * f16_to_f32(x[i]);
}

static void to_f16(const float *x, uint16_t *y, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = f32_to_f16(x[i]);
}

static void rmsnorm_ref(const float *x, const float *weight, float *out, int64_t n, float eps)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += (double)x[i] * x[i];
    float scale = (float)(1.0 / sqrt(sum / (double)max_of(n, 1) + eps));
    for (int64_t i = 0; i < n; i++)
        out[i] = x[i] * scale * weight[i];
}

static float max_f32(const float *x, int64_t n)
{
    float max = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static float softmax_exp(float *x, int64_t n, float max)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        float e = expf(x[i] - max);
        x[i] = e < 0x1p-126f ? 0 : e; /* NaN stays */
        sum += x[i];
    }
    return (float)sum;
}

static void swiglu_ref(const float *gate, const float *up, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = gate[i] / (1 + expf(-gate[i])) * up[i];
}

static void add_ref(const float *a, const float *b, float *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = a[i] + b[i];
}

static uint64_t read_words_ref(const void *at, size_t bytes)
{
    const uint8_t *p = at;
    uint64_t sum[8] = { 0 }, word;
    for (size_t i = 0; i < bytes; i += sizeof sum) {
        for (size_t j = 0; j < ARRAY_LEN(sum); j++) {
            memcpy(&word, p + i + 8 * j, sizeof word);
            sum[j] += word;
        }
    }
    for (size_t j = 1; j < ARRAY_LEN(sum); j++)
        sum[0] += sum[j];
    return sum[0];
}

static int64_t count_int8_ref(int64_t rounds)
{
    int8_t a[16], b[16];
    int64_t total = 0;
    memset(a, 1, sizeof a);
    memset(b, 1, sizeof b);
    for (int64_t i = 0; i < rounds; i++) {
        __asm__ volatile("" : : "r"(a), "r"(b) : "memory"); /* multiply again, do not remember */
        int32_t sum = 0;
        for (int j = 0; j < 16; j++)
            sum += a[j] * b[j];
        total += sum;
    }
    return total;
}

static void index_scores_ref(const struct index_query *q, const int8_t *keys, const float *scales,
                             int64_t n, float *scores)
{
    for (int64_t i = 0; i < n; i++, keys += q->dim) {
        float lanes[INDEX_LANES] = { 0 };
        for (int h = 0; h < q->n_heads; h++) {
            int32_t dot = 0;
            for (int c = 0; c < q->dim; c++)
                dot += q->q[(c / 4 * q->n_heads + h) * 4 + c % 4] * keys[c];
            float *lane = &lanes[h % INDEX_LANES];
            *lane = fmaf(q->weights[h], (float)max_of(dot, 0), *lane);
        }
        for (int apart = INDEX_LANES / 2; apart > 0; apart /= 2)
            for (int l = 0; l < apart; l++)
                lanes[l] += lanes[l + apart];
        scores[i] = scales[i] * lanes[0];
    }
}

void kernels_use_ref(struct kernels *k)
{
    memset(k, 0, sizeof *k);
    for (int type = 0; type < N_TENSOR_TYPES; type++)
        k->decode[type] = quant_traits((uint32_t)type)->dequantize;
#define SET_DOT(T) k->dot[TYPE_##T] = dot_##T;
    DOT_TYPES(SET_DOT)
#define SET_QUANTIZE(T) k->quantize[TYPE_##T] = quantize_##T;
    ACT_TYPES(SET_QUANTIZE)
    k->dot_f32 = dot_f32;
    k->dot_f32_f16 = dot_f32_f16;
    k->axpy_f32 = axpy_f32;
    k->axpy_f16 = axpy_f16;
    k->to_f16 = to_f16;
    k->rmsnorm = rmsnorm_ref;
    k->max_f32 = max_f32;
    k->softmax_exp = softmax_exp;
    k->swiglu = swiglu_ref;
    k->add = add_ref;
    k->read_words = read_words_ref;
    k->count_int8 = count_int8_ref;
    k->index_scores = index_scores_ref;
}
