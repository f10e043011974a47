/* Vectors of the indexer in bytes, as struct indexer of src/device.h says: queries (gpu/indexer.cu), keys
 * of V3.2 (there too) and of V4, whose rows are made in gpu/compress.cu. */
#ifndef TANDEM_GPU_INDEX_BYTES_CUH
#define TANDEM_GPU_INDEX_BYTES_CUH

#include "gpu/common.cuh"

/* The whole block turns x [dim], complete in shared memory, into bytes; every thread gets the scale.
 * scratch: BLOCK_SCRATCH floats of shared memory. */
DEVICE float index_to_bytes(float *x, int dim, int8_t *bytes, float *scratch)
{
    int block = dim & -dim;
    for (int apart = 1; apart < block; apart *= 2) {
        for (int pair = threadIdx.x; pair < dim / 2; pair += blockDim.x) {
            int at = pair / apart * 2 * apart + pair % apart;
            float a = x[at], b = x[at + apart];
            x[at] = a + b;
            x[at + apart] = a - b;
        }
        block_sync();
    }
    float largest = 0;
    for (int i = threadIdx.x; i < dim; i += blockDim.x)
        largest = x[i] * 0 == 0 ? fmaxf(largest, fabsf(x[i])) : INFINITY;
    largest = block_max(largest, scratch);
    float steps = largest > 0 && largest < INFINITY ? 127 / largest : 0;
    for (int i = threadIdx.x; i < dim; i += blockDim.x)
        bytes[i] = steps > 0 /* rounded as the CPU does it */
                       ? (int8_t)(int)product_plus(x[i], steps, copysignf(0.5f, x[i])) : (int8_t)0;
    return largest < INFINITY ? largest / 127 / sqrtf((float)block) : NAN;
}

#endif
