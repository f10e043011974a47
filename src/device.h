/* The seam: what a forward pass may ask of a device.
 *
 * src/arch writes each model's forward pass once, in these operations; cpu/ implements all of them,
 * gpu/ the trunk, src/engine pairs the two. Rules:
 *
 *   - Activations are `struct rows`: float rows in device memory, one row per token of the step.
 *     Nobody above the seam dereferences them; dev_read copies to the host.
 *   - Operations take no position, cache length or expert pick as a host value. These live in
 *     `struct step`, which dev_begin hands to the device once per step. (The number of tokens is a
 *     launch dimension and may be used anywhere.)
 *   - Operations return nothing and cannot fail on the CPU; a device that can fail remembers its
 *     first error and dev_end reports it.
 *   - Operations of one step run as if in order. Only experts_begin .. experts_end may overlap with
 *     what stands between them.
 *   - dst may be the same rows as src where the text says "in place ok". */
#ifndef TANDEM_DEVICE_H
#define TANDEM_DEVICE_H

#ifdef __cplusplus /* gpu/ reads this file as C++ */
#include <atomic>
using std::atomic_int;
#else
#include <stdatomic.h>
#endif
#include <stdint.h>

#include "src/base/error.h"
#include "src/format/tensor.h"

/* [n_tokens, width] floats, `stride` floats from row to row. A view of columns is a shifted data
 * pointer with the same stride. */
struct rows {
    float *data;
    int64_t width, stride;
};

/* A weight where the device reads it: `n_matrices` matrices of [rows, cols], y = W x. Rows are
 * contiguous blocks of `type`. Vectors (norms, biases) are F32 with rows = 1. data == NULL: the
 * model does not have this weight.
 *
 * Routed experts may be split by rows over the memory of NUMA nodes: part_rows > 0 says that rows
 * [p * part_rows, (p + 1) * part_rows) of every matrix lie in part p, which is laid out like a weight
 * of its own and begins p * part_bytes behind data. Fused gate_up: its two halves are split each. */
struct weight {
    const void *data;
    enum tensor_type type;
    int64_t cols, rows, n_matrices;
    size_t row_bytes, matrix_bytes; /* distances; matrix_bytes may exceed rows * row_bytes */
    int64_t part_rows;              /* 0: not split */
    size_t part_bytes;
    bool woven;                     /* rows lie sixteen together: src/format/weave.h */
    const char *name;               /* of the tensor, borrowed from the file */
};

/* Where row `row` of matrix `matrix` lies. */
static inline const void *weight_at(const struct weight *w, int64_t matrix, int64_t row)
{
    const char *part = (const char *)w->data;
    if (w->part_rows > 0) {
        part += (size_t)(row / w->part_rows) * w->part_bytes;
        row %= w->part_rows;
    }
    return part + (size_t)matrix * w->matrix_bytes + (size_t)row * w->row_bytes;
}

/* Behind which row part p of each matrix ends. */
static inline int64_t weight_part_end(const struct weight *w, int part)
{
    int64_t end = (part + 1) * w->part_rows;
    return w->part_rows > 0 && end < w->rows ? end : w->rows;
}

/* Which dimensions a rotation pairs: (2i, 2i+1) or (i, i + n_rot/2). */
enum rope_pairing { ROPE_NORM, ROPE_NEOX };

#define ROPE_MAX_PAIRS 1024

/* Angle of pair i at position p: p * frequency[i] (all scaling is in the frequencies, computed in
 * double); cos and sin are multiplied by magnitude. */
struct rope {
    enum rope_pairing pairing;
    int n_rot;
    float magnitude;
    double frequency[ROPE_MAX_PAIRS];
};

/* One array of a cache, in device memory. Which ones there are is the architecture's matter (struct
 * arch, src/model/arch.h); from this table caches are sized, laid out, kept in files and restored. */
enum cache_kind {
    CACHE_ROWS,  /* row r stands for positions r * span .. r * span + span - 1, and stays as it is once
                  * they have all been seen */
    CACHE_RING,  /* row p % n_rows stands for position p: only the latest n_rows are there */
    CACHE_STATE, /* all rows belong to the present number of positions, and change with each */
};

