/* Blocks to floats, and rows of the embedding: one thread per eight elements.
 *
 * Memory-bound: 0.56 bytes in and 2 or 4 bytes out per weight of Q4_K. */
#include "gpu/block.cuh"

/* Where decoded elements go: F32, F16 or BF16 by the kind of T. */
struct bf16 {
    uint16_t bits;
};
DEVICE void put(float *p, float x) { *p = x; }
DEVICE void put(uint16_t *p, float x) { *p = float_to_f16(x); }
DEVICE void put(struct bf16 *p, float x) { p->bits = float_to_bf16(x); }

/* Eight elements to an address that sixteen divides. */
template <typename T> DEVICE void put_eight(T *p, const float *x)
{
    alignas(16) T eight[8];
    UNROLL
    for (int j = 0; j < 8; j++)
        put(&eight[j], x[j]);
    uint4 w[sizeof eight / 16];
    memcpy(w, eight, sizeof eight);
    UNROLL
    for (int j = 0; j < (int)(sizeof eight / 16); j++)
        ((uint4 *)p)[j] = w[j];
}

template <int TYPE, typename T>
KERNEL void dequantize_blocks(T *dst, const uint8_t *src, int64_t n,
                              const struct gpu_tables *tables)
{
    int64_t i = 8 * ((int64_t)blockIdx.x * blockDim.x + threadIdx.x);
    int n_here = (int)(n - i < 8 ? n - i : 8);
    float x[8];
    if (n_here <= 0)
        return;
    decode_eight<TYPE>(src, i, n_here, x, tables);
    if (n_here == 8 && ((uintptr_t)(dst + i) & 15) == 0) {
        put_eight(dst + i, x);
    } else {
        for (int j = 0; j < n_here; j++)
            put(&dst[i + j], x[j]);
    }
}

template <typename T>
static void dequantize_to(struct gpu_stream *s, T *dst, const uint8_t *src, enum tensor_type type,
                          int64_t n)
{
    int threads = gpu_threads(s, divide_up(n, 8));
    dim3 blocks((unsigned)divide_up(divide_up(n, 8), threads));
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, (dequantize_blocks<TYPE, T>), blocks, threads, 0, dst, src, n, s->tables)
    GPU_BY_TYPE(type)
#undef GPU_BY_TYPE_CASE
}

void gpu_dequantize(struct gpu_stream *s, void *dst, enum tensor_type dst_type, const void *src,
                    enum tensor_type type, int64_t n)
{
    const uint8_t *from = (const uint8_t *)src;
    if (dst_type == TYPE_F32)
        dequantize_to(s, (float *)dst, from, type, n);
    else if (dst_type == TYPE_F16)
        dequantize_to(s, (uint16_t *)dst, from, type, n);
    else
        dequantize_to(s, (struct bf16 *)dst, from, type, n);
}

template <int TYPE>
KERNEL void embed_rows(float *dst, int64_t stride, const uint8_t *weight, int64_t cols,
                       int64_t row_bytes, const int32_t *tokens, const struct gpu_tables *tables)
{
    int64_t i = 8 * ((int64_t)blockIdx.x * blockDim.x + threadIdx.x), t = blockIdx.y;
    int n_here = (int)(cols - i < 8 ? cols - i : 8);
    float x[8];
    if (n_here <= 0)
        return;
    decode_eight<TYPE>(weight + tokens[t] * row_bytes, i, n_here, x, tables);
    for (int j = 0; j < n_here; j++)
        dst[t * stride + i + j] = x[j];
}

void gpu_embed(struct gpu_stream *s, struct rows dst, const struct weight *w,
               const int32_t *tokens, int n_tokens)
{
    int threads = gpu_threads(s, divide_up(w->cols, 8));
    dim3 blocks((unsigned)divide_up(divide_up(w->cols, 8), threads), (unsigned)n_tokens);
#define GPU_BY_TYPE_CASE(TYPE)                                                                    \
    LAUNCH(s, (embed_rows<TYPE>), blocks, threads, 0, dst.data, dst.stride,                       \
           (const uint8_t *)w->data, w->cols, (int64_t)w->row_bytes, tokens, s->tables)
    GPU_BY_TYPE(w->type)
#undef GPU_BY_TYPE_CASE
}
