/* Reading all tensors of a file with all cores: the part that inspect --verify, --hash and --diff
 * have in common. */
#ifndef TANDEM_CLI_INSPECT_SCAN_H
#define TANDEM_CLI_INSPECT_SCAN_H

#include <stdatomic.h>

#include "src/cli/term.h"
#include "src/format/tensor.h"

/* Elements that are decoded at a time: whole blocks of every type. */
#define SCAN_ELEMENTS 8192

struct scan {
    void (*item)(struct scan *s, int64_t item, int worker); /* writes what belongs to it alone */
    void *ctx;
    int64_t n_items;
    uint64_t total_bytes;
    const char *label;

    struct progress progress;
    atomic_llong next, done_bytes; /* relaxed: counters, nothing is published through them */
};

/* Every item once; a worker takes the next when it is done with one. ERR_INTERRUPTED. */
bool scan_run(struct scan *s, struct error *err);

/* Tell that so much was read. False: stop, the user wants it. */
bool scan_step(struct scan *s, uint64_t bytes, int worker);

/* Elements [at, at + n) of a tensor, n at most SCAN_ELEMENTS and both on the border of a block.
 * Not for integer types. */
void scan_decode(const struct tensor *t, uint64_t at, uint64_t n, float *out);

uint64_t scan_elements(const struct tensor *t);

#endif