struct cache_part {
    const char *name; /* "latent", "k", "v", ...: unlike the others of its layer */
    int layer;
    enum cache_kind kind;
    size_t row_bytes;
    int64_t n_rows;   /* room */
    int span;         /* CACHE_ROWS: positions to a row */
    int lag;          /* CACHE_ROWS: so many further positions complete a row */
    char *data;       /* row 0 */
};

/* What one layer keeps for sparse attention: the parts of these names, NULL where there are none. A
 * *block* is `ratio` positions in a row, summed up in one row of the cache when the last of them is
 * computed. Rings hold the latest positions: p lies in row p % n.
 *   index        [n_ctx / ratio, index_dim] keys of the indexer: floats in a cache of F32, else bytes
 *   index_scale  [n_ctx / ratio] F32: a key is so many times its bytes, after a rotation (below)
 *   window       [n_window, head_dim] ring of rows that are key and value in one, in the cache's type
 *   blocks       [n_ctx / ratio, head_dim] of blocks, likewise
 *   state        [n_state, 2, width] ring: what the compressor still needs of single positions,
 *                values and then scores, F32; width 2 * head_dim where blocks overlap
 *   index_state  the same of the indexer's compressor */
struct kv_sparse {
    void *index, *window, *blocks;
    float *index_scale; /* NULL: the keys are floats */
    float *state, *index_state;
    int64_t n_window, n_state;
};

/* Keys and values of all layers of one session, on one device.
 *   GQA: per layer k [n_ctx, n_kv_heads * head_dim] and v likewise
 *   MLA: per layer latent [n_ctx, rank + rope]: normalised latent first, rotated k_rope behind it
 *   V4:  per layer what struct kv_sparse says; k and v are not used
 * Elements are F16 (fast) or F32. */
struct kvcache {
    enum tensor_type type;
    int n_layers;
    int64_t n_ctx;
    int64_t k_width, v_width; /* elements per position; v_width 0 for MLA */
    void **k, **v;            /* [n_layers] device memory */
    struct kv_sparse *sparse; /* [n_layers] */
    size_t bytes;             /* all layers together */
    uint64_t id;              /* never given to another cache */
    int64_t newest;           /* for arch->cache_rewind: positions that rings held before a step back */
    struct cache_part *parts; /* [n_parts] of layer 0, then 1, ...: all of it; k and v point there */
    int n_parts;
};

/* What the router does with its scores. Sources: DeepSeek-V2 and V3 reports; for V4 (square root of
 * softplus, experts by token id) its published inference code. */
struct router {
    enum { ROUTER_SOFTMAX = 1, ROUTER_SIGMOID = 2, ROUTER_SQRT_SOFTPLUS = 4 } scoring;
    int n_routed, top_k;
    int n_groups, n_groups_used;          /* n_groups <= 1: no groups */
    enum { GROUP_MAX, GROUP_TOP2_SUM } group_score;
    bool normalize;                       /* weights divided by their sum */
    float normalize_floor;                /* lower bound of that sum: 6.1035e-5 as llama.cpp, or 0 (+1e-20) */
    float scale;                          /* weights multiplied by this, 1: no change */
    struct weight bias;                   /* [n_routed] added for choosing only; data NULL: none */
    struct weight table;                  /* I32 [n_vocab, top_k]: the picks of each token id, checked
                                             at load; data NULL: the scores choose */
};

/* Routed experts of one layer: [n_routed] matrices each. Either gate and up, or gate_up with the
 * rows of gate first. down.cols == expert_size. */
struct experts {
    struct weight gate, up, gate_up, down;
    int n_routed, top_k;
    int64_t expert_size;
    float limit; /* before silu: gate at most this, up between -limit and limit; 0: no limit */
    uint32_t *n_picked; /* [n_routed]: how often each was chosen; counted where picks pass through the
                           host anyway (experts_count); NULL: nobody counts */
};

