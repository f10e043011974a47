/* tandem quantize IN OUT --fit-ram SIZE --fit-vram SIZE --min-tps F: the best types with which a
 * model fits into a machine.
 *
 * The memory that weights may take is what the placement leaves: from the sizes go the cache of a
 * session of -c tokens (8192), working memory and what others need. The choice is then placed as if
 * the file were there, so that `plan` agrees. With VRAM the trunk is paid from it and the routed
 * experts from main memory, without it all of them from main memory. */
#ifndef TANDEM_TOOLS_FIT_H
#define TANDEM_TOOLS_FIT_H

#include "src/cli/buf.h"
#include "src/cli/options.h"
#include "tools/budget.h"

/* Where a sample of a tensor's weights comes from, for measuring errors. */
struct fit_source {
    /* Row `row` over all matrices of tensor i of the plan as floats; false: cannot be had. */
    bool (*row)(const void *ctx, size_t i, int64_t row, float *out);
    const void *ctx;
};

bool fit_wanted(const struct options *o);

/* Set the types of p->tensors, to which the recipe was applied, and say in `out` what was chosen and
 * why. `in`: the model file. With an importance matrix the errors are measured on samples of the
 * weights. ERR_FIT when nothing fits, or is fast enough. */
bool fit_choose(struct type_plan *p, const struct options *o, const char *in,
                const struct fit_source *source, struct buf *out, struct error *err);

#endif
