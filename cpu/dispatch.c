/* Which kernels run: plain C first, then each ISA improves rows of the table. */
#include "cpu/features.h"
#include "cpu/kernels.h"

void kernels_init(struct kernels *k, unsigned isa)
{
    kernels_use_ref(k);
    (void)isa;
}
