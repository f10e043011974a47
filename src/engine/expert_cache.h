/* Which routed experts lie in VRAM, and which should: the policy of the expert cache.
 *
 * A table and nothing else; src/engine/expert_store.h has the memory. Every layer has n_slots slots,
 * and an expert of it lies in one of them or in none.
 *
 *     each step     expert_cache_use, layer by layer, as the router's picks become known
 *     between two   expert_cache_next: what was on its way has arrived, and up to `most` experts are
 *                   chosen to be copied while the next step runs
 *
 * The table changes in expert_cache_next alone, so CPU and GPU read the same one during a step: a pick
 * with a slot is a hit and the GPU's, one without is a miss and the CPU's. A slot that is being filled
 * belongs to nobody.
 *
 * Policy: the least recently used expert makes room, for one that has come back sooner than that one
 * has been waiting (or, for an empty slot, within EXPERT_CACHE_WINDOW steps). So an expert is never
 * admitted on its first use; a scan over more experts than there are slots leaves those that are there
 * alone, where plain LRU would lose them all and hit none. Steps of many tokens count hits but teach
 * nothing: they use every expert.
 *
 * The choice depends on the picks alone, never on time: same timeline, same table. */
#ifndef TANDEM_ENGINE_EXPERT_CACHE_H
#define TANDEM_ENGINE_EXPERT_CACHE_H

#include <stdint.h>

#include "src/base/error.h"

#define EXPERT_CACHE_WINDOW 64
#define EXPERT_CACHE_PER_LAYER 2 /* most moves of one layer in a step */

struct expert_cache;

struct expert_move {
    int layer, expert, slot;
};

struct expert_cache_counts {
    uint64_t n_picks, n_hits; /* of the router, in layers with slots */
    uint64_t n_moves;         /* experts copied into slots */
};

/* Slots may be as many as experts. ERR_FIT. */
bool expert_cache_open(struct expert_cache **out, int n_layers, int n_routed, int n_slots,
                       struct error *err);
void expert_cache_close(struct expert_cache *c); /* accepts NULL */

/* [n_layers, n_routed] slot of each expert, -1: none. */
const int32_t *expert_cache_table(const struct expert_cache *c);

/* Note n picks of one layer in this step; an expert may come more than once. With `learn` false they
 * are only counted. */
void expert_cache_use(struct expert_cache *c, int layer, const int32_t *ids, int n, bool learn);

/* Ends the step; moves [most]. Returns how many. *changed: the table is another one now. */
int expert_cache_next(struct expert_cache *c, struct expert_move *moves, int most, bool *changed);

void expert_cache_count(const struct expert_cache *c, struct expert_cache_counts *counts);

#endif
