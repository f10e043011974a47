/* RMSNorm (Zhang and Sennrich 2019): one block per row and group, with the sum that makes the row, and
 * with the row in bytes for the products that follow, where these are wanted.
 *
 * The row is read twice, the second time from L1 or L2 (28 KB for V3's hidden size), and written
 * once. Products are summed in float by each thread over n / threads elements, then by warps in a
 * fixed order; with 256 threads that is 28 terms per thread for V3, so rounding stays near 1e-7. For one
 * token of V3 a launch moves 0.14 MB at most, which is less than it costs to launch: the sum and the
 * encoding in the same kernel save two of them. */
#include "gpu/q8.cuh"

struct norm {
    float *dst;
    const float *a, *b, *c; /* the row is a + b + c; c, or b and c, may be NULL */
    float *sum;             /* and is written here; NULL: it is a */
    int64_t dst_stride, a_stride, b_stride, c_stride, sum_stride;
    const float *weight; /* NULL: ones */
    int64_t n;
    float eps;
    struct q8_rows bytes; /* q NULL: not wanted; n is a multiple of 32, one group */
};

KERNEL void rmsnorm_rows(struct norm p)
{
    SHARED(float, scratch);
    int64_t t = blockIdx.y, from = blockIdx.x * p.n;
    const float *a = p.a + t * p.a_stride + from, *x = p.sum ? p.sum + t * p.sum_stride : a;
    float *y = p.dst + t * p.dst_stride + from, squares = 0;
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) {
        float v = a[i];
        if (p.sum) {
            v += p.b[t * p.b_stride + i];
            v = p.c ? v + p.c[t * p.c_stride + i] : v;
            p.sum[t * p.sum_stride + i] = v; /* read again by this thread alone */
        }
        squares += v * v;
    }
    float scale = 1 / sqrtf(block_sum(squares, scratch) / (float)p.n + p.eps);
    for (int64_t i = threadIdx.x; i < p.n; i += blockDim.x) {
        float v = p.weight ? x[i] * scale * p.weight[i] : x[i] * scale;
        y[i] = v;
        if (p.bytes.q) /* n is a multiple of 32: whole warps come here */
            q8_store_run(p.bytes, t, i / Q8_RUN, v);
    }
}

static void launch(struct gpu_stream *s, const struct norm &p, int n_groups, int n_tokens)
{
    LAUNCH(s, rmsnorm_rows, dim3((unsigned)n_groups, (unsigned)n_tokens), gpu_threads(s, p.n),
           BLOCK_SCRATCH * sizeof(float), p);
}

static struct norm norm_of(struct gpu_stream *s, struct rows dst, struct rows a, const float *weight,
                           int64_t n, float eps, int n_tokens)
{
    struct norm p = {};
    p.dst = dst.data;
    p.dst_stride = dst.stride;
    p.a = a.data;
    p.a_stride = a.stride;
    p.weight = weight;
    p.n = n;
    p.eps = eps;
    if (n == dst.width)
        p.bytes = q8_beside(s, dst, n_tokens);
    return p;
}

void gpu_rmsnorm(struct gpu_stream *s, struct rows dst, struct rows src, const float *weight,
                 int64_t n, int n_groups, float eps, int n_tokens)
{
    launch(s, norm_of(s, dst, src, weight, n, eps, n_tokens), n_groups, n_tokens);
}

void gpu_sum_rmsnorm(struct gpu_stream *s, struct rows dst, struct rows sum, struct rows a,
                     struct rows b, struct rows c, const float *weight, float eps, int n_tokens)
{
    struct norm p = norm_of(s, dst, a, weight, sum.width, eps, n_tokens);
    p.sum = sum.data;
    p.sum_stride = sum.stride;
    p.b = b.data;
    p.b_stride = b.stride;
    p.c = c.data;
    p.c_stride = c.stride;
    launch(s, p, 1, n_tokens);
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