/* Count picks that have come to the host; -1: none. */
static inline void experts_count(const struct experts *e, const int32_t *ids, int64_t n)
{
    for (int64_t i = 0; e->n_picked && i < n; i++)
        if (ids[i] >= 0)
            e->n_picked[ids[i]]++;
}

struct mla {
    int n_heads, nope, rope, value, rank; /* dn, dr, dv per head; kv_lora_rank */
    float scale;                          /* of the scores, YaRN factor included */
    int n_selected;     /* V3.2: attend to those positions only that the last indexer_topk, of as many
                           at most, selected; 0: to all */
    struct weight k_b;  /* n_heads matrices [rank, nope]: absorbed query = k_b q_nope */
    struct weight v_b;  /* n_heads matrices [value, rank] */
};

/* How the residual streams of hyper-connections are mixed (mHC, arXiv 2512.24880, as V4 computes it).
 * With mix [n * (2 + n)] of a token, n streams X, and m' = mix * scale + base (one scale for each of
 * the three parts):
 *     pre[i]  = sigmoid(m'[i]) + eps       post[i] = 2 sigmoid(m'[n + i])
 *     C[j][k] = Sinkhorn of m'[2n + n j + k]: softmax over k, plus eps; then columns and rows are
 *               divided by their sums (plus eps) in turn, n_passes of each, columns last, the softmax
 *               counting as the first pass over rows
 * With mix [n], at the end of the model, there is only pre. */
struct hyper {
    int n_streams, n_passes;
    float eps, rms_eps;
    struct weight scale, base; /* F32 [3], [n * (2 + n)]; at the end [1], [n] */
};

/* Blocks of positions as one row each (V4). Per position p, with x its normalised hidden state:
 *     value = W_kv x     score = W_gate x + ape[p % ratio]          [width]
 * A row's element k is a mean of values, weighted by the softmax of the scores over the block's
 * positions, each k by itself. Where blocks overlap, width is twice `dim`: a block then sums up the
 * second halves of its own positions and the first halves of those of the block before it.
 * The row is normalised (norm) and its last rope->n_rot elements are rotated as at the block's first
 * position. */
struct compressor {
    int ratio, dim;
    bool overlaps, of_index; /* of_index: fills kv_sparse.index, else kv_sparse.blocks */
    struct weight ape, norm; /* F32 [ratio, width], [dim] */
    const struct rope *rope;
    float rms_eps;
};

/* The indexer (V3.2, V4): which cached rows a token attends to. With the token's queries q_h and head
 * weights w, row s (a position, or a block of `ratio` of them) scores
 *     I[s] = sum over h of w_h * max(0, q_h . key_s)
 * and the top_k best of those complete at the token's position are selected, fewer when there are
 * fewer; among equal scores the earlier. Constant factors of I do not matter. (With few heads many
 * rows score exactly 0.)
 *
 * Keys in bytes: queries and keys are both multiplied by a Hadamard matrix first, which changes no
 * product and spreads a single large element over all, so that one scale serves a vector:
 *     x' = H x / sqrt(n), in blocks of n, the largest power of two that divides dim
 *     byte = x' / scale to nearest, halves away from 0      scale = max |x'| / 127
 * dim is a multiple of 4 then. A vector with an element that is no finite number has scale NaN. */
#define INDEX_KEY_MAX 1024 /* elements: then products of whole vectors of bytes are exact as floats */
struct indexer {
    int n_heads, dim, top_k;
    int ratio; /* positions per key: 1 in V3.2 */
    bool heap_ties; /* among equal scores those that a partial sort by a heap leaves in front, as
                       llama.cpp does; the CPU alone can */
};

/* Attention of V4: one row per position (or block) is key and value of all heads. A query sees the
 * `window` latest positions, its own among them, and of the complete blocks all, or those selected by
 * the last indexer_topk. One softmax per head over all of these and a sink, a score without a value. */
struct window_attention {
    int n_heads, head_dim, window;
    int ratio;     /* positions per block; 0: there are none */
    bool selected;
    float scale;
    struct weight sinks; /* F32 [n_heads] */
};

