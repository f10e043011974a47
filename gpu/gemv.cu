/* A quantized matrix times 1 to 8 activation rows: what decode does all day.
 *
 * Every weight is read once and stays encoded in VRAM, so the bound is bytes of the matrix over VRAM
 * bandwidth: V3's o_proj (16384 x 7168, Q4_K, 66 MB) takes at least 66 us at 1 TB/s.
 *
 * Fast profile: activations are rounded to bytes once for all matrices that read them, then integer
 * dot products, two rows for each group of lanes: gpu/run_dot.cuh counts bytes in flight, L1 lines and
 * instructions. F32 profile, and weights that are plain floats: gpu/row_dot.cuh, a row a warp. Decoding
 * to floats takes some five instructions per weight, which an RTX 4090 still does twice as fast as it
 * reads; rows of F16 (512 bytes a warp at a time) leave 16 KB per SM in flight with 32 warps. */
#include "gpu/blas.cuh"
#include "gpu/gemm.cuh"
#include "gpu/run_dot.cuh"

/* ---- floats ---- */

template <int TYPE, int MOST>
KERNEL void gemv_rows(float *dst, int64_t dst_stride, const uint8_t *weight, int64_t cols,
                      int64_t n_rows, int64_t row_bytes, const float *src, int64_t src_stride,
                      const float *bias, int n_tokens, const struct gpu_tables *tables)
{
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + warp_id();
    if (row >= n_rows)
        return; /* whole warps */
    float sum[MOST];
    row_dot<TYPE, MOST>(sum, weight + row * row_bytes, cols, src, src_stride, n_tokens, 32, tables);
    if (lane_id() == 0) {
        for (int t = 0; t < n_tokens; t++)
            dst[t * dst_stride + row] = bias ? sum[t] + bias[row] : sum[t];
    }
}

template <int MOST>
static void gemv(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
                 const float *bias, int n_tokens)
{
    int threads = gpu_threads(s, 128);
    dim3 blocks((unsigned)divide_up(w->rows, threads / 32));
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, (gemv_rows<TYPE, MOST>), blocks, threads, 0, dst.data, dst.stride,                  \
           (const uint8_t *)w->data, w->cols, w->rows, (int64_t)w->row_bytes, src.data,           \
           src.stride, bias, n_tokens, s->tables)
    GPU_BY_TYPE(w->type)
#undef GPU_BY_TYPE_CASE
}

/* ---- bytes ---- */

/* The results of a pair of rows, for the lane that has them. */
template <int MOST>
DEVICE void write_sums(const struct product &p, float *dst, int group,
                       const float sum[RUN_ROWS][MOST])
{
    UNROLL
    for (int t = 0; t < MOST; t++) {
        float *to = dst + t * p.dst_stride;
        if (t >= p.n_tokens)
            continue;
        if (p.second) {
            if (group < p.n_rows)
                to[group] = swiglu_of(sum[0][t], sum[1][t], p.limit);
            continue;
        }
        UNROLL
        for (int r = 0; r < RUN_ROWS; r++) {
            int row = RUN_ROWS * group + r;
            if (row < p.n_rows)
                to[row] = p.bias ? sum[r][t] + p.bias[row] : sum[r][t];
        }
    }
}

template <int TYPE, int MOST> KERNEL void gemv_runs(struct product p)
{
    SHARED(uint32_t, table);
    float *parts = (float *)(table + run_traits<TYPE>::table_words);
    int64_t matrix = 0, token = 0, pair = blockIdx.y;
    if (p.ids) {
        int slot = slot_of(p.slots, p.ids, pair);
        if (slot < 0)
            return; /* the whole block */
        matrix = slot * p.matrix_bytes;
        token = pair / p.top_k;
    }
    if constexpr (run_traits<TYPE>::table_words > 0) {
        load_table<TYPE>(table, p.tables);
        block_sync();
    }
    int first = warp_id() % p.shares.split * p.shares.lanes + lane_id() % p.shares.lanes;
    for (int tile = (int)blockIdx.x; tile < p.shares.n_tiles; tile += (int)gridDim.x) {
        int group = run_group(p.shares, tile);
        const uint8_t *rows[RUN_ROWS];
        UNROLL
        for (int r = 0; r < RUN_ROWS; r++) {
            int row = p.second ? group : RUN_ROWS * group + r;
            row = row < p.n_rows ? row : p.n_rows - 1;
            rows[r] = (p.second && r ? p.second : p.weight) + matrix + row * p.row_bytes;
        }
        float sum[RUN_ROWS][MOST] = {};
        dot_runs<TYPE, MOST>(sum, rows, p.x, token, p.n_tokens, first,
                             p.shares.lanes * p.shares.split, p.shares.n_runs, table);
        finish_sums<MOST>(sum, p.shares, parts, p.n_tokens);
        if (run_writes(p.shares))
            write_sums<MOST>(p, p.dst + pair * p.dst_stride, group, sum);
    }
}

