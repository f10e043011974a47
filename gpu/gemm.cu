/* A quantized matrix times many activation rows: prefill.
 *
 * A block makes a tile of rows x tokens. Per step along the columns it decodes its piece of the
 * weights into shared memory once and uses it for all tokens of the tile, so the work of decoding is
 * shared by 64 tokens, and a weight is read from VRAM (or L2) once per 64 tokens.
 *
 * Fast profile: operands rounded to F16, sums in F32, on tensor cores. 64 x 64 x 32 per step are 131
 * thousand multiplications for 2048 decoded weights and 8 KB of activations.
 * F32 profile: the same tiles in plain F32; a reference, at the speed of the ordinary lanes. */
#include "gpu/block.cuh"

/* ---- F32 ---- */

#define PLAIN_ROWS 32
#define PLAIN_TOKENS 32
#define PLAIN_COLS 64
#define PLAIN_STRIDE (PLAIN_COLS + 1) /* lanes read a column: other banks */
#define PLAIN_MOST 16                 /* tokens per thread with the smallest block, two warps */

template <int TYPE>
KERNEL void gemm_plain(float *dst, int64_t dst_stride, const uint8_t *weight, int64_t cols,
                       int64_t n_rows, int64_t row_bytes, const float *src, int64_t src_stride,
                       const float *bias, int n_tokens, const struct gpu_tables *tables)
{
    SHARED(float, w);
    float *x = w + PLAIN_ROWS * PLAIN_STRIDE;
    int64_t first_row = (int64_t)blockIdx.x * PLAIN_ROWS;
    int first_token = blockIdx.y * PLAIN_TOKENS, n_warps = blockDim.x / 32;
    float sum[PLAIN_MOST] = {};
    for (int64_t k = 0; k < cols; k += PLAIN_COLS) {
        for (int i = threadIdx.x; i < PLAIN_ROWS * PLAIN_COLS / 8; i += blockDim.x) {
            int r = i / (PLAIN_COLS / 8), c = i % (PLAIN_COLS / 8) * 8;
            int n = (int)(cols - k - c < 8 ? cols - k - c : 8);
            float eight[8] = {};
            if (n > 0 && first_row + r < n_rows)
                decode_eight<TYPE>(weight + (first_row + r) * row_bytes, k + c, n, eight, tables);
            for (int j = 0; j < 8; j++)
                w[r * PLAIN_STRIDE + c + j] = eight[j];
        }
        for (int i = threadIdx.x; i < PLAIN_TOKENS * PLAIN_COLS; i += blockDim.x) {
            int t = i / PLAIN_COLS, c = i % PLAIN_COLS;
            bool inside = first_token + t < n_tokens && k + c < cols;
            x[t * PLAIN_STRIDE + c] = inside ? src[(first_token + t) * src_stride + k + c] : 0;
        }
        block_sync();
        for (int c = 0; c < PLAIN_COLS; c++) {
            float a = w[lane_id() * PLAIN_STRIDE + c];
            UNROLL
            for (int i = 0; i < PLAIN_MOST; i++) {
                int t = warp_id() + i * n_warps;
                if (t < PLAIN_TOKENS)
                    sum[i] = multiply_add(a, x[t * PLAIN_STRIDE + c], sum[i]);
            }
        }
        block_sync();
    }
    int64_t row = first_row + lane_id();
    UNROLL
    for (int i = 0; i < PLAIN_MOST; i++) {
        int t = warp_id() + i * n_warps;
        if (t < PLAIN_TOKENS && first_token + t < n_tokens && row < n_rows)
            dst[(first_token + t) * dst_stride + row] = bias ? sum[i] + bias[row] : sum[i];
    }
}

/* ---- tensor cores ---- */

#define TILE_ROWS 64 /* four warps of 16 */
#define TILE_TOKENS 64
#define TILE_COLS 32
#define TILE_STRIDE (TILE_COLS + 8) /* 80 bytes: the eight rows of a matrix lie in different banks */
#define TILE_THREADS 128

/* Infinity is no number to go on with; NaN stays. */
DEVICE uint16_t to_operand(float x)
{
    return float_to_f16(x > 65504 ? 65504 : x < -65504 ? -65504 : x);
}

template <int TYPE>
DEVICE void load_weights(uint16_t *w, const uint8_t *weight, int64_t first_row, int64_t n_rows,
                         int64_t row_bytes, int64_t k, int64_t cols,
                         const struct gpu_tables *tables)
{
    for (int i = threadIdx.x; i < TILE_ROWS * TILE_COLS / 8; i += TILE_THREADS) {
        int r = i / (TILE_COLS / 8), c = i % (TILE_COLS / 8) * 8;
        int n = (int)(cols - k - c < 8 ? cols - k - c : 8);
        float eight[8] = {};
        if (n > 0 && first_row + r < n_rows)
            decode_eight<TYPE>(weight + (first_row + r) * row_bytes, k + c, n, eight, tables);
        for (int j = 0; j < 8; j++)
            w[r * TILE_STRIDE + c + j] = to_operand(eight[j]);
    }
}

