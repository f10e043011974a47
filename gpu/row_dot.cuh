/* One encoded row times a few activation rows, by one warp: the heart of GEMV and of the experts.
 *
 * Lane i decodes eights number i, i + 32, ...: a warp reads 256 neighbouring weights at a time, 144
 * bytes of Q4_K in whole sectors. Weights are decoded once for all tokens; activations come from L1
 * (28 KB for V3's hidden size). Each token's sum runs in the same order whatever the others are. */
#ifndef TANDEM_GPU_ROW_DOT_CUH
#define TANDEM_GPU_ROW_DOT_CUH

#include "gpu/block.cuh"

/* sum[t] = row . x[t], for t < n_tokens <= MOST; every lane gets all of them. */
template <int TYPE, int MOST>
DEVICE void row_dot(float sum[MOST], const uint8_t *row, int64_t cols, const float *x,
                    int64_t stride, int n_tokens, const struct gpu_tables *tables)
{
    for (int t = 0; t < MOST; t++)
        sum[t] = 0;
    for (int64_t i = 8 * lane_id(); i < cols; i += 256) {
        int n = (int)(cols - i < 8 ? cols - i : 8);
        float w[8];
        decode_eight<TYPE>(row, i, n, w, tables);
        UNROLL
        for (int t = 0; t < MOST; t++) {
            const float *a = x + t * stride + i;
            for (int j = 0; t < n_tokens && j < n; j++)
                sum[t] = multiply_add(w[j], a[j], sum[t]);
        }
    }
    UNROLL
    for (int t = 0; t < MOST; t++) {
        if (t < n_tokens)
            sum[t] = warp_sum(sum[t]);
    }
}

#endif
