/* A quantized matrix times many activation rows: prefill without cuBLAS (gpu/blas.cu), and experts.
 *
 * A block makes a tile of rows x tokens. Per step along the columns it decodes its piece of the
 * weights into shared memory once and uses it for all tokens of the tile, so the work of decoding is
 * shared by 64 tokens, and a weight is read from VRAM (or L2) once per 64 tokens.
 *
 * Fast profile: operands rounded to F16, sums in F32, on tensor cores. 64 x 64 x 64 per step are 262
 * thousand multiplications for 4096 decoded weights and 16 KB of activations; a thread decodes a run of
 * 32 (gpu/run.cuh).
 * F32 profile: the same tiles in plain F32; a reference, at the speed of the ordinary lanes. */
#include "gpu/blas.cuh"
#include "gpu/block.cuh"
#include "gpu/gemm.cuh"
#include "gpu/run.cuh"

/* ---- F32 ---- */

#define PLAIN_ROWS 32
#define PLAIN_TOKENS 32
#define PLAIN_COLS 64
#define PLAIN_STRIDE (PLAIN_COLS + 1) /* lanes read a column: other banks */
#define PLAIN_MOST 16                 /* tokens per thread with the smallest block, two warps */

/* Row i of the tile y: which row of src it reads and of dst it writes; -1: there is none. */
struct tile_tokens {
    const int32_t *pairs;
    int first, n, top_k;
};
DEVICE struct tile_tokens tokens_of(const struct gemm &g, int rows)
{
    if (g.tiles) {
        struct expert_tile tile = g.tiles[blockIdx.y];
        return { g.pairs + tile.first, 0, tile.n, g.top_k };
    }
    int first = (int)blockIdx.y * rows;
    return { NULL, first, g.n_tokens - first < rows ? g.n_tokens - first : rows, 1 };
}
DEVICE int64_t dst_row(const struct tile_tokens &t, int i)
{
    return i >= t.n ? -1 : t.pairs ? t.pairs[i] : t.first + i;
}
DEVICE int64_t src_row(const struct tile_tokens &t, int i)
{
    int64_t row = dst_row(t, i);
    return row < 0 ? row : row / t.top_k;
}

/* Where the matrix of this tile begins. */
DEVICE int64_t matrix_of(const struct gemm &g)
{
    return g.tiles ? g.tiles[blockIdx.y].slot * g.matrix_bytes : 0;
}

template <int TYPE>
DEVICE void load_plain(float *w, const uint8_t *weight, const struct gemm &g, int64_t first_row,
                       int64_t k)
{
    for (int i = threadIdx.x; i < PLAIN_ROWS * PLAIN_COLS / 8; i += blockDim.x) {
        int r = i / (PLAIN_COLS / 8), c = i % (PLAIN_COLS / 8) * 8;
        int n = (int)(g.cols - k - c < 8 ? g.cols - k - c : 8);
        float eight[8] = {};
        if (n > 0 && first_row + r < g.n_rows)
            decode_eight<TYPE>(weight + (first_row + r) * g.row_bytes, k + c, n, eight, g.tables);
        for (int j = 0; j < 8; j++)
            w[r * PLAIN_STRIDE + c + j] = eight[j];
    }
}

/* sum[i] += this lane's row times token warp_id() + i * n_warps of the tile. */
DEVICE void add_plain(float *sum, const float *w, const float *x)
{
    for (int c = 0; c < PLAIN_COLS; c++) {
        float a = w[lane_id() * PLAIN_STRIDE + c];
        UNROLL
        for (int i = 0; i < PLAIN_MOST; i++) {
            int t = warp_id() + i * (int)blockDim.x / 32;
            if (t < PLAIN_TOKENS)
                sum[i] = multiply_add(a, x[t * PLAIN_STRIDE + c], sum[i]);
        }
    }
}

