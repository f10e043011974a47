/* Points of a timeline to which a cache of rings can go back (struct cache_part: CACHE_RING,
 * CACHE_STATE). Rows that stay are never copied: a checkpoint is what the rings held when the timeline
 * was that long, a few MB, kept in main memory wherever the cache lies.
 *
 * Long prompts leave one behind each step, so an answer can be computed again from the end of its
 * prompt, and a step that was interrupted costs no more than itself. When all places are taken, the
 * one between the nearest neighbours is given up, so that they stay spread over the timeline.
 * Caches that can go back anywhere need none: everything here is empty for them. */
#ifndef TANDEM_MODEL_CHECKPOINT_H
#define TANDEM_MODEL_CHECKPOINT_H

#include "src/model/kvcache.h"

#define CHECKPOINTS 4
#define CHECKPOINT_TOKENS 16 /* steps that are worth one */

struct checkpoints {
    char *copies;   /* owns [CHECKPOINTS, bytes] */
    size_t bytes;   /* of what the rings of all layers hold */
    int n;
    struct checkpoint {
        int64_t position, newest; /* newest: of the cache then */
        int slot;                 /* whose copy this is */
    } at[CHECKPOINTS]; /* [n] ascending */
};

/* Main memory that they take. */
uint64_t checkpoints_bytes(const struct arch *arch, const struct params *p, enum tensor_type type,
                           int64_t n_ctx);

/* For caches like c. Accepts to be closed in any state; a zeroed struct is closed. */
bool checkpoints_open(struct checkpoints *k, const struct arch *arch, const struct kvcache *c,
                      struct error *err);
void checkpoints_close(struct checkpoints *k);

/* The cache holds n positions now: remember that. What the device cannot read is not remembered. */
void checkpoints_take(struct checkpoints *k, const struct kvcache *c, struct device *d, int64_t n);

/* The cache holds n_past positions, of which the first n are wanted: make it hold n, or as many of
 * them as can be had, and say how many. Points behind n are forgotten. */
int64_t checkpoints_rewind(struct checkpoints *k, const struct arch *arch, const struct params *p,
                           struct kvcache *c, struct device *d, int64_t n_past, int64_t n);

/* Another timeline: forget all. */
void checkpoints_forget(struct checkpoints *k);

#endif
