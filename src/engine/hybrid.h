/* GPU trunk with CPU experts.
 *
 * A hybrid holds a card and the trunk's weights in its memory; the routed experts stay in main memory.
 * While it is open, the model's trunk weights point to device memory. Per workspace a pair: the GPU's
 * device, whose experts_begin and experts_end are served here, and the CPU's working memory for them.
 *
 * There are two ways of handing a layer's tokens to the CPU, with the same bits:
 *   stop      begin queues copies of hidden rows and picks and marks the queue, the forward pass goes
 *             on queueing the shared experts, end waits for the mark, computes on the CPU and queues the
 *             copy of the result
 *   callback  begin and end only queue, calls of the host among the rest: src/engine/handoff.h */
#ifndef TANDEM_ENGINE_HYBRID_H
#define TANDEM_ENGINE_HYBRID_H

#include "cpu/device_cpu.h"
#include "gpu/gpu.h"
#include "src/engine/engine.h"
#include "src/model/arch.h"

struct hybrid;
struct hybrid_pair;

/* Find card `o->gpu_index` and copy the trunk to it. ERR_DEVICE: no library, no driver, no card; ERR_FIT:
 * too little memory there. On failure the model is as before. */
bool hybrid_open(struct hybrid **out, struct model *m, const struct engine_options *o,
                 struct error *err);
/* The model's weights point to main memory again. Pairs that are open still may only be closed.
 * Accepts NULL. */
void hybrid_close(struct hybrid *h);

const struct gpu_info *hybrid_card(const struct hybrid *h);
uint64_t hybrid_weight_bytes(const struct hybrid *h); /* of device memory */
uint64_t hybrid_free_bytes(const struct hybrid *h);   /* of device memory, now */

/* A device for steps within these sizes, and its share of device memory. */
uint64_t hybrid_pair_bytes(const struct hybrid *h, const struct device_cpu_options *o);
bool hybrid_pair_open(struct hybrid_pair **out, struct hybrid *h,
                      const struct device_cpu_options *o, struct error *err);
void hybrid_pair_close(struct hybrid_pair *p); /* accepts NULL */
struct device *hybrid_pair_device(struct hybrid_pair *p);

#endif
