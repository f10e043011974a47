/* Kernels on floats, written once in the verbs of vec.h and compiled for each vector width. The
 * including file has chosen its vec.h; ISA_NAME(x) appends the ISA to a name. */

/* ---- Rows of F32, F16 or BF16 times activations of the same type ----
 *
 * Four vectors of partial sums per token, whatever the batch, folded as (0 + 1) + (2 + 3). */

#define SUMS 4
/* Bytes of a row asked for early, as in sums.h: F16 and BF16 gain an eighth; F32
 * loses as much. */
#define ROW_AHEAD 2048
#define TOKENS 2 /* per pass over the row: with 8 vectors of sums, 16 registers suffice */

#define DEFINE_FLOAT_DOT(name, type, load, load_part, load_w, load_w_part, type_w)                \
    ALWAYS_INLINE void name##_tokens(int64_t n, const type_w *row, const type *act,               \
                                     size_t stride, const int n_tokens, float *out)               \
    {                                                                                             \
        vec sum[TOKENS][SUMS];                                                                    \
        for (int t = 0; t < n_tokens; t++)                                                        \
            for (int s = 0; s < SUMS; s++)                                                        \
                sum[t][s] = vec_zero();                                                           \
        int64_t i = 0;                                                                            \
        for (; i + SUMS * VEC <= n; i += SUMS * VEC) {                                            \
            for (size_t at = 0; sizeof *row == 2 && at < SUMS * VEC * sizeof *row; at += 64)      \
                __builtin_prefetch((const char *)(row + i) + at + ROW_AHEAD);                     \
            for (int s = 0; s < SUMS; s++) {                                                      \
                vec w = load_w(row + i + s * VEC);                                                \
                for (int t = 0; t < n_tokens; t++)                                                \
                    sum[t][s] = vec_fma(w, load(token_at(act, stride, t) + i + s * VEC),          \
                                        sum[t][s]);                                               \
            }                                                                                     \
        }                                                                                         \
        for (; i + VEC <= n; i += VEC)                                                            \
            for (int t = 0; t < n_tokens; t++)                                                    \
                sum[t][0] = vec_fma(load_w(row + i), load(token_at(act, stride, t) + i),          \
                                    sum[t][0]);                                                   \
        int rest = (int)(n - i);                                                                  \
        for (int t = 0; rest && t < n_tokens; t++)                                                \
            sum[t][1] = vec_fma(load_w_part(row + i, rest),                                       \
                                load_part(token_at(act, stride, t) + i, rest), sum[t][1]);        \
        for (int t = 0; t < n_tokens; t++)                                                        \
            out[t] = vec_sum(vec_add(vec_add(sum[t][0], sum[t][1]),                               \
                                     vec_add(sum[t][2], sum[t][3])));                             \
    }

#define token_at(act, stride, t) \
    ((__typeof__(act))(const void *)((const uint8_t *)(act) + (size_t)(t) * (stride)))

DEFINE_FLOAT_DOT(f32, float, load_f32_vec, load_f32_part, load_f32_vec, load_f32_part, float)
DEFINE_FLOAT_DOT(f16, uint16_t, load_f16_vec, load_f16_part, load_f16_vec, load_f16_part, uint16_t)
DEFINE_FLOAT_DOT(bf16, uint16_t, load_bf16_vec, load_bf16_part, load_bf16_vec, load_bf16_part,
                 uint16_t)
DEFINE_FLOAT_DOT(f32_f16, uint16_t, load_f16_vec, load_f16_part, load_f32_vec, load_f32_part, float)

#define DEFINE_ROW_DOT(name, type)                                                                \
    static void ISA_NAME(dot_row_##name)(int64_t n, const void *row, const void *act,             \
                                         size_t stride, int n_tokens, float *out)                 \
    {                                                                                             \
        int t = 0;                                                                                \
        for (; t + TOKENS <= n_tokens; t += TOKENS)                                               \
            name##_tokens(n, row, token_at((const type *)act, stride, t), stride, TOKENS,         \
                          out + t);                                                               \
        for (; t < n_tokens; t++)                                                                 \
            name##_tokens(n, row, token_at((const type *)act, stride, t), stride, 1, out + t);    \
    }