/* How latent attention computes: from the latents (absorbed) or from expanded keys and values. */
enum mla_form { MLA_AUTO, MLA_ABSORBED, MLA_DECOMPRESSED };

/* One call of forward: n_tokens tokens at positions n_past .. n_past + n_tokens - 1. */
struct step {
    const int32_t *tokens; /* host [n_tokens] */
    int n_tokens;
    int64_t n_past;
    int n_logits;     /* logits are wanted for the last n_logits tokens */
    float *logits;    /* host [n_logits, n_vocab]; NULL when n_logits is 0 */
    struct kvcache *cache;
    enum mla_form mla_form;
    bool repeats; /* with the same n_tokens, n_logits, mla_form and cache forward does the same */
    const atomic_int *cancel; /* non-zero, then constant: stop soon. A device may leave any operation
                                 half done; forward looks behind the last one. NULL: never */
};

/* Weights used where the file is mapped, or copied; LOAD_DIRECT copies past the page cache. */
enum load_mode { LOAD_AUTO, LOAD_MMAP, LOAD_COPY, LOAD_DIRECT };

struct device;

struct device_ops {
    const char *name;

    /* Memory of the device. alloc: zeroed, 64-byte aligned, or NULL and ERR_FIT. */
    void *(*alloc)(struct device *d, size_t bytes, const char *what, struct error *err);
    void (*release)(struct device *d, void *block);
    bool (*write)(struct device *d, void *dst, const void *src, size_t bytes, struct error *err);
    bool (*read)(struct device *d, void *dst, const void *src, size_t bytes, struct error *err);

    /* Per step. end waits for everything and reports the first error since begin. */
    void (*begin)(struct device *d, const struct step *s);
    bool (*end)(struct device *d, struct error *err);

    /* NULL: this device does not record. Between begin and end: replay says that it knows this step from
     * a record and has queued all of it, so that forward is not to be called. Behind end: record says
     * that the next call of forward, with the same step, shall be recorded and run nothing; then
     * recorded, with what forward returned. False: no record was made, for a reason to be shown to who
     * asks for details. */
    bool (*replay)(struct device *d);
    bool (*record)(struct device *d);
    bool (*recorded)(struct device *d, bool ok, struct error *err);

    /* dst[t] = row tokens[t] of w, as floats. */
    void (*embed)(struct device *d, struct rows dst, const struct weight *w);

    /* Each row is n_groups pieces of weight->cols elements, normalised one by one:
     * dst = src / sqrt(mean(src^2) + eps) * weight; weight->data NULL: without it. In place ok. */
    void (*rmsnorm)(struct device *d, struct rows dst, struct rows src, const struct weight *weight,
                    int n_groups, float eps);

    /* dst = (src - mean(src)) / sqrt(variance(src) + eps) * weight + bias. In place ok. */
    void (*layernorm)(struct device *d, struct rows dst, struct rows src,
                      const struct weight *weight, const struct weight *bias, float eps);

    /* dst[t, r] = sum_c w[r, c] src[t, c] (+ bias[r]); w has one matrix; bias may be NULL. */
    void (*matmul)(struct device *d, struct rows dst, const struct weight *w, struct rows src,
                   const struct weight *bias);

    /* Rotate n_heads vectors per row in place: head h starts at column h * head_stride + offset. */
    void (*rope)(struct device *d, struct rows x, const struct rope *rope, int n_heads,
                 int64_t head_stride, int64_t offset);

    /* Store this step's keys and values at its positions. For MLA: latent_rope is [rank + rope]
     * wide, normalised and rotated already. */
    void (*cache_gqa)(struct device *d, struct kvcache *c, int layer, struct rows k, struct rows v);
    void (*cache_mla)(struct device *d, struct kvcache *c, int layer, struct rows latent_rope);
    /* The same of keys of the indexer, rotated already, into kv_sparse.index (V3.2). */
    void (*cache_index)(struct device *d, struct kvcache *c, int layer, struct rows keys);

