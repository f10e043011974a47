/* Routed experts in spare VRAM, filled by use while steps run.
 *
 * Of every mixture layer whose experts are in main memory, n_slots are kept in device memory as well.
 * Which ones is decided between steps (src/engine/expert_cache.h); a thread of its own takes the chosen
 * ones from main memory, through two pinned buffers, on a queue of its own, while the next step runs.
 * So a step never waits for an expert, and CPU and GPU read the same table all through it:
 *
 *     expert_store_begin    a step begins: what was copied is there now, the next copies start
 *     expert_store_divide   on the CPU, as soon as a layer's picks are known: its own part of them
 *     expert_store_queue    on the GPU: its part, by the same table in device memory
 *
 * Every pick is computed once, by one of the two. */
#ifndef TANDEM_ENGINE_EXPERT_STORE_H
#define TANDEM_ENGINE_EXPERT_STORE_H

#include "src/engine/engine.h"
#include "src/model/arch.h"
#include "gpu/gpu.h"

struct expert_store;

struct expert_store_options {
    const struct gpu_library *library;
    int index;                    /* of the card */
    const struct model *model;    /* borrowed; weights at their addresses, woven or not */
    const struct placement *placement;
    int moves;                    /* experts copied per step at most */
};

/* *out is NULL when the placement has no slots. ERR_FIT, ERR_DEVICE. */
bool expert_store_open(struct expert_store **out, const struct expert_store_options *o,
                       struct error *err);
void expert_store_close(struct expert_store *s); /* accepts NULL */
uint64_t expert_store_bytes(const struct expert_store *s); /* of device memory; of NULL: 0 */

/* The weights of the model have moved or changed their layout: look at them anew. */
void expert_store_follow(struct expert_store *s);

/* Has this layer slots? Of NULL: no. */
bool expert_store_serves(const struct expert_store *s, int layer);

/* Queue what a step needs before anything else, and start copying beside it. ERR_DEVICE: copying has
 * failed. */
bool expert_store_begin(struct expert_store *s, struct gpu_stream *queue, struct error *err);

/* mine [n_tokens, top_k] = ids, -1 for those that the GPU computes. Layers with slots only. */
void expert_store_divide(struct expert_store *s, int layer, const int32_t *ids, int n_tokens,
                         int32_t *mine);

/* Queue the GPU's part of a layer with slots: dst = sum over its picks; arguments as gpu_experts. */
void expert_store_queue(struct expert_store *s, struct gpu_stream *queue, int layer,
                        struct rows dst, struct rows src, const int32_t *ids, const float *weights,
                        int n_tokens);

/* Adds to the report what the store knows. */
void expert_store_report(const struct expert_store *s, struct expert_report *r);

#endif
