/* Many rows of activations times an encoded matrix, or times the matrices of the experts that tokens
 * picked: one kind of tile for both (gpu/gemm.cu). */
#ifndef TANDEM_GPU_GEMM_CUH
#define TANDEM_GPU_GEMM_CUH

#include "gpu/common.cuh"

#define GEMM_TOKENS 64 /* activation rows of a tile on tensor cores */

/* Activation rows of a tile in the stream's profile. */
int gemm_tokens(const struct gpu_stream *s);

/* Activation rows of one tile that go through one expert's matrix: pairs[first .. first + n). */
struct expert_tile {
    int32_t slot, first, n;
};

struct gemm {
    const uint8_t *weight, *second; /* second: `up` where weight is `gate`, dst = silu(gate) * up */
    int64_t cols, n_rows, row_bytes;
    const float *src;
    int64_t src_stride;
    float *dst;
    int64_t dst_stride;
    const float *bias; /* NULL: none */
    float limit;       /* of gate and up, 0: none */
    int n_tokens;
    /* Experts: tile y of the grid is tiles[y]; its row i is pair p = pairs[first + i], which reads row
     * p / top_k of src and writes row p of dst. NULL: rows in order. */
    const struct expert_tile *tiles;
    const int32_t *pairs;
    int n_tiles, top_k;
    int64_t matrix_bytes;
    const struct gpu_tables *tables;
};

/* Queue it, on tensor cores in the fast profile. */
void gemm_run(struct gpu_stream *s, enum tensor_type type, struct gemm g);

/* An operand of tensor cores. Infinity is no number to go on with; NaN stays. */
DEVICE uint16_t to_operand(float x)
{
    return float_to_f16(x > 65504 ? 65504 : x < -65504 ? -65504 : x);
}

/* silu(gate) * up, gate at most `limit` and up within it on both sides; 0: no limit. */
DEVICE float swiglu_of(float gate, float up, float limit)
{
    if (limit > 0) {
        gate = gate > limit ? limit : gate;
        up = up > limit ? limit : up < -limit ? -limit : up;
    }
    return gate / (1 + expf(-gate)) * up;
}

#endif
