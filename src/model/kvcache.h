/* Memory of a session's past: sizes and allocation of struct kvcache (src/device.h).
 *
 * One position of V3 holds 576 elements per layer (latent 512 and rotary key 64) where keys and
 * values of 128 heads would be 40960; that is what makes long contexts affordable.
 * The elements of all layers lie in one block of device memory. A zeroed struct is closed. */
#ifndef TANDEM_MODEL_KVCACHE_H
#define TANDEM_MODEL_KVCACHE_H

#include "src/model/arch.h"

/* Elements of `type` (TYPE_F16 or TYPE_F32) for n_ctx positions of all main layers. UINT64_MAX when
 * the product does not fit. */
uint64_t kvcache_bytes(const struct arch *arch, const struct params *p, enum tensor_type type,
                       int64_t n_ctx);

/* The part of one layer; the sum over layers is kvcache_bytes. */
uint64_t kvcache_layer_bytes(const struct arch *arch, const struct params *p, enum tensor_type type,
                             int64_t n_ctx, int layer);

bool kvcache_open(struct kvcache *c, const struct arch *arch, const struct params *p,
                  enum tensor_type type, int64_t n_ctx, struct device *d, struct error *err);
void kvcache_close(struct kvcache *c, struct device *d);

#endif