    /* Causal attention of this step's queries over the cache, this step included.
     *   gqa: q [n_heads * head_dim], dst likewise; head h reads kv head h / (n_heads / n_kv_heads)
     *   mla: q [n_heads * (nope + rope)], nope first in each head; dst [n_heads * value] */
    void (*attention_gqa)(struct device *d, struct rows dst, struct rows q, const struct kvcache *c,
                          int layer, int n_heads, int n_kv_heads, int head_dim, float scale);
    void (*attention_mla)(struct device *d, struct rows dst, struct rows q, const struct kvcache *c,
                          int layer, const struct mla *m);

    /* dst = silu(gate) * up, silu(z) = z / (1 + e^-z). In place ok. gate and up are not to be read
     * again: a device may have made dst without writing them. */
    void (*swiglu)(struct device *d, struct rows dst, struct rows gate, struct rows up);

    /* x = min(max(x, low), high). */
    void (*clamp)(struct device *d, struct rows x, float low, float high);

    /* Hyper-connections: hidden holds n_streams streams [hidden_size] side by side, mix what
     * struct hyper says. mix: dst = sum of pre[i] * X[i]; mix is overwritten with post and C (a
     * sublayer's). Before that it is divided by the root mean square of all of hidden.
     * join: X[k] = post[k] * out + sum over j of C[j][k] * X[j]. */
    void (*hyper_mix)(struct device *d, struct rows dst, struct rows mix, struct rows hidden,
                      const struct hyper *h);
    void (*hyper_join)(struct device *d, struct rows hidden, struct rows mix, struct rows out);

    /* Write the rows of all blocks that this step completes, from its values and scores (raw,
     * overwritten) and what the layer's state holds of earlier positions; then keep what later
     * blocks need. */
    void (*compress)(struct device *d, struct kvcache *c, int layer, struct rows values,
                     struct rows scores, const struct compressor *k);

    /* Select rows for each token. queries [n_heads * dim], weights [n_heads]. The selection stays on
     * the device until the next call. */
    void (*indexer_topk)(struct device *d, struct rows queries, struct rows weights,
                         const struct kvcache *c, int layer, const struct indexer *x);

    /* q [n_heads * head_dim], dst likewise, in place ok; `row` [head_dim] are this step's rows,
     * rotated: rounded to the cache's type, attended to, and kept in kv_sparse.window. Blocks that
     * this step completed are there already. */
    void (*attention_window)(struct device *d, struct rows dst, struct rows q, struct rows row,
                             struct kvcache *c, int layer, const struct window_attention *a);

    /* Choose experts for each token from scores [n_routed] (raw router output, overwritten). The
     * choice stays on the device until the next call; experts_begin uses it. Equal scores favour
     * the lower id; picks come best first. */
    void (*router_topk)(struct device *d, const struct router *r, struct rows scores);

    /* dst = sum over the chosen experts of weight * down(silu(gate src) * up src). begin may return
     * before the work is done and must have read src when experts_end returns; end fills dst. */
    void (*experts_begin)(struct device *d, const struct experts *e, struct rows src);
    void (*experts_end)(struct device *d, struct rows dst);

    void (*add)(struct device *d, struct rows dst, struct rows a, struct rows b);
    void (*add3)(struct device *d, struct rows dst, struct rows a, struct rows b, struct rows c);
    /* copy also between steps: rows of the last one; what fails is then reported by the next. */
    void (*copy)(struct device *d, struct rows dst, struct rows src);

    /* Host logits of the step's last n_logits tokens: step.logits = w src. */
    void (*logits)(struct device *d, const struct weight *w, struct rows src);

    /* The picks of the last router_topk: ids and weights [n_tokens, top_k] to the host. */
    bool (*read_choice)(struct device *d, int32_t *ids, float *weights, struct error *err);

    void (*close)(struct device *d);
};

/* Every device begins with this. */
struct device {
    const struct device_ops *ops;
};

