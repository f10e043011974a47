/* Memory of a session's past: what struct kvcache (src/device.h) consists of, its size, allocation,
 * and copies to the host and back.
 *
 * One position of V3 holds 576 elements per layer (latent 512 and rotary key 64) where keys and
 * values of 128 heads would be 40960; that is what makes long contexts affordable.
 * The parts of all layers lie in one block of device memory. A zeroed struct is closed. */
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

/* A part by name; NULL: this layer has none of it. */
const struct cache_part *kvcache_part(const struct kvcache *c, int layer, const char *name);

/* ---- copies ---- */

/* What positions from .. to - 1 have added to a part, once the cache holds `to` positions: n units,
 * counted from `first`. A unit is a row; of a ring, the row of a position. What is added by
 * 0 .. a and a .. b is together what is added by 0 .. b, except that of a ring only the latest
 * positions can be had, and a state is always whole. */
struct cache_range {
    int64_t first, n;
};
struct cache_range cache_part_added(const struct cache_part *part, int64_t from, int64_t to);

/* Copy n units to or from host memory [n, row_bytes]. The device's errors. */
bool cache_part_read(const struct cache_part *part, struct device *d, int64_t first, int64_t n,
                     void *rows, struct error *err);
bool cache_part_write(const struct cache_part *part, struct device *d, int64_t first, int64_t n,
                      const void *rows, struct error *err);

/* For measuring behind a long context without reading it: rows of positions n_real .. n - 1 become
 * copies of rows that the first n_real positions left, in an order that looks random; rings and states
 * stay as they are. The device's errors, ERR_FIT. */
bool kvcache_repeat(const struct kvcache *c, struct device *d, int64_t n_real, int64_t n,
                    struct error *err);

#endif
