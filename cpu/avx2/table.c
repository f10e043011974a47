/* AVX2 with FMA and F16C: the rows of the kernel table it does better than plain C. */
#include "cpu/avx2/table.h"

void kernels_use_avx2(struct kernels *k)
{
    use_dot_avx2(k);
    use_decode_avx2(k);
    use_quantize_avx2(k);
    use_gemm_avx2(k);
    use_float_avx2(k);
    use_float_gemm_avx2(k);
    use_limits_avx2(k);
    use_index_avx2(k);
}
