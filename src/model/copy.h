/* Where the weights of a copy lie.
 *
 *     common | part 0 | part 1 | ...        each begins at the border of a huge page
 *
 * With one part everything is common. With more, one for each NUMA node, routed experts are split by
 * rows: part p holds rows [p * part_rows, (p + 1) * part_rows) of gate, up and down of every expert
 * (struct weight). Workers are in the order of the nodes and take their shares in the order of the
 * parts, so each reads its own memory, however the router chooses; a row is summed by one worker as
 * ever, so the bits are the same for any number of parts, and borders may stand anywhere.
 *
 * (Splitting down by columns would keep h on its node too, but each node would then make a partial
 * sum of hidden_size floats per token to be added up. The encoded h that every node reads whole is
 * smaller, top_k * expert_size bytes: 17 KB against 28 KB in V3.)
 *
 * The other weights stay whole; the pages of the large ones are dealt to the nodes by rows. */
#ifndef TANDEM_MODEL_COPY_H
#define TANDEM_MODEL_COPY_H

#include "src/base/cpus.h"
#include "src/model/reader.h"

struct copy {
    struct model_tensor **tensors; /* [n_tensors] in reading order; borrowed */
    int n_tensors;
    int n_parts; /* 1 .. NODES_MAX */
    /* found by copy_measure */
    size_t common_bytes, part_bytes; /* multiples of a huge page */
    size_t n_extents;
};

/* The sizes. All of it: common_bytes + n_parts * part_bytes. */
void copy_measure(struct copy *c);

/* Point the weights into the copy at `base`, and say what is to be read where: extents
 * [n_extents]. */
void copy_place(const struct copy *c, char *base, struct extent *extents);

/* Before the memory is touched: ask for the pages of each part on its node, and of large common
 * weights by rows. Part p belongs to the p-th of n_parts equal shares of the machine's nodes. False
 * where the system refuses (errno); pages then lie near the thread that reads them. */
bool copy_bind(const struct copy *c, char *base, const struct cpus *cpus);

#endif
