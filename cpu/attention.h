/* Causal attention over the cache. Scores, softmax and sums in F32, whatever the cache holds; with
 * F16 in the cache and hardware for it, the operands of products are rounded to BF16.
 *
 * Keys are visited in blocks of KEY_BLOCK positions; each query keeps a running maximum, a running
 * sum and its weighted values, rescaled when the maximum grows (Milakov and Gimelshein, "Online
 * normalizer calculation for softmax", 2018).
 *
 * Many tokens (prefill): a tile of queries meets each block in two matrix products.
 * Few tokens (decode): the cache is cut into pieces whose length depends on its fill only, workers
 * attend to pieces, and these are merged in order; so bits do not depend on the thread count. */
#ifndef TANDEM_CPU_ATTENTION_H
#define TANDEM_CPU_ATTENTION_H

#include "cpu/work.h"

void attention_run_gqa(struct device_cpu *d, struct rows dst, struct rows q,
                       const struct kvcache *c, int layer, int n_heads, int n_kv_heads,
                       int head_dim, float scale);
void attention_run_mla(struct device_cpu *d, struct rows dst, struct rows q,
                       const struct kvcache *c, int layer, const struct mla *m);

/* Which form costs fewer multiplications for n_tokens new tokens that see n_past + n_tokens
 * positions; never MLA_AUTO. */
enum mla_form attention_mla_form(const struct mla *m, int n_tokens, int64_t n_past);

#endif
