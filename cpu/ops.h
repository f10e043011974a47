/* The small operations of the CPU device, as rows of struct device_ops: src/device.h says what
 * each computes. The large ones have headers of their own: matmul.h, attention.h, experts.h,
 * sparse.h. */
#ifndef TANDEM_CPU_OPS_H
#define TANDEM_CPU_OPS_H

#include "cpu/work.h"

/* ---- cpu/row_ops.c ---- */

void cpu_embed(struct device *d, struct rows dst, const struct weight *w);
void cpu_rmsnorm(struct device *d, struct rows dst, struct rows src,
                 const struct weight *weight, int n_groups, float eps);
void cpu_layernorm(struct device *d, struct rows dst, struct rows src,
                   const struct weight *weight, const struct weight *bias, float eps);
void cpu_router_topk(struct device *d, const struct router *r, struct rows scores);
bool cpu_read_choice(struct device *d, int32_t *ids, float *weights, struct error *err);
void cpu_swiglu(struct device *d, struct rows dst, struct rows gate, struct rows up);
void cpu_clamp(struct device *d, struct rows x, float low, float high);
void cpu_add(struct device *d, struct rows dst, struct rows a, struct rows b);
void cpu_add3(struct device *d, struct rows dst, struct rows a, struct rows b, struct rows c);
void cpu_copy(struct device *d, struct rows dst, struct rows src);

/* ---- cpu/position_ops.c ---- */

void cpu_rope(struct device *dev, struct rows x, const struct rope *rope, int n_heads,
              int64_t head_stride, int64_t offset);
void cpu_cache_gqa(struct device *d, struct kvcache *c, int layer, struct rows k,
                   struct rows v);
void cpu_cache_mla(struct device *d, struct kvcache *c, int layer, struct rows latent_rope);
void cpu_cache_index(struct device *d, struct kvcache *c, int layer, struct rows keys);

#endif