DEVICE void load_tokens(uint16_t *x, const float *src, int64_t stride, int first, int n_tokens,
                        int64_t k, int64_t cols)
{
    for (int i = threadIdx.x; i < TILE_TOKENS * TILE_COLS; i += TILE_THREADS) {
        int t = i / TILE_COLS, c = i % TILE_COLS;
        bool inside = first + t < n_tokens && k + c < cols;
        x[t * TILE_STRIDE + c] = inside ? to_operand(src[(first + t) * stride + k + c]) : 0;
    }
}

template <int TYPE>
KERNEL void gemm_tensor(float *dst, int64_t dst_stride, const uint8_t *weight, int64_t cols,
                        int64_t n_rows, int64_t row_bytes, const float *src, int64_t src_stride,
                        const float *bias, int n_tokens, const struct gpu_tables *tables)
{
    SHARED(uint16_t, w);
    uint16_t *x = w + TILE_ROWS * TILE_STRIDE;
    int64_t first_row = (int64_t)blockIdx.x * TILE_ROWS;
    int first_token = blockIdx.y * TILE_TOKENS, lane = lane_id(), warp = warp_id();
    float sum[TILE_TOKENS / 8][4] = {};
    for (int64_t k = 0; k < cols; k += TILE_COLS) {
        load_weights<TYPE>(w, weight, first_row, n_rows, row_bytes, k, cols, tables);
        load_tokens(x, src, src_stride, first_token, n_tokens, k, cols);
        block_sync();
        for (int c = 0; c < TILE_COLS; c += 16) {
            uint32_t a[4], b[4];
            load_matrices(a, w + (16 * warp + lane % 16) * TILE_STRIDE + c + lane / 16 * 8);
            UNROLL
            for (int n = 0; n < TILE_TOKENS / 8; n += 2) { /* two matrices of eight tokens */
                int token = (n + lane / 16) * 8 + lane % 8;
                load_matrices(b, x + token * TILE_STRIDE + c + lane / 8 % 2 * 8);
                mma_f16(sum[n], a, b);
                mma_f16(sum[n + 1], a, b + 2);
            }
        }
        block_sync();
    }
    UNROLL
    for (int n = 0; n < TILE_TOKENS / 8; n++) {
        for (int i = 0; i < 4; i++) {
            int64_t row = first_row + 16 * warp + lane / 4 + i / 2 * 8;
            int t = first_token + 8 * n + 2 * (lane % 4) + i % 2;
            if (row < n_rows && t < n_tokens)
                dst[t * dst_stride + row] = bias ? sum[n][i] + bias[row] : sum[n][i];
        }
    }
}

/* ---- launching ---- */

static dim3 tiles(const struct weight *w, int n_tokens, int rows, int tokens)
{
    return dim3((unsigned)divide_up(w->rows, rows), (unsigned)divide_up(n_tokens, tokens));
}

static void launch_plain(struct gpu_stream *s, struct rows dst, const struct weight *w,
                         struct rows src, const float *bias, int n_tokens)
{
    size_t shared = (PLAIN_ROWS + PLAIN_TOKENS) * PLAIN_STRIDE * sizeof(float);
    assert(s->max_threads >= PLAIN_TOKENS / PLAIN_MOST * 32);
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, (gemm_plain<TYPE>), tiles(w, n_tokens, PLAIN_ROWS, PLAIN_TOKENS), s->max_threads,   \
           shared, dst.data, dst.stride, (const uint8_t *)w->data, w->cols, w->rows,              \
           (int64_t)w->row_bytes, src.data, src.stride, bias, n_tokens, s->tables)
    GPU_BY_TYPE(w->type)
#undef GPU_BY_TYPE_CASE
}

static void launch_tensor(struct gpu_stream *s, struct rows dst, const struct weight *w,
                          struct rows src, const float *bias, int n_tokens)
{
    size_t shared = (TILE_ROWS + TILE_TOKENS) * TILE_STRIDE * sizeof(uint16_t);
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, (gemm_tensor<TYPE>), tiles(w, n_tokens, TILE_ROWS, TILE_TOKENS), TILE_THREADS,      \
           shared, dst.data, dst.stride, (const uint8_t *)w->data, w->cols, w->rows,              \
           (int64_t)w->row_bytes, src.data, src.stride, bias, n_tokens, s->tables)
    GPU_BY_TYPE(w->type)
#undef GPU_BY_TYPE_CASE
}

void gpu_gemm(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
              const float *bias, int n_tokens)
{
    if (s->limits.act_f32)
        launch_plain(s, dst, w, src, bias, n_tokens);
    else
        launch_tensor(s, dst, w, src, bias, n_tokens);
}

size_t gpu_gemm_scratch(const struct gpu_limits *l)
{
    (void)l;
    return 0;
}