/* The calls, so that a forward pass reads like the paper. */
static inline void embed(struct device *d, struct rows dst, const struct weight *w)
{
    d->ops->embed(d, dst, w);
}
static inline void rmsnorm(struct device *d, struct rows dst, struct rows src,
                           const struct weight *weight, int n_groups, float eps)
{
    d->ops->rmsnorm(d, dst, src, weight, n_groups, eps);
}
static inline void layernorm(struct device *d, struct rows dst, struct rows src,
                             const struct weight *weight, const struct weight *bias, float eps)
{
    d->ops->layernorm(d, dst, src, weight, bias, eps);
}
static inline void matmul(struct device *d, struct rows dst, const struct weight *w,
                          struct rows src, const struct weight *bias)
{
    d->ops->matmul(d, dst, w, src, bias);
}
static inline void rope(struct device *d, struct rows x, const struct rope *r, int n_heads,
                        int64_t head_stride, int64_t offset)
{
    d->ops->rope(d, x, r, n_heads, head_stride, offset);
}
static inline void cache_gqa(struct device *d, struct kvcache *c, int layer, struct rows k,
                             struct rows v)
{
    d->ops->cache_gqa(d, c, layer, k, v);
}
static inline void cache_mla(struct device *d, struct kvcache *c, int layer,
                             struct rows latent_rope)
{
    d->ops->cache_mla(d, c, layer, latent_rope);
}
static inline void cache_index(struct device *d, struct kvcache *c, int layer, struct rows keys)
{
    d->ops->cache_index(d, c, layer, keys);
}
static inline void attention_gqa(struct device *d, struct rows dst, struct rows q,
                                 const struct kvcache *c, int layer, int n_heads, int n_kv_heads,
                                 int head_dim, float scale)
{
    d->ops->attention_gqa(d, dst, q, c, layer, n_heads, n_kv_heads, head_dim, scale);
}
static inline void attention_mla(struct device *d, struct rows dst, struct rows q,
                                 const struct kvcache *c, int layer, const struct mla *m)
{
    d->ops->attention_mla(d, dst, q, c, layer, m);
}
static inline void swiglu(struct device *d, struct rows dst, struct rows gate, struct rows up)
{
    d->ops->swiglu(d, dst, gate, up);
}
static inline void clamp(struct device *d, struct rows x, float low, float high)
{
    d->ops->clamp(d, x, low, high);
}
static inline void hyper_mix(struct device *d, struct rows dst, struct rows mix,
                             struct rows hidden, const struct hyper *h)
{
    d->ops->hyper_mix(d, dst, mix, hidden, h);
}
static inline void hyper_join(struct device *d, struct rows hidden, struct rows mix,
                              struct rows out)
{
    d->ops->hyper_join(d, hidden, mix, out);
}
static inline void compress(struct device *d, struct kvcache *c, int layer, struct rows values,
                            struct rows scores, const struct compressor *k)
{
    d->ops->compress(d, c, layer, values, scores, k);
}
static inline void indexer_topk(struct device *d, struct rows queries, struct rows weights,
                                const struct kvcache *c, int layer, const struct indexer *x)
{
    d->ops->indexer_topk(d, queries, weights, c, layer, x);
}
static inline void attention_window(struct device *d, struct rows dst, struct rows q,
                                    struct rows row, struct kvcache *c, int layer,
                                    const struct window_attention *a)
{
    d->ops->attention_window(d, dst, q, row, c, layer, a);
}
static inline void router_topk(struct device *d, const struct router *r, struct rows scores)
{
    d->ops->router_topk(d, r, scores);
}
static inline void experts_begin(struct device *d, const struct experts *e, struct rows src)
{
    d->ops->experts_begin(d, e, src);
}
static inline void experts_end(struct device *d, struct rows dst)
{
    d->ops->experts_end(d, dst);
}
static inline void add(struct device *d, struct rows dst, struct rows a, struct rows b)
{
    d->ops->add(d, dst, a, b);
}
static inline void add3(struct device *d, struct rows dst, struct rows a, struct rows b,
                        struct rows c)
{
    d->ops->add3(d, dst, a, b, c);
}
static inline void logits(struct device *d, const struct weight *w, struct rows src)
{
    d->ops->logits(d, w, src);
}

#endif
