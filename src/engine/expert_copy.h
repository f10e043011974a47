/* Routed experts copied one by one to memory laid out for a GPU: rows as in the file, whatever the
 * layout in main memory is (woven, split over memory nodes).
 *
 *     slots    gate 0 | gate 1 | ... || up 0 | up 1 | ... || down 0 | down 1 | ...     gpu_experts' form
 *     one      gate | up | down                                                        on its way there
 *
 * With gate and up in one tensor, that stands where gate does and there is no up. */
#ifndef TANDEM_ENGINE_EXPERT_COPY_H
#define TANDEM_ENGINE_EXPERT_COPY_H

#include "gpu/gpu.h"

/* Bytes of one expert, and of a block of n_slots. */
size_t expert_copy_bytes(const struct experts *e);
size_t expert_slots_bytes(const struct experts *e, int n_slots);

/* Experts like e whose matrices are n_slots slots in device memory at `block`. */
struct experts expert_slots_at(const struct experts *e, int n_slots, void *block);

/* Expert `id` of e, in one piece; to [expert_copy_bytes]. */
void expert_copy_take(const struct experts *e, int id, void *to);

/* Queue the copies of such a piece to slot `slot`; `from` stays until they are done. */
void expert_copy_queue(const struct gpu_launchers *gpu, struct gpu_stream *s,
                       const struct experts *slots, int slot, const void *from);

#endif
