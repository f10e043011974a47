/* AMX with int8 and BF16: the rows of the kernel table it does better than AVX-512. */
#include "cpu/amx/table.h"

void kernels_use_amx(struct kernels *k)
{
    use_gemm_amx(k);
    use_woven_gemm_amx(k);
    use_limits_amx(k);
    use_bf16_amx(k);
    use_index_amx(k);
}