DEFINE_ROW_DOT(f32, float)
DEFINE_ROW_DOT(f16, uint16_t)
DEFINE_ROW_DOT(bf16, uint16_t)

static float ISA_NAME(dot_f32)(const float *x, const float *y, int64_t n)
{
    float sum;
    f32_tokens(n, x, y, 0, 1, &sum);
    return sum;
}

static float ISA_NAME(dot_f32_f16)(const float *x, const uint16_t *y, int64_t n)
{
    float sum;
    f32_f16_tokens(n, x, y, 0, 1, &sum);
    return sum;
}

/* ---- Element by element: whole vectors, then one part ---- */

#define EACH_VEC(n, whole, part)                                                                  \
    int64_t i = 0;                                                                                \
    for (; i + VEC <= (n); i += VEC)                                                              \
        whole;                                                                                    \
    if (i < (n)) {                                                                                \
        int rest = (int)((n) - i);                                                                \
        part;                                                                                     \
    }

static void ISA_NAME(axpy_f32)(float a, const float *x, float *y, int64_t n)
{
    vec va = vec_set(a);
    EACH_VEC(n, store_f32_vec(y + i, vec_fma(va, load_f32_vec(x + i), load_f32_vec(y + i))),
             store_f32_part(y + i, vec_fma(va, load_f32_part(x + i, rest),
                                           load_f32_part(y + i, rest)), rest))
}

static void ISA_NAME(axpy_f16)(float a, const uint16_t *x, float *y, int64_t n)
{
    vec va = vec_set(a);
    EACH_VEC(n, store_f32_vec(y + i, vec_fma(va, load_f16_vec(x + i), load_f32_vec(y + i))),
             store_f32_part(y + i, vec_fma(va, load_f16_part(x + i, rest),
                                           load_f32_part(y + i, rest)), rest))
}

static void ISA_NAME(to_f16)(const float *x, uint16_t *y, int64_t n)
{
    EACH_VEC(n, store_f16_vec(y + i, load_f32_vec(x + i)),
             store_f16_part(y + i, load_f32_part(x + i, rest), rest))
}

static void ISA_NAME(add)(const float *a, const float *b, float *out, int64_t n)
{
    EACH_VEC(n, store_f32_vec(out + i, vec_add(load_f32_vec(a + i), load_f32_vec(b + i))),
             store_f32_part(out + i, vec_add(load_f32_part(a + i, rest),
                                             load_f32_part(b + i, rest)), rest))
}

static void ISA_NAME(decode_f16)(const void *blocks, float *out, int64_t n)
{
    const uint16_t *x = blocks;
    EACH_VEC(n, store_f32_vec(out + i, load_f16_vec(x + i)),
             store_f32_part(out + i, load_f16_part(x + i, rest), rest))
}

static void ISA_NAME(decode_bf16)(const void *blocks, float *out, int64_t n)
{
    const uint16_t *x = blocks;
    EACH_VEC(n, store_f32_vec(out + i, load_bf16_vec(x + i)),
             store_f32_part(out + i, load_bf16_part(x + i, rest), rest))
}

static void ISA_NAME(quantize_f16)(const float *x, void *blocks, int64_t n)
{
    ISA_NAME(to_f16)(x, blocks, n);
}

/* ---- e^x ----
 *
 * x = k ln 2 + r with whole k and |r| <= ln 2 / 2, so e^x = 2^k e^r. ln 2 is split so that k times
 * its upper part is exact; e^r is its series up to r^7, whose rest is below 6e-9. */
ALWAYS_INLINE vec vec_exp(vec x) /* x in -87.5 .. 88, NaN stays */
{
    vec k = vec_round(vec_mul(x, vec_set(0x1.715476p+0f)));
    vec r = vec_fma(k, vec_set(-0x1.62e4p-1f), x);
    r = vec_fma(k, vec_set(-0x1.7f7d1cp-20f), r);
    vec p = vec_set(1.0f / 5040);
    p = vec_fma(p, r, vec_set(1.0f / 720));
    p = vec_fma(p, r, vec_set(1.0f / 120));
    p = vec_fma(p, r, vec_set(1.0f / 24));
    p = vec_fma(p, r, vec_set(1.0f / 6));
    p = vec_fma(p, r, vec_set(0.5f));
    p = vec_fma(p, r, vec_set(1.0f));
    p = vec_fma(p, r, vec_set(1.0f));
    return vec_mul(p, vec_pow2(k));
}

