/* AVX-512 (F, BW, DQ, VL, VNNI): the rows of the kernel table it does better than AVX2. */
#include "cpu/avx512/table.h"

void kernels_use_avx512(struct kernels *k)
{
    dot_fn *iq3_xxs = k->dot[TYPE_IQ3_XXS];
    use_dot_avx512(k);
    k->dot[TYPE_IQ3_XXS] = iq3_xxs; /* with one token AVX2 is half as fast again */
    use_gemm_avx512(k);
    use_woven_avx512(k);
    use_woven_gemm_avx512(k);
    use_float_avx512(k);
    use_float_gemm_avx512(k);
    use_limits_avx512(k);
    use_index_avx512(k);
}
