/* NEON with dot product and F16: the rows of the kernel table it does better than plain C. */
#include "cpu/neon/table.h"

void kernels_use_neon(struct kernels *k)
{
    use_dot_neon(k);
    use_decode_neon(k);
    use_quantize_neon(k);
    use_float_neon(k);
    use_limits_neon(k);
    use_index_neon(k);
}
