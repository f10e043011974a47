/* How long a plan will compute: each encoder that it needs is timed here for a moment, on random
 * weights, and the rest is arithmetic. Reading and writing come on top where the disk is slower. */
#ifndef TANDEM_TOOLS_ESTIMATE_H
#define TANDEM_TOOLS_ESTIMATE_H

#include "tools/type_plan.h"

/* Seconds to encode what changes its type, on n_threads. ERR_FIT without memory. */
bool estimate_encoding(const struct type_plan *p, int n_threads, double *seconds,
                       struct error *err);

/* "about 38 min of computing on 32 threads; 1.3 TiB to read, 404 GiB to write". */
bool estimate_describe(const struct type_plan *p, int n_threads, struct buf *out,
                       struct error *err);

#endif