template <int TYPE> KERNEL void gemm_plain(struct gemm g)
{
    SHARED(float, w); /* [PLAIN_ROWS, PLAIN_STRIDE], then x, then rows of `second` */
    float *x = w + PLAIN_ROWS * PLAIN_STRIDE, *w2 = x + PLAIN_TOKENS * PLAIN_STRIDE;
    int64_t first_row = (int64_t)blockIdx.x * PLAIN_ROWS, matrix = matrix_of(g);
    struct tile_tokens tokens = tokens_of(g, PLAIN_TOKENS);
    if (tokens.n == 0)
        return; /* the whole block */
    float sum[PLAIN_MOST] = {}, sum2[PLAIN_MOST] = {};
    for (int64_t k = 0; k < g.cols; k += PLAIN_COLS) {
        load_plain<TYPE>(w, g.weight + matrix, g, first_row, k);
        if (g.second)
            load_plain<TYPE>(w2, g.second + matrix, g, first_row, k);
        for (int i = threadIdx.x; i < PLAIN_TOKENS * PLAIN_COLS; i += blockDim.x) {
            int c = i % PLAIN_COLS;
            int64_t row = src_row(tokens, i / PLAIN_COLS);
            x[i / PLAIN_COLS * PLAIN_STRIDE + c] =
                row >= 0 && k + c < g.cols ? g.src[row * g.src_stride + k + c] : 0;
        }
        block_sync();
        add_plain(sum, w, x);
        if (g.second)
            add_plain(sum2, w2, x);
        block_sync();
    }
    int64_t row = first_row + lane_id();
    UNROLL
    for (int i = 0; i < PLAIN_MOST; i++) {
        int t = warp_id() + i * (int)blockDim.x / 32;
        int64_t to = t < PLAIN_TOKENS ? dst_row(tokens, t) : -1;
        if (to < 0 || row >= g.n_rows)
            continue;
        g.dst[to * g.dst_stride + row] = g.second ? swiglu_of(sum[i], sum2[i], g.limit)
                                         : g.bias ? sum[i] + g.bias[row] : sum[i];
    }
}

/* ---- tensor cores ---- */

#define TILE_ROWS 64 /* four warps of 16 */
#define TILE_COLS 64 /* a run of 32 for each thread */
#define TILE_STRIDE (TILE_COLS + 8) /* 144 bytes: the eight rows of a matrix lie in different banks */
#define TILE_THREADS 128

/* Eight operands to shared memory, in one store. */
DEVICE void store_eight(uint16_t *to, const float *x)
{
    uint32_t w[4];
    UNROLL
    for (int j = 0; j < 4; j++)
        w[j] = to_operand(x[2 * j]) | (uint32_t)to_operand(x[2 * j + 1]) << 16;
    *(uint4 *)to = { w[0], w[1], w[2], w[3] };
}

/* A tile of weights: a run of 32 at a time, an eighth of floats. */
template <int TYPE>
DEVICE void load_weights(uint16_t *w, const uint8_t *weight, const struct gemm &g,
                         int64_t first_row, int64_t k, const uint32_t *table)
{
    constexpr int piece = run_traits<TYPE>::integer ? 32 : 8, pieces = TILE_COLS / piece;
    for (int i = threadIdx.x; i < TILE_ROWS * pieces; i += TILE_THREADS) {
        int r = i / pieces, c = i % pieces * piece;
        int n = (int)(g.cols - k - c < piece ? g.cols - k - c : piece);
        bool exists = n > 0 && first_row + r < g.n_rows;
        const uint8_t *row = weight + (exists ? first_row + r : 0) * g.row_bytes;
        float x[8] = {};
        if constexpr (run_traits<TYPE>::integer) {
            struct run run = {};
            if (exists) /* columns of block types are whole runs */
                unpack_run<TYPE>(&run, row, (k + c) / 32, table);
            UNROLL
            for (int j = 0; j < 32; j++) {
                x[j % 8] = run_element<TYPE>(run, j);
                if (j % 8 == 7)
                    store_eight(w + r * TILE_STRIDE + c + j - 7, x);
            }
        } else {
            if (exists)
                decode_eight<TYPE>(row, k + c, n, x, g.tables);
            store_eight(w + r * TILE_STRIDE + c, x);
        }
    }
}

DEVICE void load_tokens(uint16_t *x, const struct gemm &g, const struct tile_tokens &tokens,
                        int64_t k)
{
    for (int i = threadIdx.x; i < GEMM_TOKENS * TILE_COLS / 8; i += TILE_THREADS) {
        int t = i / (TILE_COLS / 8), c = i % (TILE_COLS / 8) * 8;
        int64_t row = src_row(tokens, t);
        const float *from = g.src + (row < 0 ? 0 : row) * g.src_stride + k + c;
        float eight[8] = {};
        if (row >= 0 && k + c + 8 <= g.cols && ((uintptr_t)from & 15) == 0) {
            float4 low = *(const float4 *)from, high = *((const float4 *)from + 1);
            eight[0] = low.x, eight[1] = low.y, eight[2] = low.z, eight[3] = low.w;
            eight[4] = high.x, eight[5] = high.y, eight[6] = high.z, eight[7] = high.w;
        } else if (row >= 0) {
            UNROLL
            for (int j = 0; j < 8; j++)
                eight[j] = k + c + j < g.cols ? from[j] : 0;
        }
        store_eight(x + t * TILE_STRIDE + c, eight);
    }
}

