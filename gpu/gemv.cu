/* A quantized matrix times 1 to 8 activation rows: what decode does all day.
 *
 * Every weight is read once and stays encoded in VRAM, so the bound is bytes of the matrix over VRAM
 * bandwidth: V3's o_proj (16384 x 7168, Q4_K, 66 MB) takes at least 66 us at 1 TB/s. One warp per row
 * gives 7168 warps there; decoding takes some five instructions per weight, which a card with 128
 * lanes per SM does several times faster than it reads. */
#include "gpu/row_dot.cuh"

template <int TYPE, int MOST>
KERNEL void gemv_rows(float *dst, int64_t dst_stride, const uint8_t *weight, int64_t cols,
                      int64_t n_rows, int64_t row_bytes, const float *src, int64_t src_stride,
                      const float *bias, int n_tokens, const struct gpu_tables *tables)
{
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + warp_id();
    if (row >= n_rows)
        return; /* whole warps */
    float sum[MOST];
    row_dot<TYPE, MOST>(sum, weight + row * row_bytes, cols, src, src_stride, n_tokens, tables);
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

void gpu_gemv(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
              const float *bias, int n_tokens)
{
    assert(n_tokens <= GPU_GEMV_TOKENS);
    if (n_tokens == 1)
        gemv<1>(s, dst, w, src, bias, 1);
    else
        gemv<GPU_GEMV_TOKENS>(s, dst, w, src, bias, n_tokens);
}

void gpu_matmul(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
                const float *bias, int n_tokens)
{
    if (n_tokens <= GPU_GEMV_TOKENS)
        gpu_gemv(s, dst, w, src, bias, n_tokens);
    else
        gpu_gemm(s, dst, w, src, bias, n_tokens);
}

size_t gpu_gemv_scratch(const struct gpu_limits *l)
{
    (void)l;
    return 0;
}
