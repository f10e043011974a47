/* RMSNorm (Zhang and Sennrich 2019): one block per row and group.
 *
 * The row is read twice, the second time from L1 or L2 (28 KB for V3's hidden size), and written
 * once. Products are summed in float by each thread over n / threads elements, then by warps in a
 * fixed order; with 256 threads that is 28 terms per thread for V3, so rounding stays near 1e-7. */
#include "gpu/common.cuh"

KERNEL void rmsnorm_rows(float *dst, int64_t dst_stride, const float *src, int64_t src_stride,
                         const float *weight, int64_t n, float eps)
{
    SHARED(float, scratch);
    const float *x = src + blockIdx.y * src_stride + blockIdx.x * n;
    float *y = dst + blockIdx.y * dst_stride + blockIdx.x * n;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += x[i] * x[i];
    float scale = 1 / sqrtf(block_sum(sum, scratch) / (float)n + eps);
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        y[i] = weight ? x[i] * scale * weight[i] : x[i] * scale;
}

void gpu_rmsnorm(struct gpu_stream *s, struct rows dst, struct rows src, const float *weight,
                 int64_t n, int n_groups, float eps, int n_tokens)
{
    LAUNCH(s, rmsnorm_rows, dim3((unsigned)n_groups, (unsigned)n_tokens), gpu_threads(s, n),
           BLOCK_SCRATCH * sizeof(float), dst.data, dst.stride, src.data, src.stride, weight, n,
           eps);
}

/* LayerNorm of narrow rows (the indexer's keys, 128 wide): mean, then variance, a block per row. */
KERNEL void layernorm_rows(float *dst, int64_t dst_stride, const float *src, int64_t src_stride,
                           const float *weight, const float *bias, int64_t n, float eps)
{
    SHARED(float, scratch);
    const float *x = src + blockIdx.x * src_stride;
    float *y = dst + blockIdx.x * dst_stride, sum = 0, squares = 0;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        sum += x[i];
    float mean = block_sum(sum, scratch) / (float)n;
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        squares += (x[i] - mean) * (x[i] - mean);
    block_sync(); /* scratch is used again */
    float scale = 1 / sqrtf(block_sum(squares, scratch) / (float)n + eps);
    for (int64_t i = threadIdx.x; i < n; i += blockDim.x)
        y[i] = (x[i] - mean) * scale * weight[i] + bias[i];
}

void gpu_layernorm(struct gpu_stream *s, struct rows dst, struct rows src, const float *weight,
                   const float *bias, int64_t n, float eps, int n_tokens)
{
    LAUNCH(s, layernorm_rows, dim3((unsigned)n_tokens), gpu_threads(s, n),
           BLOCK_SCRATCH * sizeof(float), dst.data, dst.stride, src.data, src.stride, weight, bias,
           n, eps);
}
