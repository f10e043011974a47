/* The parts of kernels_use_amx, one per file. */
#ifndef TANDEM_CPU_AMX_TABLE_H
#define TANDEM_CPU_AMX_TABLE_H

#include "cpu/kernels.h"

void use_gemm_amx(struct kernels *k);   /* wide tiles of quantized rows times int8 activations */
void use_woven_gemm_amx(struct kernels *k); /* the same of woven rows */
void use_limits_amx(struct kernels *k); /* the fastest multiplying, for the probe */
void use_bf16_amx(struct kernels *k);   /* attention */
void use_index_amx(struct kernels *k);  /* scores of an indexer */

#endif
