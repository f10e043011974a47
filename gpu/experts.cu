/* Routed experts in device memory.
 *
 * Pairs of token and pick, in four launches: gate and up rows of every pair, SwiGLU, then each token's
 * sum over its picks in their order, so nothing is added atomically and bits do not depend on what
 * runs beside. A pair whose expert is not here is skipped by its warps at once. For one token a layer
 * of V3 reads 8 x 25 MB, all lanes busy: 8 x 2048 rows of gate alone. */
#include "gpu/row_dot.cuh"

/* out[pair, row] = rows of the pair's expert times its token. */
template <int TYPE>
KERNEL void expert_rows(float *out, int64_t n_rows, const uint8_t *weight, int64_t cols,
                        int64_t row_bytes, int64_t matrix_bytes, const float *src,
                        int64_t src_stride, const int32_t *slots, const int32_t *ids, int top_k,
                        const struct gpu_tables *tables)
{
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + warp_id(), pair = blockIdx.y;
    int slot = slots ? slots[ids[pair]] : ids[pair];
    if (slot < 0 || row >= n_rows)
        return;
    float sum[1];
    row_dot<TYPE, 1>(sum, weight + slot * matrix_bytes + row * row_bytes, cols,
                     src + pair / top_k * src_stride, 0, 1, tables);
    if (lane_id() == 0)
        out[pair * n_rows + row] = sum[0];
}

/* dst[token, row] = sum over its picks of weight * (row of the expert's down times h[pair]). */
template <int TYPE>
KERNEL void expert_sums(float *dst, int64_t dst_stride, int64_t n_rows, const uint8_t *weight,
                        int64_t cols, int64_t row_bytes, int64_t matrix_bytes, const float *h,
                        const int32_t *slots, const int32_t *ids, const float *weights, int top_k,
                        const struct gpu_tables *tables)
{
    int64_t row = (int64_t)blockIdx.x * (blockDim.x / 32) + warp_id(), token = blockIdx.y;
    if (row >= n_rows)
        return;
    float total = 0;
    for (int64_t pair = token * top_k; pair < (token + 1) * top_k; pair++) {
        int slot = slots ? slots[ids[pair]] : ids[pair];
        if (slot < 0)
            continue; /* for all lanes alike */
        float sum[1];
        row_dot<TYPE, 1>(sum, weight + slot * matrix_bytes + row * row_bytes, cols,
                         h + pair * cols, 0, 1, tables);
        total = multiply_add(weights[pair], sum[0], total);
    }
    if (lane_id() == 0)
        dst[token * dst_stride + row] = total;
}

struct pairs {
    const int32_t *slots, *ids;
    int n, top_k;
};

static void rows_of(struct gpu_stream *s, float *out, int64_t n_rows, const struct weight *w,
                    const uint8_t *weight, struct rows src, struct pairs p)
{
    int threads = gpu_threads(s, 128);
    dim3 blocks((unsigned)divide_up(n_rows, threads / 32), (unsigned)p.n);
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, (expert_rows<TYPE>), blocks, threads, 0, out, n_rows, weight, w->cols,              \
           (int64_t)w->row_bytes, (int64_t)w->matrix_bytes, src.data, src.stride, p.slots, p.ids, \
           p.top_k, s->tables)
    GPU_BY_TYPE(w->type)
#undef GPU_BY_TYPE_CASE
}

void gpu_experts(struct gpu_stream *s, struct rows dst, struct rows src, const struct experts *e,
                 const int32_t *slots, const int32_t *ids, const float *weights, int n_tokens)
{
    struct pairs p = { slots, ids, n_tokens * e->top_k, e->top_k };
    int64_t n_rows = e->expert_size;
    float *gate = (float *)s->scratch, *up = gate + p.n * n_rows;
    const struct weight *wg = e->gate_up.data ? &e->gate_up : &e->gate;
    const struct weight *wu = e->gate_up.data ? &e->gate_up : &e->up, *wd = &e->down;
    size_t second = e->gate_up.data ? (size_t)n_rows * wu->row_bytes : 0; /* up behind gate */
    assert(p.n <= 65535 && 2 * (size_t)p.n * (size_t)n_rows * sizeof(float) <= s->scratch_bytes);
    rows_of(s, gate, n_rows, wg, (const uint8_t *)wg->data, src, p);
    rows_of(s, up, n_rows, wu, (const uint8_t *)wu->data + second, src, p);
    struct rows g = { gate, n_rows, n_rows }, u = { up, n_rows, n_rows };
    gpu_swiglu(s, g, g, u, p.n);

    int threads = gpu_threads(s, 128);
    dim3 blocks((unsigned)divide_up(wd->rows, threads / 32), (unsigned)n_tokens);
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, (expert_sums<TYPE>), blocks, threads, 0, dst.data, dst.stride, wd->rows,            \
           (const uint8_t *)wd->data, wd->cols, (int64_t)wd->row_bytes,                           \
           (int64_t)wd->matrix_bytes, gate, slots, ids, weights, e->top_k, s->tables)
    GPU_BY_TYPE(wd->type)
#undef GPU_BY_TYPE_CASE
}

size_t gpu_experts_scratch(const struct gpu_limits *l)
{
    return 2 * (size_t)l->max_tokens * (size_t)l->top_k * (size_t)l->expert_size * sizeof(float);
}
