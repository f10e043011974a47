/* The parts of kernels_use_avx512, one per file. What is missing here stays with AVX2. */
#ifndef TANDEM_CPU_AVX512_TABLE_H
#define TANDEM_CPU_AVX512_TABLE_H

#include "cpu/kernels.h"

void use_dot_avx512(struct kernels *k);   /* quantized rows times int8 activations */
void use_gemm_avx512(struct kernels *k);  /* tiles of them */
void use_woven_avx512(struct kernels *k); /* woven rows times one int8 activation */
void use_woven_gemm_avx512(struct kernels *k); /* tiles of them */
void use_float_avx512(struct kernels *k); /* everything on F32, F16 and BF16 */
void use_float_gemm_avx512(struct kernels *k); /* tiles of F32, F16, BF16 */
void use_limits_avx512(struct kernels *k);    /* the fastest reading and multiplying, for the probe */
void use_index_avx512(struct kernels *k);     /* scores of an indexer */

#endif
