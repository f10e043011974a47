/* GPU trunk with CPU experts.
 *
 * A hybrid holds a card and, in its memory, what the placement gives it: all of the trunk or some layers,
 * routed experts of whole layers, slots for others (src/engine/expert_store.h). The rest stays in main
 * memory. While it is open, weights on the card point to device memory. Per workspace a pair: the GPU's
 * device, whose experts_begin and experts_end are served here, and the CPU's working memory for them;
 * with part of the trunk on the CPU both under a split (src/engine/split.h).
 *
 * There are three ways of handing a layer's tokens to the CPU, with the same bits:
 *   stop      begin queues copies of hidden rows and picks and marks the queue, the forward pass goes
 *             on queueing the shared experts, end waits for the mark, computes on the CPU and queues the
 *             copy of the result
 *   callback  begin and end only queue, calls of the host among the rest: src/engine/handoff.h
 *   flags     the same by kernels that poll, in steps that were recorded; others go by callbacks
 * With callbacks and flags the device records steps of few tokens (src/device.h); under a split, where its
 * layers follow each other, its part of them. */
#ifndef TANDEM_ENGINE_HYBRID_H
#define TANDEM_ENGINE_HYBRID_H

#include "cpu/device_cpu.h"
#include "gpu/gpu.h"
#include "src/engine/engine.h"
#include "src/model/arch.h"

struct hybrid;
struct hybrid_pair;

/* Find card `o->gpu_index`. ERR_DEVICE: no library, no driver, no card. */
bool hybrid_open(struct hybrid **out, struct model *m, const struct engine_options *o,
                 struct error *err);
/* Copy to it what has a place there; the model is loaded, `p` borrowed until close. ERR_FIT: too little
 * memory. On failure the model is as before and only hybrid_close may follow. */
bool hybrid_load(struct hybrid *h, const struct placement *p, const struct engine_options *o,
                 struct error *err);
/* The layout of weights in main memory has changed. */
void hybrid_follow(struct hybrid *h);
/* The model's weights point to main memory again. Pairs that are open still may only be closed.
 * Accepts NULL. */
void hybrid_close(struct hybrid *h);
/* The same when the card has failed: queues of pairs that are open still may not have ended. */
void hybrid_leave(struct hybrid *h);

const struct gpu_info *hybrid_card(const struct hybrid *h);
uint64_t hybrid_weight_bytes(const struct hybrid *h); /* of device memory */
uint64_t hybrid_expert_bytes(const struct hybrid *h); /* of device memory, for slots */
/* Of device memory, now, that we may take. The card's errors. */
bool hybrid_free_bytes(const struct hybrid *h, uint64_t *bytes, struct error *err);
/* To who asks for details: what the card has given by now, by others too, beside what was planned. */
void hybrid_tell_memory(const struct hybrid *h);
int hybrid_first_layer(const struct hybrid *h);       /* layers from here on are the card's */
bool hybrid_report(const struct hybrid *h, struct expert_report *r);
bool hybrid_drafts(const struct hybrid *h);   /* the block for multi-token prediction has a place */
bool hybrid_is_split(const struct hybrid *h); /* the CPU has part of the trunk: with the head, the block */

/* Device memory for steps within these sizes, as known before there is a hybrid: the library is loaded. */
uint64_t hybrid_work_bytes(const struct model *m, const struct device_cpu_options *o);

/* How it hands experts to the CPU, and what was measured to choose that; HANDOFF_AUTO: there are none. */
enum handoff_way hybrid_handoff(const struct hybrid *h, struct handoff_rates *rates);
/* If experts are computed by a thread of its own: that may run where the caller may from now on. True:
 * the caller itself has nothing to compute. */
bool hybrid_take_seat(struct hybrid *h);

/* A device for steps within these sizes, and its share of device memory. */
uint64_t hybrid_pair_bytes(struct hybrid *h, const struct device_cpu_options *o);
bool hybrid_pair_open(struct hybrid_pair **out, struct hybrid *h,
                      const struct device_cpu_options *o, struct error *err);
void hybrid_pair_close(struct hybrid_pair *p); /* accepts NULL */
struct device *hybrid_pair_device(struct hybrid_pair *p);
/* The device of the block for multi-token prediction: the card's, or under a split the CPU's, which finds
 * the same activations where they lie in main memory. Between steps only, and once settled: nobody
 * computes there for an earlier step. ERR_DEVICE, ERR_RUN: somebody does yet. */
struct device *hybrid_pair_draft_device(struct hybrid_pair *p);
bool hybrid_pair_settle(struct hybrid_pair *p, struct error *err);
/* The activations that were allocated from that device. */
void hybrid_pair_watch(struct hybrid_pair *p, const struct activations *a);
/* The next block is a cache of n_ctx positions. */
void hybrid_pair_expect_cache(struct hybrid_pair *p, enum tensor_type type, int64_t n_ctx);

#endif
