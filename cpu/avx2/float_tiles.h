/* Tiles of rows of F32, F16 or BF16 times many activations, with the bits of the dot products in
 * float_kernels.h, which the including file has included before.
 *
 * A dot product with one or two tokens loads and widens as much as it multiplies. Here the
 * activations become floats once per call, and as many rows and tokens meet in registers as four
 * vectors of partial sums for each pair allow. */
#ifndef TANDEM_CPU_AVX2_FLOAT_TILES_H
#define TANDEM_CPU_AVX2_FLOAT_TILES_H

#define TILE_ROWS (VEC == 16 ? 2 : 1) /* 24 of 32 registers, or 12 of 16 */
#define TILE_TOKENS 3
#define TILE_COLS 16384 /* longer rows are multiplied one by one */

/* What each type is read with; `acts` [n_tokens][n] floats. */
#define DEFINE_FLOAT_TILE(name, type, load_w, load_w_part)                                        \
    ALWAYS_INLINE void tile_##name(int64_t n, const type *rows, size_t row_stride,                \
                                   const int n_rows, const float *acts, const int n_tokens,       \
                                   float *out, size_t out_stride)                                 \
    {                                                                                             \
        vec sum[TILE_ROWS][TILE_TOKENS][SUMS];                                                    \
        for (int r = 0; r < n_rows; r++)                                                          \
            for (int t = 0; t < n_tokens; t++)                                                    \
                for (int s = 0; s < SUMS; s++)                                                    \
                    sum[r][t][s] = vec_zero();                                                    \
        int64_t i = 0;                                                                            \
        for (; i + SUMS * VEC <= n; i += SUMS * VEC)                                              \
            for (int s = 0; s < SUMS; s++) {                                                      \
                vec w[TILE_ROWS];                                                                 \
                for (int r = 0; r < n_rows; r++)                                                  \
                    w[r] = load_w(token_at(rows, row_stride, r) + i + s * VEC);                   \
                for (int t = 0; t < n_tokens; t++) {                                              \
                    vec a = load_f32_vec(acts + t * n + i + s * VEC);                             \
                    for (int r = 0; r < n_rows; r++)                                              \
                        sum[r][t][s] = vec_fma(w[r], a, sum[r][t][s]);                            \
                }                                                                                 \
            }                                                                                     \
        for (; i + VEC <= n; i += VEC)                                                            \
            for (int r = 0; r < n_rows; r++)                                                      \
                for (int t = 0; t < n_tokens; t++)                                                \
                    sum[r][t][0] = vec_fma(load_w(token_at(rows, row_stride, r) + i),             \
                                           load_f32_vec(acts + t * n + i), sum[r][t][0]);         \
        int rest = (int)(n - i);                                                                  \
        for (int r = 0; rest && r < n_rows; r++)                                                  \
            for (int t = 0; t < n_tokens; t++)                                                    \
                sum[r][t][1] = vec_fma(load_w_part(token_at(rows, row_stride, r) + i, rest),      \
                                       load_f32_part(acts + t * n + i, rest), sum[r][t][1]);      \
        for (int r = 0; r < n_rows; r++)                                                          \
            for (int t = 0; t < n_tokens; t++)                                                    \
                out[(size_t)t * out_stride + (size_t)r] =                                         \
                    vec_sum(vec_add(vec_add(sum[r][t][0], sum[r][t][1]),                          \
                                    vec_add(sum[r][t][2], sum[r][t][3])));                        \
    }                                                                                             \
                                                                                                  \
    /* All rows times n_tokens (a constant) tokens. */                                            \
    ALWAYS_INLINE void rows_##name(int64_t n, const type *rows, size_t row_stride, int n_rows,    \
                                   const float *acts, const int n_tokens, float *out,             \
                                   size_t out_stride)                                             \
    {                                                                                             \
        int r = 0;                                                                                \
        for (; r + TILE_ROWS <= n_rows; r += TILE_ROWS)                                           \
            tile_##name(n, token_at(rows, row_stride, r), row_stride, TILE_ROWS, acts, n_tokens,  \
                        out + r, out_stride);                                                     \
        for (; r < n_rows; r++)                                                                   \
            tile_##name(n, token_at(rows, row_stride, r), row_stride, 1, acts, n_tokens, out + r, \
                        out_stride);                                                              \
    }                                                                                             \
                                                                                                  \
    static void ISA_NAME(gemm_##name)(int64_t n, const void *rows, size_t row_stride, int n_rows, \
                                      const void *act, size_t act_stride, int n_tokens,           \
                                      float *out, size_t out_stride)                              \
    {                                                                                             \
        float acts[TILE_TOKENS * TILE_COLS];                                                      \
        for (int t = 0; n > TILE_COLS && t < n_tokens; t++)                                       \
            for (int r = 0; r < n_rows; r++)                                                      \
                ISA_NAME(dot_row_##name)(n, token_at((const type *)rows, row_stride, r),          \
                                         token_at((const type *)act, act_stride, t), 0, 1,        \
                                         out + (size_t)t * out_stride + (size_t)r);               \
        for (int t = 0, tokens; n <= TILE_COLS && t < n_tokens; t += tokens) {                    \
            int left = n_tokens - t;                                                              \
            tokens = left < TILE_TOKENS ? left : left == 4 ? 2 : TILE_TOKENS;                     \
            float *to = out + (size_t)t * out_stride;                                             \
            for (int j = 0; j < tokens; j++)                                                      \
                widen_##name(token_at((const type *)act, act_stride, t + j), acts + j * n, n);    \
            if (tokens == 3)                                                                      \
                rows_##name(n, rows, row_stride, n_rows, acts, 3, to, out_stride);                \
            else if (tokens == 2)                                                                 \
                rows_##name(n, rows, row_stride, n_rows, acts, 2, to, out_stride);                \
            else                                                                                  \
                rows_##name(n, rows, row_stride, n_rows, acts, 1, to, out_stride);                \
        }                                                                                         \
    }

ALWAYS_INLINE void widen_f32(const float *x, float *out, int64_t n)
{
    memcpy(out, x, (size_t)n * sizeof *x);
}
ALWAYS_INLINE void widen_f16(const uint16_t *x, float *out, int64_t n)
{
    ISA_NAME(decode_f16)(x, out, n);
}
ALWAYS_INLINE void widen_bf16(const uint16_t *x, float *out, int64_t n)
{
    ISA_NAME(decode_bf16)(x, out, n);
}

DEFINE_FLOAT_TILE(f32, float, load_f32_vec, load_f32_part)
DEFINE_FLOAT_TILE(f16, uint16_t, load_f16_vec, load_f16_part)
DEFINE_FLOAT_TILE(bf16, uint16_t, load_bf16_vec, load_bf16_part)

void ISA_NAME(use_float_gemm)(struct kernels *k)
{
    k->gemm[TYPE_F32] = ISA_NAME(gemm_f32);
    k->gemm[TYPE_F16] = ISA_NAME(gemm_f16);
    k->gemm[TYPE_BF16] = ISA_NAME(gemm_bf16);
}

#endif
