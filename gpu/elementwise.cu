/* Sums, copies, limits and SwiGLU: one thread per element, rows on the grid's second dimension.
 *
 * Three floats move per addition, so these run at VRAM bandwidth or, for one token, at the cost of a
 * launch (7168 floats of V3 are 84 KB: 0.1 us of bandwidth against 2 us of launch); what matters is
 * that there are few of them. */
#include "gpu/common.cuh"

struct sum3 {
    const float *a, *b, *c; /* c may be NULL */
    int64_t a_stride, b_stride, c_stride;
};

KERNEL void add_rows(float *dst, int64_t stride, int64_t width, struct sum3 in)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (i >= width)
        return;
    float sum = in.a[t * in.a_stride + i] + in.b[t * in.b_stride + i];
    dst[t * stride + i] = in.c ? sum + in.c[t * in.c_stride + i] : sum;
}

KERNEL void copy_rows(float *dst, int64_t stride, int64_t width, const float *src,
                      int64_t src_stride)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (i < width)
        dst[t * stride + i] = src[t * src_stride + i];
}

KERNEL void swiglu_rows(float *dst, int64_t stride, int64_t width, const float *gate,
                        int64_t gate_stride, const float *up, int64_t up_stride)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (i >= width)
        return;
    float g = gate[t * gate_stride + i];
    dst[t * stride + i] = g / (1 + expf(-g)) * up[t * up_stride + i];
}

KERNEL void clamp_rows(float *x, int64_t stride, int64_t width, float low, float high)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (i < width) {
        float v = x[t * stride + i];
        v = v < low ? low : v;
        x[t * stride + i] = v > high ? high : v;
    }
}

static dim3 grid_of(const struct gpu_stream *s, int64_t width, int n_tokens)
{
    assert(n_tokens <= GPU_MOST_TOKENS);
    return dim3((unsigned)divide_up(width, gpu_threads(s, width)), (unsigned)n_tokens);
}

void gpu_add3(struct gpu_stream *s, struct rows dst, struct rows a, struct rows b, struct rows c,
              int n_tokens)
{
    struct sum3 in = { a.data, b.data, c.data, a.stride, b.stride, c.stride };
    LAUNCH(s, add_rows, grid_of(s, dst.width, n_tokens), gpu_threads(s, dst.width), 0, dst.data,
           dst.stride, dst.width, in);
}

void gpu_add(struct gpu_stream *s, struct rows dst, struct rows a, struct rows b, int n_tokens)
{
    gpu_add3(s, dst, a, b, { NULL, 0, 0 }, n_tokens);
}

void gpu_copy(struct gpu_stream *s, struct rows dst, struct rows src, int n_tokens)
{
    LAUNCH(s, copy_rows, grid_of(s, dst.width, n_tokens), gpu_threads(s, dst.width), 0, dst.data,
           dst.stride, dst.width, src.data, src.stride);
}

void gpu_swiglu(struct gpu_stream *s, struct rows dst, struct rows gate, struct rows up,
                int n_tokens)
{
    LAUNCH(s, swiglu_rows, grid_of(s, dst.width, n_tokens), gpu_threads(s, dst.width), 0, dst.data,
           dst.stride, dst.width, gate.data, gate.stride, up.data, up.stride);
}

void gpu_clamp(struct gpu_stream *s, struct rows x, float low, float high, int n_tokens)
{
    LAUNCH(s, clamp_rows, grid_of(s, x.width, n_tokens), gpu_threads(s, x.width), 0, x.data,
           x.stride, x.width, low, high);
}