bool run_serves(const struct gpu_stream *s, enum tensor_type type)
{
    return !s->limits.act_f32 && type != TYPE_F32 && type != TYPE_F16 && type != TYPE_BF16;
}

template <int TYPE, int MOST>
static void launch_runs(struct gpu_stream *s, const struct product &p, int n_pairs, int threads)
{
    if constexpr (run_traits<TYPE>::integer) {
        assert((uintptr_t)p.weight % run_traits<TYPE>::align == 0);
        dim3 blocks(run_blocks<TYPE>(s, p.shares.n_tiles), (unsigned)n_pairs);
        LAUNCH(s, (gemv_runs<TYPE, MOST>), blocks, threads,
               run_shared_bytes<TYPE>(threads / 32, MOST), p);
    }
}

void run_product(struct gpu_stream *s, enum tensor_type type, struct product p, int n_pairs)
{
    int threads = gpu_threads(s, 128);
    int64_t n_groups = p.second ? p.n_rows : divide_up(p.n_rows, RUN_ROWS);
    p.shares = run_shares_of(n_groups, (int64_t)p.shares.n_runs * Q8_RUN, threads / 32);
    p.tables = s->tables;
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    p.n_tokens == 1 ? launch_runs<TYPE, 1>(s, p, n_pairs, threads)                                \
                    : launch_runs<TYPE, GPU_GEMV_TOKENS>(s, p, n_pairs, threads)
    GPU_BY_TYPE(type)
#undef GPU_BY_TYPE_CASE
}

/* ---- launching ---- */

static struct product product_of(struct gpu_stream *s, struct rows dst, const struct weight *w,
                                 struct rows src, int n_tokens)
{
    struct product p = {};
    p.weight = (const uint8_t *)w->data;
    p.row_bytes = (int64_t)w->row_bytes;
    p.n_rows = (int)w->rows;
    p.shares.n_runs = (int)(w->cols / Q8_RUN);
    src.width = w->cols;
    p.x = q8_of(s, src, n_tokens);
    p.n_tokens = n_tokens;
    p.dst = dst.data;
    p.dst_stride = dst.stride;
    return p;
}

void gpu_gemv(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
              const float *bias, int n_tokens)
{
    assert(n_tokens <= GPU_GEMV_TOKENS);
    if (run_serves(s, w->type)) {
        struct product p = product_of(s, dst, w, src, n_tokens);
        p.bias = bias;
        run_product(s, w->type, p, 1);
    } else if (n_tokens == 1) {
        gemv<1>(s, dst, w, src, bias, 1);
    } else {
        gemv<GPU_GEMV_TOKENS>(s, dst, w, src, bias, n_tokens);
    }
}

bool gpu_gemv_swiglu(struct gpu_stream *s, struct rows dst, const struct weight *gate,
                     const struct weight *up, struct rows src, int n_tokens)
{
    if (n_tokens > GPU_GEMV_TOKENS || !run_serves(s, gate->type) || gate->type != up->type ||
        gate->row_bytes != up->row_bytes || gate->rows != up->rows)
        return false;
    struct product p = product_of(s, dst, gate, src, n_tokens);
    p.second = (const uint8_t *)up->data;
    run_product(s, gate->type, p, 1);
    return true;
}

void gpu_matmul(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
                const float *bias, int n_tokens)
{
    if (n_tokens <= GPU_GEMV_TOKENS)
        gpu_gemv(s, dst, w, src, bias, n_tokens);
    else if (!blas_gemm(s, dst, w, src, bias, n_tokens))
        gpu_gemm(s, dst, w, src, bias, n_tokens);
}

size_t gpu_gemv_scratch(const struct gpu_limits *l)
{
    (void)l;
    return 0;
}
