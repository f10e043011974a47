/* The parts of kernels_use_avxvnni, one per file. */
#ifndef TANDEM_CPU_AVXVNNI_TABLE_H
#define TANDEM_CPU_AVXVNNI_TABLE_H

#include "cpu/kernels.h"

void use_gemm_avxvnni(struct kernels *k);   /* tiles of quantized rows and int8 activations */
void use_limits_avxvnni(struct kernels *k); /* the fastest multiplying, for the probe */

#endif
