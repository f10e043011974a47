/* The parts of kernels_use_avx2, one per file. */
#ifndef TANDEM_CPU_AVX2_TABLE_H
#define TANDEM_CPU_AVX2_TABLE_H

#include "cpu/kernels.h"

void use_dot_avx2(struct kernels *k);       /* quantized rows times int8 activations */
void use_gemm_avx2(struct kernels *k);      /* tiles of them */
void use_decode_avx2(struct kernels *k);    /* blocks to floats */
void use_quantize_avx2(struct kernels *k);  /* floats to activation blocks */
void use_float_avx2(struct kernels *k);     /* everything on F32, F16 and BF16 */
void use_float_gemm_avx2(struct kernels *k); /* tiles of F32, F16, BF16 */
void use_limits_avx2(struct kernels *k);    /* the fastest reading and multiplying, for the probe */
void use_index_avx2(struct kernels *k);  /* scores of an indexer */

#endif
