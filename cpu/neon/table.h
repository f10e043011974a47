/* The parts of kernels_use_neon, one per file. */
#ifndef TANDEM_CPU_NEON_TABLE_H
#define TANDEM_CPU_NEON_TABLE_H

#include "cpu/kernels.h"

void use_dot_neon(struct kernels *k);      /* quantized rows times int8 activations */
void use_decode_neon(struct kernels *k);   /* blocks to floats */
void use_quantize_neon(struct kernels *k); /* floats to activation blocks */
void use_float_neon(struct kernels *k);    /* everything on F32, F16 and BF16 */
void use_limits_neon(struct kernels *k);    /* the fastest reading and multiplying, for the probe */
void use_index_neon(struct kernels *k);     /* scores of an indexer */

#endif
