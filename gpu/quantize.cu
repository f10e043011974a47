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
    assert(src.width % Q8_RUN == 0 && n_rows <= GPU_MOST_TOKENS);
    int threads = gpu_threads(s, 128);
    dim3 blocks((unsigned)divide_up(src.width / Q8_RUN, threads / 32), (unsigned)n_rows);
    LAUNCH(s, q8_encode_rows, blocks, threads, 0, to, src.data, src.stride, src.width / Q8_RUN);
}

/* ---- the stream's rows ---- */

static size_t slot_bytes(const struct gpu_limits *l)
{
    return (q8_bytes(l->max_cols, GPU_GEMV_TOKENS) + 255) / 256 * 256;
}

size_t q8_stream_bytes(const struct gpu_limits *l)
{
    return l->act_f32 ? 0 : Q8_SLOTS * slot_bytes(l);
}

static bool fits(const struct gpu_stream *s, struct rows r, int n_tokens)
{
    return !s->limits.act_f32 && r.width % Q8_RUN == 0 && r.width <= s->limits.max_cols &&
           n_tokens <= GPU_GEMV_TOKENS;
}

static struct q8_rows rows_in(const struct gpu_stream *s, const struct q8_slot *slot, int64_t width)
{
    size_t i = (size_t)(slot - s->slots);
    return q8_at((char *)s->q8 + i * slot_bytes(&s->limits), width, GPU_GEMV_TOKENS);
}

/* Give `r` the slot that was not used for longest. */
static struct q8_slot *take_slot(struct gpu_stream *s, struct rows r, int n_tokens)
{
    struct q8_slot *slot = &s->slots[0];
    for (struct q8_slot &other : s->slots)
        slot = other.used < slot->used ? &other : slot;
    *slot = { r, n_tokens, ++s->q8_uses };
    if (!s->q8_kept)
        slot->of.data = NULL;
    return slot;
}

struct q8_rows q8_of(struct gpu_stream *s, struct rows src, int n_tokens)
{
    assert(fits(s, src, n_tokens));
    for (struct q8_slot &slot : s->slots) {
        if (slot.of.data == src.data && slot.of.width == src.width &&
            slot.of.stride == src.stride && n_tokens <= slot.n_tokens) {
            slot.used = ++s->q8_uses;
            return rows_in(s, &slot, src.width);
        }
    }
    struct q8_rows q = rows_in(s, take_slot(s, src, n_tokens), src.width);
    q8_encode(s, q, src, n_tokens);
    return q;
}

struct q8_rows q8_beside(struct gpu_stream *s, struct rows dst, int n_tokens)
{
    if (!s->q8_kept || !fits(s, dst, n_tokens))
        return { NULL, NULL, 0 };
    return rows_in(s, take_slot(s, dst, n_tokens), dst.width);
}

void q8_forget(struct gpu_stream *s, struct rows written, int n_tokens)
{
    for (struct q8_slot &slot : s->slots) {
        const struct rows of = slot.of;
        const float *end = of.data + (slot.n_tokens - 1) * of.stride + of.width;
        if (of.data && written.data < end &&
            of.data < written.data + (n_tokens - 1) * written.stride + written.width)
            slot.of.data = NULL;
    }
}

void q8_forget_all(struct gpu_stream *s)
{
    for (struct q8_slot &slot : s->slots)
        slot.of.data = NULL;
}
