/* What the two halves of placing a model share: placement.c chooses, placement_account.c counts. */
#ifndef TANDEM_MODEL_PLACEMENT_PARTS_H
#define TANDEM_MODEL_PLACEMENT_PARTS_H

#include "src/model/placement.h"

#define GPU_LINE 256 /* tensors in VRAM begin at multiples of it */

/* One way to place a model; the table follows from it. */
struct draft {
    int64_t n_ctx;
    bool copy;
    int gpu_layers;
    bool head;
    int cpu_moe;
};

struct chooser {
    struct placement *p;
    const struct model *m;
    const struct rates *here;
    const struct placement_wishes *w;
    const struct placement_rule **rules; /* of each tensor, NULL: none */
    bool drafts; /* try with the block for multi-token prediction */
};

/* Fill the sums of the table; do they fit? */
bool placement_try(const struct chooser *c, const struct draft *d);

/* Bytes of everything that has its home there. */
uint64_t placement_home_bytes(const struct placement *p, enum home home);
/* Of a tensor that has: norms, biases and routers are decoded to F32 while loading. */
uint64_t placement_tensor_bytes(const struct model_tensor *t, enum home home);
/* Of the largest expert of one layer; drafts: the block that drafts counts too. */
uint64_t placement_largest_expert(const struct model *m, bool drafts);
/* Of one expert of every layer that the GPU computes with the CPU's experts. */
uint64_t placement_one_expert_each(const struct chooser *c);

/* Does the user ask for weights in memory of their own? */
bool placement_copy_asked(const struct placement_wishes *w);

#endif
