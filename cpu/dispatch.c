/* Which kernels run: plain C first, then each ISA improves rows of the table. */
#include "cpu/features.h"
#include "cpu/kernels.h"

void kernels_init(struct kernels *k, unsigned isa)
{
    kernels_use_ref(k);
    (void)isa; /* on machines without vector kernels */
#if defined(__x86_64__)
    if (isa & ISA_AVX2)
        kernels_use_avx2(k);
    if (isa & ISA_AVXVNNI)
        kernels_use_avxvnni(k);
    if (isa & ISA_AVX512)
        kernels_use_avx512(k);
    if (isa & ISA_VBMI)
        kernels_use_vbmi(k);
    if (isa & ISA_AMX)
        kernels_use_amx(k);
#elif defined(__aarch64__)
    if (isa & ISA_NEON)
        kernels_use_neon(k);
#endif
}