/* sum += this warp's 16 rows times all tokens of the tile. */
DEVICE void add_tile(float sum[GEMM_TOKENS / 8][4], const uint16_t *w, const uint16_t *x)
{
    int lane = lane_id();
    for (int c = 0; c < TILE_COLS; c += 16) {
        uint32_t a[4], b[4];
        load_matrices(a, w + (16 * warp_id() + lane % 16) * TILE_STRIDE + c + lane / 16 * 8);
        UNROLL
        for (int n = 0; n < GEMM_TOKENS / 8; n += 2) { /* two matrices of eight tokens */
            int token = (n + lane / 16) * 8 + lane % 8;
            load_matrices(b, x + token * TILE_STRIDE + c + lane / 8 % 2 * 8);
            mma_f16(sum[n], a, b);
            mma_f16(sum[n + 1], a, b + 2);
        }
    }
}

template <int TYPE> KERNEL void gemm_tensor(struct gemm g)
{
    SHARED(uint32_t, table); /* a codebook, then w [TILE_ROWS, TILE_STRIDE], x, rows of `second` */
    uint16_t *w = (uint16_t *)(table + run_traits<TYPE>::table_words);
    uint16_t *x = w + TILE_ROWS * TILE_STRIDE, *w2 = x + GEMM_TOKENS * TILE_STRIDE;
    int64_t first_row = (int64_t)blockIdx.x * TILE_ROWS, matrix = matrix_of(g);
    struct tile_tokens tokens = tokens_of(g, GEMM_TOKENS);
    if (tokens.n == 0)
        return; /* the whole block */
    if constexpr (run_traits<TYPE>::table_words > 0) {
        load_table<TYPE>(table, g.tables);
        block_sync();
    }
    float sum[GEMM_TOKENS / 8][4] = {}, sum2[GEMM_TOKENS / 8][4] = {};
    for (int64_t k = 0; k < g.cols; k += TILE_COLS) {
        load_weights<TYPE>(w, g.weight + matrix, g, first_row, k, table);
        if (g.second)
            load_weights<TYPE>(w2, g.second + matrix, g, first_row, k, table);
        load_tokens(x, g, tokens, k);
        block_sync();
        add_tile(sum, w, x);
        if (g.second)
            add_tile(sum2, w2, x);
        block_sync();
    }
    UNROLL
    for (int n = 0; n < GEMM_TOKENS / 8; n++) {
        UNROLL
        for (int i = 0; i < 4; i++) {
            int64_t row = first_row + 16 * warp_id() + lane_id() / 4 + i / 2 * 8;
            int64_t to = dst_row(tokens, 8 * n + 2 * (lane_id() % 4) + i % 2);
            if (to < 0 || row >= g.n_rows)
                continue;
            g.dst[to * g.dst_stride + row] = g.second ? swiglu_of(sum[n][i], sum2[n][i], g.limit)
                                             : g.bias ? sum[n][i] + g.bias[row] : sum[n][i];
        }
    }
}

/* ---- launching ---- */

void gemm_run(struct gpu_stream *s, enum tensor_type type, struct gemm g)
{
    bool plain = s->limits.act_f32;
    int rows = plain ? PLAIN_ROWS : TILE_ROWS, tokens = gemm_tokens(s);
    dim3 tiles((unsigned)divide_up(g.n_rows, rows),
               (unsigned)(g.tiles ? g.n_tiles : divide_up(g.n_tokens, tokens)));
    size_t matrices = g.second ? 2 : 1;
    g.tables = s->tables;
    if (plain) {
        size_t shared = (matrices * PLAIN_ROWS + PLAIN_TOKENS) * PLAIN_STRIDE * sizeof(float);
        assert(s->max_threads >= PLAIN_TOKENS / PLAIN_MOST * 32);
#define GPU_BY_TYPE_CASE(TYPE) LAUNCH(s, gemm_plain<TYPE>, tiles, s->max_threads, shared, g)
        GPU_BY_TYPE(type)
#undef GPU_BY_TYPE_CASE
    } else {
        size_t shared = (matrices * TILE_ROWS + GEMM_TOKENS) * TILE_STRIDE * sizeof(uint16_t);
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, gemm_tensor<TYPE>, tiles, TILE_THREADS,                                             \
           shared + run_traits<TYPE>::table_words * sizeof(uint32_t), g)
        GPU_BY_TYPE(type)
#undef GPU_BY_TYPE_CASE
    }
}

int gemm_tokens(const struct gpu_stream *s)
{
    return s->limits.act_f32 ? PLAIN_TOKENS : GEMM_TOKENS;
}

void gpu_gemm(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
              const float *bias, int n_tokens)
{
    struct gemm g = {};
    g.weight = (const uint8_t *)w->data;
    g.cols = w->cols;
    g.n_rows = w->rows;
    g.row_bytes = (int64_t)w->row_bytes;
    g.src = src.data;
    g.src_stride = src.stride;
    g.dst = dst.data;
    g.dst_stride = dst.stride;
    g.bias = bias;
    g.n_tokens = n_tokens;
    gemm_run(s, w->type, g);
}

size_t gpu_gemm_scratch(const struct gpu_limits *l)
{
    return blas_scratch(l);
}
