/* AVX-VNNI, which desktop processors without AVX-512 have: the rows of the kernel table it does better
 * than AVX2. Dot products read memory as fast as it goes without it. */
#include "cpu/avxvnni/table.h"

void kernels_use_avxvnni(struct kernels *k)
{
    use_gemm_avxvnni(k);
    use_limits_avxvnni(k);
}
