/* AVX-512 with VBMI and GFNI: the rows of the kernel table it does better than plain AVX-512. */
#include "cpu/vbmi/table.h"

void kernels_use_vbmi(struct kernels *k)
{
    use_matvec_vbmi(k);
}
