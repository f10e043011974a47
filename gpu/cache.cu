/* Writing this step's keys, values or latents into the cache, as F16 or F32.
 *
 * A token adds at most a few KB (V3: 576 elements a layer), so the launch is the cost: callers store
 * once per layer for MLA, twice for keys and values. */
#include "gpu/common.cuh"

DEVICE void put(float *to, float x) { *to = x; }
DEVICE void put(uint16_t *to, float x) { *to = float_to_f16(x); }

template <typename T>
KERNEL void cache_store(T *cache, const float *src, int64_t stride, int64_t width,
                        const struct gpu_step *step)
{
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, t = blockIdx.y;
    if (i < width)
        put(cache + (step->n_past + t) * width + i, src[t * stride + i]);
}

void gpu_cache_store(struct gpu_stream *s, void *cache, enum tensor_type type, struct rows src,
                     const struct gpu_step *step, int n_tokens)
{
    int threads = gpu_threads(s, src.width);
    dim3 grid((unsigned)divide_up(src.width, threads), (unsigned)n_tokens);
    if (type == TYPE_F32)
        LAUNCH(s, cache_store<float>, grid, threads, 0, (float *)cache, src.data, src.stride,
               src.width, step);
    else
        LAUNCH(s, cache_store<uint16_t>, grid, threads, 0, (uint16_t *)cache, src.data, src.stride,
               src.width, step);
}
