/* What V3.2 and V4 need beside the usual operations: hyper-connections, rows that sum up blocks of
 * positions, the indexer, attention over a window and blocks. src/device.h says what each computes;
 * everything here runs in F32 except for what the cache holds. */
#ifndef TANDEM_CPU_SPARSE_H
#define TANDEM_CPU_SPARSE_H

#include "cpu/work.h"

/* cpu/hyper.c */
void hyper_run_mix(struct device_cpu *d, struct rows dst, struct rows mix, struct rows hidden,
                   const struct hyper *h);
void hyper_run_join(struct device_cpu *d, struct rows hidden, struct rows mix, struct rows out);

/* Turn the mix of one token, already divided by the root mean square, into pre [n], post [n] and
 * C [n, n]; post and C are not written when there is only pre (h->base.cols == n). */
void hyper_gates(const struct hyper *h, const float *mix, float *pre, float *post, float *c);

/* cpu/compress.c */
void compress_run(struct device_cpu *d, struct kvcache *c, int layer, struct rows values,
                  struct rows scores, const struct compressor *k);

/* cpu/index_bytes.c: keys and queries of the indexer in bytes. */

_Static_assert(INDEX_KEY_MAX <= INDEX_MAX_DIM, "the kernels take every key");

/* Turn x [dim] by Hadamard matrices, in place, and put it into bytes; returns their scale. */
float index_to_bytes(float *x, int dim, int8_t *bytes);
/* Queries of `n` tokens from token `first` of the step on, laid out for the kernel, with weights and
 * sums; q[t] is what the kernel takes for token first + t. */
void index_encode(struct device_cpu *d, const struct indexer *x, struct rows queries,
                  struct rows weights, int first, int n, struct index_query *q);
/* This step's keys into the cache. */
void index_store(struct device_cpu *d, const struct kv_sparse *s, struct rows keys);

/* cpu/indexer.c: leaves its choice in d->selection. */
void indexer_run(struct device_cpu *d, struct rows queries, struct rows weights,
                 const struct kvcache *c, int layer, const struct indexer *x);

/* The min(top_k, n) best of n scores, in ascending order of index; among equal scores the lower index
 * wins, and what is not a number is worst. Returns how many. scratch [room] is best of several times
 * top_k: what a sample of the scores makes likely is looked at alone then, with the same result. */
int select_best(const float *scores, int64_t n, int top_k, int32_t *ids, float *scratch,
                int64_t room);

/* cpu/attention_window.c */
void attention_run_window(struct device_cpu *d, struct rows dst, struct rows q, struct rows row,
                          struct kvcache *c, int layer, const struct window_attention *a);

#endif
