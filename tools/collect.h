/* Collecting an importance matrix: what observers of an engine see, added up.
 *
 * Per weight matrix (an expert, a head) and input column the sum of the squared inputs, and the
 * number of tokens. Sums are doubles and counts 64 bits wide, so that long texts lose nothing;
 * the file holds both as F32. The same file can be read back and added to (collection_add). */
#ifndef TANDEM_TOOLS_COLLECT_H
#define TANDEM_TOOLS_COLLECT_H

#include "src/cli/buf.h"
#include "src/engine/observe.h"
#include "tools/imatrix.h"

#define COLLECT_FEW 16 /* tokens below which an expert's importance is mostly noise */

struct collected {
    const char *name;       /* of the tensor; borrowed from the model */
    const char *also;       /* of one that sees the same inputs; NULL: none */
    int64_t cols, n_matrices;
    bool heads;             /* one count for all matrices, as of heads: every token meets each */
    double *sums;           /* [n_matrices, cols] */
    uint64_t *counts;       /* [n_matrices] */
};

/* Zeroed is empty. */
struct collection {
    struct collected *entries;
    size_t n_entries, room;
    uint32_t *places;       /* hash table of names: entry + 1, 0 free */
    size_t n_places;        /* a power of two */
    uint64_t n_chunks, chunk_size;
    struct str dataset;     /* name of the text, without a path; borrowed */
    struct error err;       /* the first failure of the observer: without memory */
};

/* Room for the weights of a model of n_tensors tensors. */
bool collection_open(struct collection *c, size_t n_tensors, struct error *err);
void collection_close(struct collection *c);

/* An observer that adds to c. */
struct observer collection_observer(struct collection *c);

/* Add what an earlier run has collected. ERR_FILE: of another model, or not in the GGUF form. */
bool collection_add(struct collection *c, const struct imatrix *m, struct error *err);

/* Write it. An existing file is replaced when the new one is complete. */
bool collection_write(struct collection *c, const char *path, struct error *err);

/* How well the experts are covered: a line for each layer that has some, and one of all. */
void collection_coverage(const struct collection *c, struct buf *out);

#endif