/* e^x for x <= 0, flushed to 0 below the smallest normal float. */
ALWAYS_INLINE vec vec_weight(vec x)
{
    vec e = vec_exp(vec_at_least(x, -87.5f));
    return vec_zero_below(e, 0x1p-126f);
}

static float ISA_NAME(softmax_exp)(float *x, int64_t n, float max)
{
    vec m = vec_set(max), sum = vec_zero();
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC) {
        vec e = vec_weight(vec_sub(load_f32_vec(x + i), m));
        store_f32_vec(x + i, e);
        sum = vec_add(sum, e);
    }
    float total = vec_sum(sum);
    if (i < n) {
        int rest = (int)(n - i);
        store_f32_part(x + i, vec_weight(vec_sub(load_f32_part(x + i, rest), m)), rest);
        total += vec_sum(load_f32_part(x + i, rest));
    }
    return total;
}

static float ISA_NAME(max_f32)(const float *x, int64_t n)
{
    vec m = vec_set(-INFINITY);
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC)
        m = vec_max(load_f32_vec(x + i), m);
    float max = vec_max_of(m);
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

ALWAYS_INLINE vec vec_swiglu(vec gate, vec up)
{
    vec e = vec_exp(vec_at_least(vec_at_most(vec_sub(vec_zero(), gate), 88.0f), -87.0f));
    return vec_mul(vec_div(gate, vec_add(vec_set(1), e)), up);
}

static void ISA_NAME(swiglu)(const float *gate, const float *up, float *out, int64_t n)
{
    EACH_VEC(n, store_f32_vec(out + i, vec_swiglu(load_f32_vec(gate + i), load_f32_vec(up + i))),
             store_f32_part(out + i, vec_swiglu(load_f32_part(gate + i, rest),
                                                load_f32_part(up + i, rest)), rest))
}

static void ISA_NAME(rmsnorm)(const float *x, const float *weight, float *out, int64_t n, float eps)
{
    float squares = ISA_NAME(dot_f32)(x, x, n);
    float scale = (float)(1.0 / sqrt((double)squares / (double)(n > 0 ? n : 1) + eps));
    vec s = vec_set(scale);
    EACH_VEC(n, store_f32_vec(out + i, vec_mul(vec_mul(load_f32_vec(x + i), s),
                                               load_f32_vec(weight + i))),
             store_f32_part(out + i, vec_mul(vec_mul(load_f32_part(x + i, rest), s),
                                             load_f32_part(weight + i, rest)), rest))
}

void ISA_NAME(use_float)(struct kernels *k)
{
    k->dot[TYPE_F32] = ISA_NAME(dot_row_f32);
    k->dot[TYPE_F16] = ISA_NAME(dot_row_f16);
    k->dot[TYPE_BF16] = ISA_NAME(dot_row_bf16);
    k->decode[TYPE_F16] = ISA_NAME(decode_f16);
    k->decode[TYPE_BF16] = ISA_NAME(decode_bf16);
    k->quantize[TYPE_F16] = ISA_NAME(quantize_f16);
    k->dot_f32 = ISA_NAME(dot_f32);
    k->dot_f32_f16 = ISA_NAME(dot_f32_f16);
    k->axpy_f32 = ISA_NAME(axpy_f32);
    k->axpy_f16 = ISA_NAME(axpy_f16);
    k->to_f16 = ISA_NAME(to_f16);
    k->rmsnorm = ISA_NAME(rmsnorm);
    k->max_f32 = ISA_NAME(max_f32);
    k->softmax_exp = ISA_NAME(softmax_exp);
    k->swiglu = ISA_NAME(swiglu);
    k->add = ISA_NAME(add);
}
