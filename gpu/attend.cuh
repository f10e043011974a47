/* Attention of query rows over rows of keys and values: what GQA and both forms of MLA share.
 *
 * A query row is one head of one token. The `group` heads that share keys lie in the same tile, tokens
 * one after the other, so a tile of rows reads each key once. The positions are cut into splits that
 * different blocks look after; each leaves the sum of its weighted values, the largest score and the
 * sum of its weights (Milakov and Gimelshein 2018; Dao et al. 2023), and attend_merge adds them in
 * order. A later call may carry on from what an earlier one left: positions in several chunks. */
#ifndef TANDEM_GPU_ATTEND_CUH
#define TANDEM_GPU_ATTEND_CUH

#include "gpu/common.cuh"

#define ATTEND_SPLITS 128 /* most pieces of the positions */

/* A key is `key` elements of k and `tail` elements of k_tail (0: none). All distances in elements;
 * cache rows stand for positions first, first + 1, ... */
struct attend {
    const float *q;
    int64_t q_stride, q_head; /* of the next token, of the next head */
    const void *k, *k_tail, *v;
    int64_t k_stride, k_head, tail_stride, v_stride, v_head; /* head: of the next kv head */
    int key, tail, value;
    int n_heads, group; /* query heads, and how many share a kv head */
    int n_tokens;
    float scale;
    int64_t first, n_positions, per_split;
    float *sums;   /* [splits, n_tokens * n_heads, value] */
    float *states; /* [splits, n_tokens * n_heads, 2] largest score, sum of weights */
    bool carry;
    const struct gpu_step *step;
    /* Not NULL: token t sees rows ids[t * most .. ] of the cache, n_ids[t] of them, as positions
     * 0, 1, ...; all heads share keys then (group == n_heads), and a tile holds heads of one token. */
    const int32_t *ids, *n_ids;
    int most;
};

/* Bytes of sums and states, whatever the tokens of a step. */
size_t attend_scratch(const struct gpu_limits *l);

/* Set sums and states into `scratch` and choose how many splits serve n_positions of `type`; with
 * one_split the caller carries on from chunk to chunk. */
int attend_splits(const struct gpu_stream *s, struct attend *a, enum tensor_type type,
                  void *scratch, bool one_split);

/* One chunk of positions, elements of `type`. A query of token t sees positions up to n_past + t. */
void attend_run(struct gpu_stream *s, const struct attend *a, enum tensor_type type, int n_splits);

/* dst[t * dst_stride + h * value ...] = weighted values over all splits, divided by the weights. */
void attend_merge(struct gpu_stream *s, const struct attend *a, int n_splits, float *dst,
                  int64_t dst_stride);

#endif
