/* Activations to signed bytes, a warp per run of 32: the layout is drawn in gpu/q8.cuh.
 *
 * Four bytes in and one and a quarter out per element: 36 KB for a hidden row of V3, so a launch costs
 * more than the work, and norms and SwiGLU write this form themselves where they can. */
#include "gpu/q8.cuh"

KERNEL void q8_encode_rows(struct q8_rows to, const float *src, int64_t stride, int64_t runs)
{
    int64_t run = (int64_t)blockIdx.x * (blockDim.x / 32) + warp_id(), row = blockIdx.y;
    if (run < runs)
        q8_store_run(to, row, run, src[row * stride + run * Q8_RUN + lane_id()]);
}

void q8_encode(struct gpu_stream *s, struct q8_rows to, struct rows src, int64_t n_rows)
{
    assert(src.width % Q8_RUN == 0 && n_rows <= 65535);
    int threads = gpu_threads(s, 128);
    dim3 blocks((unsigned)divide_up(src.width / Q8_RUN, threads / 32), (unsigned)n_rows);
    LAUNCH(s, q8_encode_rows, blocks, threads, 0, to, src.data, src.stride, src.width / Q8_RUN);
}

/* ---- the stream's rows ---- */

size_t q8_stream_bytes(const struct gpu_limits *l)
{
    return l->act_f32 ? 0 : (q8_bytes(l->max_cols, GPU_GEMV_TOKENS) + 255) / 256 * 256;
}

static bool fits(const struct gpu_stream *s, struct rows r, int n_tokens)
{
    return !s->limits.act_f32 && r.width % Q8_RUN == 0 && r.width <= s->limits.max_cols &&
           n_tokens <= GPU_GEMV_TOKENS;
}

static void remember(struct gpu_stream *s, struct rows r, int n_tokens)
{
    s->q8_of = r;
    s->q8_tokens = n_tokens;
    if (!s->q8_kept)
        s->q8_of.data = NULL;
}

struct q8_rows q8_of(struct gpu_stream *s, struct rows src, int n_tokens)
{
    assert(fits(s, src, n_tokens));
    struct q8_rows q = q8_at(s->q8, src.width, GPU_GEMV_TOKENS);
    bool there = s->q8_of.data == src.data && s->q8_of.width == src.width &&
                 s->q8_of.stride == src.stride && n_tokens <= s->q8_tokens;
    if (!there) {
        q8_encode(s, q, src, n_tokens);
        remember(s, src, n_tokens);
    }
    return q;
}

struct q8_rows q8_beside(struct gpu_stream *s, struct rows dst, int n_tokens)
{
    if (!s->q8_kept || !fits(s, dst, n_tokens))
        return { NULL, NULL, 0 };
    remember(s, dst, n_tokens);
    return q8_at(s->q8, dst.width, GPU_GEMV_TOKENS);
}

void q8_forget(struct gpu_stream *s, struct rows written, int n_tokens)
{
    const struct rows of = s->q8_of;
    const float *end = of.data + (s->q8_tokens - 1) * of.stride + of.width;
    if (of.data && written.data < end &&
        of.data < written.data + (n_tokens - 1) * written.stride + written.width)
        s->q8_of.data = NULL;
}
