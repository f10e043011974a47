/* Hyper-connections (mHC, arXiv 2512.24880; struct hyper of src/device.h): one block per token gathers
 * the streams into a sublayer's input, and one thread per element spreads its output over them.
 *
 * V4 Flash's four streams are 64 KB a token: read twice by mix (once from L2), read and written once
 * by join. Twenty passes over a matrix of 4 x 4 stay in the registers of one warp: lane 4 j + k holds
 * C[j][k], so sums over k and j are exchanges with lanes 1, 2 and 4, 8 apart. */
#include "gpu/common.cuh"

#define STREAMS 4
#define MIX (STREAMS * (2 + STREAMS))

struct hyper_gates {
    const float *scale, *base;
    int n_passes;
    float eps, rms_eps;
    bool ends; /* only pre */
};

DEVICE float sigmoid(float x) { return 1 / (1 + expf(-x)); }

DEVICE float sum_over(float x, int first, int second)
{
    x += warp_xor(x, first);
    return x + warp_xor(x, second);
}

/* The first warp turns mix [24] into pre (to shared memory), post and C (over mix). */
DEVICE void open_gates(const struct hyper_gates *g, float *mix, float inverse, float *pre)
{
    int lane = lane_id(), at = lane % (STREAMS * STREAMS);
    if (lane < STREAMS)
        pre[lane] = sigmoid(mix[lane] * inverse * g->scale[0] + g->base[lane]) + g->eps;
    if (g->ends)
        return; /* the whole warp */
    float post = mix[STREAMS + lane % STREAMS] * inverse * g->scale[1] +
                 g->base[STREAMS + lane % STREAMS];
    float c = mix[2 * STREAMS + at] * inverse * g->scale[2] + g->base[2 * STREAMS + at];
    float max = fmaxf(c, warp_xor(c, 1));
    max = fmaxf(max, warp_xor(max, 2));
    c = expf(c - max);
    c = c / sum_over(c, 1, 2) + g->eps;
    c /= sum_over(c, 4, 8) + g->eps;
    for (int pass = 1; pass < g->n_passes; pass++) {
        c /= sum_over(c, 1, 2) + g->eps;
        c /= sum_over(c, 4, 8) + g->eps;
    }
    warp_sync(); /* mix has been read */
    if (lane < STREAMS)
        mix[lane] = 2 * sigmoid(post);
    if (lane < STREAMS * STREAMS)
        mix[STREAMS + lane] = c;
}

KERNEL void hyper_mix_rows(float *dst, int64_t dst_stride, int64_t width, float *mix, int64_t mix_stride,
                      const float *hidden, int64_t hidden_stride, struct hyper_gates g)
{
    SHARED(float, pre); /* [STREAMS], then block_sum's */
    const float *x = hidden + blockIdx.x * hidden_stride;
    float sum = 0;
    for (int64_t i = threadIdx.x; i < STREAMS * width; i += blockDim.x)
        sum += x[i] * x[i];
    float mean = block_sum(sum, pre + STREAMS) / (float)(STREAMS * width);
    if (warp_id() == 0)
        open_gates(&g, mix + blockIdx.x * mix_stride, 1 / sqrtf(mean + g.rms_eps), pre);
    block_sync();
    for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
        float y = 0;
        for (int s = 0; s < STREAMS; s++)
            y += pre[s] * x[s * width + i];
        dst[blockIdx.x * dst_stride + i] = y;
    }
}

KERNEL void hyper_join_rows(float *hidden, int64_t hidden_stride, const float *mix, int64_t mix_stride,
                       const float *out, int64_t out_stride, int64_t width)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (i >= width)
        return;
    const float *post = mix + t * mix_stride, *c = post + STREAMS;
    float *x = hidden + t * hidden_stride + i, y = out[t * out_stride + i], before[STREAMS];
    for (int s = 0; s < STREAMS; s++)
        before[s] = x[s * width];
    for (int s = 0; s < STREAMS; s++) {
        float sum = post[s] * y;
        for (int from = 0; from < STREAMS; from++)
            sum += c[from * STREAMS + s] * before[from];
        x[s * width] = sum;
    }
}

void gpu_hyper_mix(struct gpu_stream *s, struct rows dst, struct rows mix, struct rows hidden,
                   const struct hyper *h, int n_tokens)
{
    struct hyper_gates g = { (const float *)h->scale.data, (const float *)h->base.data,
                             h->n_passes, h->eps, h->rms_eps, mix.width == STREAMS };
    assert(h->n_streams == STREAMS && (g.ends || mix.width == MIX));
    LAUNCH(s, hyper_mix_rows, dim3((unsigned)n_tokens), gpu_threads(s, dst.width),
           (STREAMS + BLOCK_SCRATCH) * sizeof(float), dst.data, dst.stride, dst.width, mix.data,
           mix.stride, hidden.data, hidden.stride, g);
}

void gpu_hyper_join(struct gpu_stream *s, struct rows hidden, struct rows mix, struct rows out,
                    int n_tokens)
{
    int threads = gpu_threads(s, out.width);
    assert(hidden.width == STREAMS * out.width && mix.width == MIX);
    LAUNCH(s, hyper_join_rows, dim3((unsigned)divide_up(out.width, threads), (unsigned)n_tokens),
           threads, 0, hidden.data, hidden.stride, mix.data, mix.stride, out.data, out.stride,
           out.width);
}
