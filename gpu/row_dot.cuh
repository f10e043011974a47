/* One encoded row times a few rows of floats, by the lanes of a warp or a part of them: products in
 * the F32 profile, and weights that are floats themselves in both.
 *
 * Lane i of `lanes` decodes eights number i, i + lanes, ...: a warp reads 256 neighbouring weights at
 * a time, 144 bytes of Q4_K, 512 of F16. Weights are decoded once for all tokens; activations come
 * from L1 (28 KB for V3's hidden size), by sixteen bytes where they lie for it. Each token's sum runs
 * in the same order whatever the others are. */
#ifndef TANDEM_GPU_ROW_DOT_CUH
#define TANDEM_GPU_ROW_DOT_CUH

#include "gpu/block.cuh"

/* Lanes that a row of so many pieces (a power of two), one piece a lane, keeps busy. */
static inline int gpu_lanes(int64_t pieces)
{
    int lanes = 1;
    while (lanes < 32 && lanes < pieces)
        lanes *= 2;
    return lanes;
}

/* Over the lanes of a group, each of them gets it; groups of all 32 lanes: warp_sum. */
DEVICE float group_sum(float x, int lanes)
{
    if (lanes == 32)
        return warp_sum(x);
    for (int mask = lanes / 2; mask > 0; mask >>= 1)
        x += warp_xor(x, mask);
    return x;
}

/* sum[t] = row . x[t], for t < n_tokens <= MOST; every lane of the group gets all of them. */
template <int TYPE, int MOST>
DEVICE void row_dot(float sum[MOST], const uint8_t *row, int64_t cols, const float *x,
                    int64_t stride, int n_tokens, int lanes, const struct gpu_tables *tables)
{
    bool wide = (((uintptr_t)x | (uintptr_t)(4 * stride)) & 15) == 0;
    for (int t = 0; t < MOST; t++)
        sum[t] = 0;
    for (int64_t i = 8 * (lane_id() % lanes); i < cols; i += 8 * lanes) {
        int n = (int)(cols - i < 8 ? cols - i : 8);
        float w[8];
        decode_eight<TYPE>(row, i, n, w, tables);
        UNROLL
        for (int t = 0; t < MOST; t++) {
            const float *from = x + t * stride + i;
            float a[8];
            if (t >= n_tokens)
                continue;
            if (wide && n == 8) {
                float4 low = *(const float4 *)from, high = *((const float4 *)from + 1);
                a[0] = low.x, a[1] = low.y, a[2] = low.z, a[3] = low.w;
                a[4] = high.x, a[5] = high.y, a[6] = high.z, a[7] = high.w;
            } else {
                for (int j = 0; j < 8; j++)
                    a[j] = j < n ? from[j] : 0;
            }
            for (int j = 0; j < 8; j++)
                sum[t] = multiply_add(w[j], a[j], sum[t]);
        }
    }
    UNROLL
    for (int t = 0; t < MOST; t++) {
        if (t < n_tokens)
            sum[t] = group_sum(sum[t], lanes);
    }
}

#endif
