/* What AVX-VNNI can do at best, for the probe. */
#include "cpu/avxvnni/table.h"

#define VNNI 1
#include "cpu/avx2/count.h"

void use_limits_avxvnni(struct kernels *k)
{
    k->count_int8 = count_int8;
}
