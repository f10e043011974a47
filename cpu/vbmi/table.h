/* The parts of kernels_use_vbmi, one per file. */
#ifndef TANDEM_CPU_VBMI_TABLE_H
#define TANDEM_CPU_VBMI_TABLE_H

#include "cpu/kernels.h"

void use_matvec_vbmi(struct kernels *k); /* codebook rows times one activation */

#endif
