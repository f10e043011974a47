/* Two devices as one, for a trunk that a GPU holds only in part.
 *
 * Every operation runs on the side where its weights lie; one without weights runs where its input was
 * computed last. Activations have a place on both sides, and of each buffer the split knows where the
 * valid copy is: an operation on the other side brings it over first. So any tensor may lie on either
 * side, whatever that costs; with whole layers on each side, one vector per token crosses between
 * them. Attention works where the layer's cache is, with what it reads beside that: key and value
 * matrices, sinks, compressors, the indexer's choice; the placement keeps those together.
 *
 * Experts of the GPU's layers may be computed by a thread of the hand-off, while ours queues. Two at
 * once must not use the CPU's part: before it works for us, and before rows cross, the hand-off is to
 * have settled. A step in which the GPU's operations follow each other without one of the CPU between
 * them is recorded and replayed like one that is the GPU's alone, as soon as the first of them comes.
 *
 * Pointers handed out are those of main memory; the GPU's are found by their distance from the
 * beginning of the block. */
#ifndef TANDEM_ENGINE_SPLIT_H
#define TANDEM_ENGINE_SPLIT_H

#include "src/engine/card_weights.h"

struct split_options {
    struct device *cpu, *gpu; /* borrowed */
    int n_layers;
    int first_gpu_layer;      /* layers from here on have their cache on the GPU */
    const struct card_weights *weights; /* borrowed: which are the GPU's */
    /* Wait until nobody computes on the CPU for operations that the GPU has queued so far. False, err may
     * say why: somebody does yet. */
    bool (*settle)(void *ctx, struct error *err);
    bool (*is_settled)(void *ctx);      /* for assertions */
    void *ctx;
};

bool split_open(struct device **out, const struct split_options *o, struct error *err);

/* The buffers of activations that were allocated from it: called once they are there. */
void split_watch(struct device *d, const struct arch *arch, const struct activations *a);

/* Of the next block that is allocated, the first `bytes` bytes lie in main memory alone and the rest
 * in the GPU's alone: a cache, layer by layer. */
void split_next_apart(struct device *d, size_t bytes);

#endif
