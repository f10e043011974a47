/* AVX-512 (F, BW, DQ, VL, VNNI): the rows of the kernel table it does better than AVX2. */
#include "cpu/avx512/table.h"

void kernels_use_avx512(struct kernels *k)
{
    use_dot_avx512(k);
    use_gemm_avx512(k);
    use_float_avx512(k);
}
