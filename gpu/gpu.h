/* The GPU library seen from C: one exported symbol, one table, one launcher per operation.
 *
 * tandem-gpu.so is opened at run time (src/gpu_load.c). It exports `tandem_gpu`, which takes the
 * calls it needs from the program (struct gpu_host: it never links upward) and gives back
 * struct gpu_library. tests/check_gpu*.c call the launchers through the same table, on a card or on
 * the emulation of tests/cuda_host.h.
 *
 * Launchers share these rules:
 *
 *   - They queue kernels on a stream and return at once. Nothing is returned and nothing fails: what
 *     goes wrong is latched in the stream, later launches do nothing, gpu_finish reports it.
 *   - Sizes, types and strides are checked by the caller; launchers assert.
 *   - All data pointers are device memory unless said; floats need no more alignment than their type
 *     (struct rows: 4 bytes, F16: 2), an encoded matrix what its block size divides by, up to 16 (any
 *     distance of whole blocks from an aligned address will do); allocations have 256 and end in
 *     whole sixteens, which may be read.
 *   - Position, cache length, token ids and expert picks are read from device memory (struct
 *     gpu_step), so a recorded launch can be replayed. n_tokens, shapes, strides and kv_bound are
 *     launch dimensions.
 *   - s->limits.act_f32: F32 operands and sums, within rounding of cpu/ref.c. Else the fast profile:
 *     operands of products may be rounded to F16 (or BF16, or Q8 blocks), sums stay F32.
 *   - A launcher may use all of the stream's scratch; nothing in it survives the launcher.
 *   - Sums run in an order that depends on shapes only: same input, same bits. */
#ifndef TANDEM_GPU_GPU_H
#define TANDEM_GPU_GPU_H

#include "src/device.h"
#include "src/format/quant.h"

#ifdef __cplusplus
extern "C" {
#endif

#define GPU_ABI 9 /* of everything in this file; the library refuses another one */

/* An in-order queue of one card, with an error latch and scratch memory. Opaque to C. */
struct gpu_stream;

#define GPU_MOST_TOKENS 65535 /* per step: rows are the second dimension of grids */

/* The largest of anything a step will ask for, to size the scratch memory. */
struct gpu_limits {
    bool act_f32;             /* which numeric profile */
    int max_tokens;           /* per step */
    int64_t max_cols;         /* widest input of a matmul */
    int64_t max_rows;         /* most rows of a weight matrix, the output head left out */
    int64_t n_ctx;            /* positions in the cache */
    int n_heads, head_width;  /* widest attention, per head max(head_dim, rank + rope, nope + rope + value) */
    int64_t mla_rank;         /* kv_lora_rank; 0: no latent attention */
    int n_routed, top_k;      /* 0: no experts */
    int64_t expert_size;
    int index_top_k;          /* rows that an indexer selects; 0: there is none */
    int window;               /* of attention over a window and blocks; 0: there is none */
    double patience_s;        /* longest wait for the card, 0: two minutes; see gpu_finish */
};

/* State of the running step, in device memory. */
struct gpu_step {
    int64_t n_past;    /* position of the step's first token */
    int32_t n_tokens;
    uint32_t epoch;    /* counts steps, for flags that are never reset */
};

/* ---- memory and order ---- */

/* Host memory that the card reads and writes directly; zeroed. NULL and ERR_FIT. */
void *gpu_host_alloc(struct gpu_stream *s, size_t bytes, const char *what, struct error *err);
void gpu_host_release(struct gpu_stream *s, void *block);

/* Uninitialised; NULL and ERR_FIT on failure. Accepts 0 bytes. */
void *gpu_alloc(struct gpu_stream *s, size_t bytes, const char *what, struct error *err);
void gpu_release(struct gpu_stream *s, void *block);
/* Queued copies. Host memory must stay valid until gpu_finish. */
void gpu_write(struct gpu_stream *s, void *dst, const void *host_src, size_t bytes);
void gpu_read(struct gpu_stream *s, void *host_dst, const void *src, size_t bytes);
void gpu_fill(struct gpu_stream *s, void *dst, int byte, size_t bytes);
/* Remember this point of the queue; wait until everything before the last mark is done, while what
 * was queued behind it goes on. gpu_wait fails as gpu_finish does. */
void gpu_mark(struct gpu_stream *s);
bool gpu_wait(struct gpu_stream *s, struct error *err);
/* Queue a call of f(ctx) on a thread of the driver: the queue goes on when it returns. It must not use
 * the card. Not called when the card has failed before. */
void gpu_call(struct gpu_stream *s, void (*f)(void *ctx), void *ctx);
/* Before a thread other than the one that opened the stream queues anything on it. */
void gpu_enter(struct gpu_stream *s);
/* The queue is empty, or it has failed. */
bool gpu_is_idle(struct gpu_stream *s);
/* Wait until the queue is empty. ERR_DEVICE naming the launch or call that failed first. The latch
 * stays: a card in this state is not used again.
 *
 * No wait lasts for ever. Behind limits.patience_s, or ten seconds behind the moment when the step was
 * cancelled, a card that has not come to the end of its queue is lost like one that failed. As long as
 * it hangs nothing is asked of it any more, and memory that it may write to stays allocated. */
bool gpu_finish(struct gpu_stream *s, struct error *err);
/* For who waits by other means: the moment (CLOCK_MONOTONIC) when a wait that began at `since` shall
 * end; and that it ended in vain, so that the card is lost. */
double gpu_deadline(struct gpu_stream *s, double since);
void gpu_give_up(struct gpu_stream *s);

/* ---- recording ---- */

/* What is queued from here on is recorded and does not run: launches, fills, copies of device and
 * pinned memory, calls of the host; nothing may be waited for or allocated meanwhile. It must have run
 * once before: the first launch of a kernel may have to load it. gpu_recorded ends it and gives the
 * record, or NULL and ERR_DEVICE: this card or driver does not record that; nothing else has changed,
 * and the stream is as good as before. */
struct gpu_record;
void gpu_record(struct gpu_stream *s);
struct gpu_record *gpu_recorded(struct gpu_stream *s, struct error *err);
/* Queue all of it. */
void gpu_replay(struct gpu_stream *s, struct gpu_record *r);
void gpu_forget(struct gpu_stream *s, struct gpu_record *r); /* not queued any more; accepts NULL */

/* ---- hand-off by flags: gpu/handoff.cu ---- */

/* Words that both sides poll, in pinned memory, each on a line of its own. Every hand-off has a number
 * of its own, its ticket: from the step's epoch, which a replay reads from device memory, and the place
 * in the step. So flags are never reset. */
struct gpu_flag {
    uint32_t word, unused[15];
};
struct gpu_flags {
    struct gpu_flag published; /* ticket of what the GPU has brought last */
    struct gpu_flag done;      /* ticket of what the CPU has computed last */
    struct gpu_flag abandoned; /* epoch of a step that nobody waits for any longer */
};
#define GPU_JOBS 1024 /* hand-offs per step */
#define gpu_ticket(epoch, job) ((epoch) * GPU_JOBS + (uint32_t)(job) + 1)

/* Runs of 4-byte words that travel together, from device to pinned memory. */
#define GPU_PARCEL_PARTS 3
struct gpu_parcel {
    struct gpu_part {
        uint32_t *to;
        const uint32_t *from;
        int64_t n_words;
    } part[GPU_PARCEL_PARTS];
};

/* Copy the parcel, then raise `published`. Few tokens: one block does it all. */
void gpu_publish(struct gpu_stream *s, const struct gpu_parcel *parcel, struct gpu_flags *flags,
                 const struct gpu_step *step, int job);
/* Poll until `done` is raised or the step is abandoned, then dst = src (pinned) in any case. Behind
 * limit_s seconds the GPU itself abandons the step. */
void gpu_collect(struct gpu_stream *s, struct rows dst, struct rows src, struct gpu_flags *flags,
                 const struct gpu_step *step, int job, double limit_s, int n_tokens);

/* ---- element by element: gpu/elementwise.cu ---- */

/* dst = a + b (+ c); each [n_tokens, dst.width]. dst may be a, b or c. */
void gpu_add(struct gpu_stream *s, struct rows dst, struct rows a, struct rows b, int n_tokens);
void gpu_add3(struct gpu_stream *s, struct rows dst, struct rows a, struct rows b, struct rows c,
              int n_tokens);
/* dst = src. Must not overlap unless equal. */
void gpu_copy(struct gpu_stream *s, struct rows dst, struct rows src, int n_tokens);
/* dst = gate / (1 + e^-gate) * up; in place ok. */
void gpu_swiglu(struct gpu_stream *s, struct rows dst, struct rows gate, struct rows up,
                int n_tokens);

/* ---- gpu/probe.cu ---- */

/* *sum += all 4-byte words of the block, modulo 2^32: reads each byte once and does nothing else, to
 * measure the memory. bytes: a multiple of 16. */
void gpu_probe_read(struct gpu_stream *s, int32_t *sum, const void *block, size_t bytes);

/* x = min(max(x, low), high) */
void gpu_clamp(struct gpu_stream *s, struct rows x, float low, float high, int n_tokens);

/* ---- gpu/norm.cu ---- */

/* Each row is n_groups pieces of n elements, normalised one by one:
 * dst = src / sqrt(mean(src^2) + eps) * weight[n]; weight NULL: without it. In place ok. Sums in F32 or better. */
void gpu_rmsnorm(struct gpu_stream *s, struct rows dst, struct rows src, const float *weight,
                 int64_t n, int n_groups, float eps, int n_tokens);

/* dst = (src - mean) / sqrt(variance + eps) * weight + bias over n elements; weight, bias [n]. In place
 * ok. */
void gpu_layernorm(struct gpu_stream *s, struct rows dst, struct rows src, const float *weight,
                   const float *bias, int64_t n, float eps, int n_tokens);

/* sum = a + b (+ c where c.data is not NULL), dst = RMSNorm of sum: the bits of gpu_add3 and gpu_rmsnorm.
 * sum may be a, b or c; dst none of them. */
void gpu_sum_rmsnorm(struct gpu_stream *s, struct rows dst, struct rows sum, struct rows a,
                     struct rows b, struct rows c, const float *weight, float eps, int n_tokens);

/* ---- weights: gpu/dequantize.cu, gpu/gemv.cu, gpu/gemm.cu, gpu/experts.cu ----
 * Every type with a dequantizer (quant_traits(type)->dequantize: all block types, F32, F16, BF16)
 * is accepted everywhere; decoding gives the bits of quant_traits(type)->dequantize. */

/* dst[i] of dst_type (F32, F16 or BF16, rounded to nearest even) = element i of the n elements
 * (whole blocks) of `type` at src. */
void gpu_dequantize(struct gpu_stream *s, void *dst, enum tensor_type dst_type, const void *src,
                    enum tensor_type type, int64_t n);

/* dst[t] = row tokens[t] of w as floats; tokens [n_tokens] below w->rows. */
void gpu_embed(struct gpu_stream *s, struct rows dst, const struct weight *w,
               const int32_t *tokens, int n_tokens);

#define GPU_GEMV_TOKENS 8 /* most tokens of gpu_gemv */

/* dst[t, r] = sum_c w[r, c] src[t, c] (+ bias[r]) for 1 .. GPU_GEMV_TOKENS tokens; reads every weight
 * once. w has one matrix; bias [w->rows] or NULL. The bits of a token do not depend on how many
 * others there are. */
void gpu_gemv(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
              const float *bias, int n_tokens);

/* dst = silu(gate src) * (up src), in one launch. False, and nothing is done: not in this profile, not
 * for so many tokens or these types; gpu_matmul and gpu_swiglu then serve. */
bool gpu_gemv_swiglu(struct gpu_stream *s, struct rows dst, const struct weight *gate,
                     const struct weight *up, struct rows src, int n_tokens);

/* The same for any number of tokens: weights decoded tile by tile, products by tensor cores (fast
 * profile) or in plain F32. dst and src must not overlap. */
void gpu_gemm(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
              const float *bias, int n_tokens);

/* The better of the two; from about a hundred tokens on cuBLAS, where it is installed: gpu/blas.cu. */
void gpu_matmul(struct gpu_stream *s, struct rows dst, const struct weight *w, struct rows src,
                const float *bias, int n_tokens);

/* Routed experts whose matrices lie in device memory: for each token
 *     dst = sum over picks k with slots[ids[k]] >= 0 of weights[k] * expert(src)
 * where expert e's matrices are number slots[e] of e->gate, up (or gate_up) and down; 0 where no pick
 * is resident. Picks that are not resident cost nothing.
 *   slots [n_routed] i32, or NULL: every expert e is matrix e
 *   ids, weights [n_tokens, top_k] of gpu_router_topk
 * Grouped GEMV for few tokens, tokens grouped by expert for many. dst must not overlap src. */
void gpu_experts(struct gpu_stream *s, struct rows dst, struct rows src, const struct experts *e,
                 const int32_t *slots, const int32_t *ids, const float *weights, int n_tokens);

/* ---- rotation: gpu/rope.cu ---- */

/* cosine, sine [n_tokens, n_pairs]: of position * frequency[i] for position n_past + t, times
 * magnitude. The angle is computed and reduced to one turn in double: exact at any position.
 *   frequency [n_pairs] f64 */
void gpu_rope_angles(struct gpu_stream *s, float *cosine, float *sine, const double *frequency,
                     int n_pairs, float magnitude, const struct gpu_step *step, int n_tokens);

/* Rotate n_heads vectors per row in place: head h starts at column h * head_stride + offset; pairs
 * (2i, 2i+1) or (i, i + n_pairs) as `pairing` says: (a, b) -> (a cos - b sin, a sin + b cos). */
void gpu_rope(struct gpu_stream *s, struct rows x, const float *cosine, const float *sine,
              int n_pairs, enum rope_pairing pairing, int n_heads, int64_t head_stride,
              int64_t offset, int n_tokens);

/* ---- the cache: gpu/cache.cu ---- */

/* cache[n_past + t] = src[t], converted to `type` (F16 or F32); cache rows are src.width elements,
 * contiguous. Serves keys, values and latents. */
void gpu_cache_store(struct gpu_stream *s, void *cache, enum tensor_type type, struct rows src,
                     const struct gpu_step *step, int n_tokens);

/* ---- attention: gpu/attention_gqa.cu, gpu/mla_decode.cu, gpu/mla_prefill.cu ----
 * Causal: the query of token t sees positions 0 .. n_past + t, which are all in the cache.
 * kv_bound: n_past + n_tokens <= kv_bound <= limits.n_ctx; sizes the grid (split of the positions),
 * so callers pass the same bound for many steps (a power of two). Results depend on kv_bound and on
 * how many other queries a call holds by rounding only. */

/* Head h reads kv head h / (n_heads / n_kv_heads). q, dst [n_tokens, n_heads * head_dim];
 * k, v [n_ctx, n_kv_heads * head_dim] of cache_type (F16 or F32). */
void gpu_attention_gqa(struct gpu_stream *s, struct rows dst, struct rows q, const void *k,
                       const void *v, enum tensor_type cache_type, int n_heads, int n_kv_heads,
                       int head_dim, float scale, const struct gpu_step *step, int64_t kv_bound,
                       int n_tokens);

/* q [n_tokens, n_heads * (nope + rope)], nope first in each head; dst [n_tokens, n_heads * value];
 * latents [n_ctx, rank + rope] of cache_type; m->k_b, m->v_b of any type, in device memory.
 *   absorbed     queries move to the latent space (k_b q_nope), the sum comes back (v_b): few tokens
 *   decompressed keys and values are expanded from the latents, chunk by chunk of positions that
 *                fits the scratch memory, then ordinary attention: many tokens */
void gpu_mla_absorbed(struct gpu_stream *s, struct rows dst, struct rows q, const void *latents,
                      enum tensor_type cache_type, const struct mla *m, const struct gpu_step *step,
                      int64_t kv_bound, int n_tokens);
/* Absorbed, over the positions that gpu_indexer selected with a top_k of m->n_selected. */
void gpu_mla_selected(struct gpu_stream *s, struct rows dst, struct rows q, const void *latents,
                      enum tensor_type cache_type, const struct mla *m, const int32_t *ids,
                      const int32_t *n_ids, const struct gpu_step *step, int64_t kv_bound,
                      int n_tokens);
void gpu_mla_decompressed(struct gpu_stream *s, struct rows dst, struct rows q, const void *latents,
                          enum tensor_type cache_type, const struct mla *m,
                          const struct gpu_step *step, int64_t kv_bound, int n_tokens);

/* ---- hyper-connections: gpu/hyper.cu ----
 * hyper_mix and hyper_join of src/device.h, for four streams; h is host memory, its weights are
 * device memory. */
void gpu_hyper_mix(struct gpu_stream *s, struct rows dst, struct rows mix, struct rows hidden,
                   const struct hyper *h, int n_tokens);
void gpu_hyper_join(struct gpu_stream *s, struct rows hidden, struct rows mix, struct rows out,
                    int n_tokens);

/* ---- sparse attention: gpu/compress.cu, gpu/indexer.cu, gpu/attention_window.cu ----
 * As src/device.h has them; the structs are host memory, what they point to device memory. type: of
 * the cache, F16 or F32. */

/* compress: rows [n_ctx / ratio, dim] of `type`, or bytes where there are `scales` for them (struct
 * indexer); state [n_state, 2, width].
 *   frequency [n_rot / 2] f64 of k->rope */
void gpu_compress(struct gpu_stream *s, void *rows, float *scales, enum tensor_type type,
                  float *state, int64_t n_state, struct rows values, struct rows scores,
                  const struct compressor *k, const double *frequency, const struct gpu_step *step,
                  int n_tokens);

/* cache_index: index and, unless its keys are floats, index_scale of `to`. */
void gpu_index_store(struct gpu_stream *s, const struct kv_sparse *to, struct rows keys,
                     const struct gpu_step *step, int n_tokens);

/* indexer_topk: ids [n_tokens, top_k] ascending, n_ids [n_tokens] how many. */
void gpu_indexer(struct gpu_stream *s, int32_t *ids, int32_t *n_ids, struct rows queries,
                 struct rows weights, const struct kv_sparse *c, const struct indexer *x, const struct gpu_step *step,
                 int64_t kv_bound, int n_tokens);

/* attention_window for heads of up to 512; ids and n_ids of gpu_indexer, which had this top_k, where
 * w->selected. dst may be q. Results depend on kv_bound by rounding only. */
void gpu_attention_window(struct gpu_stream *s, struct rows dst, struct rows q, struct rows row,
                          const struct kv_sparse *c, enum tensor_type type,
                          const struct window_attention *w, const int32_t *ids,
                          const int32_t *n_ids, int top_k, const struct gpu_step *step,
                          int64_t kv_bound, int n_tokens);

/* ---- the router: gpu/router.cu ---- */

/* As router_topk of src/device.h and router_choose of cpu/router.h: scores [n_tokens, n_routed] raw,
 * may be overwritten; ids, weights [n_tokens, top_k], best first, equal scores favour the lower id.
 * r is host memory, r->bias.data and
 * r->table.data device memory; tokens [n_tokens] ids on the device, for the table only. At most GPU_ROUTER_EXPERTS experts. */
#define GPU_ROUTER_EXPERTS 1024
void gpu_router_topk(struct gpu_stream *s, const struct router *r, struct rows scores,
                     const int32_t *tokens, int32_t *ids, float *weights, int n_tokens);

/* ---- scratch: bytes each of these needs for the limits; a stream allocates the largest ---- */

size_t gpu_gemv_scratch(const struct gpu_limits *l);
size_t gpu_gemm_scratch(const struct gpu_limits *l);
size_t gpu_experts_scratch(const struct gpu_limits *l);
size_t gpu_attention_scratch(const struct gpu_limits *l);
size_t gpu_mla_absorbed_scratch(const struct gpu_limits *l);
size_t gpu_mla_decompressed_scratch(const struct gpu_limits *l);
size_t gpu_indexer_scratch(const struct gpu_limits *l);
size_t gpu_attention_window_scratch(const struct gpu_limits *l);

/* ---- the device: gpu/device_gpu.cu ---- */

#define GPU_RECORDS 8 /* kinds of steps that a device has recorded at most */
struct gpu_device_options;
size_t gpu_device_bytes(const struct gpu_device_options *o);
bool gpu_device_open(struct device **out, const struct gpu_device_options *o, struct error *err);
struct gpu_stream *gpu_device_stream(struct device *d);

/* Device memory of a stream with these limits: scratch, the most that any launcher needs, and an
 * estimate of what cuBLAS takes for itself where it is used. */
size_t gpu_scratch_bytes(const struct gpu_limits *l);
bool gpu_stream_open(struct gpu_stream **out, int index, const struct gpu_limits *l,
                     struct error *err);
void gpu_stream_close(struct gpu_stream *s);

/* ---- the library ---- */

/* Every launcher, for the table: X(name) with the function gpu_name. */
#define GPU_LAUNCHERS(X)                                                                          \
    X(host_alloc) X(host_release)                                                                 \
    X(alloc) X(release) X(write) X(read) X(fill) X(mark) X(wait) X(call) X(enter)                          \
    X(is_idle) X(finish) X(deadline) X(give_up)                                                   \
    X(record) X(recorded) X(replay) X(forget) X(publish) X(collect)                               \
    X(add) X(add3) X(copy) X(swiglu) X(clamp) X(rmsnorm) X(layernorm) X(sum_rmsnorm)              \
    X(hyper_mix) X(hyper_join) X(compress) X(index_store) X(indexer) X(attention_window)          \
    X(rope_angles) X(rope) X(cache_store) X(router_topk)                                          \
    X(dequantize) X(embed) X(gemv) X(gemv_swiglu) X(gemm) X(matmul) X(experts)                    \
    X(attention_gqa) X(mla_absorbed) X(mla_selected) X(mla_decompressed) X(probe_read)

struct gpu_launchers {
#define GPU_ROW(name) __typeof__(gpu_##name) *name;
    GPU_LAUNCHERS(GPU_ROW)
#undef GPU_ROW
};

/* A step as it is about to be queued. */
struct gpu_run {
    const struct step *step; /* host */
    uint32_t epoch;
    int record;              /* number of the record that it replays, 0 .. GPU_RECORDS - 1; -1: none */
};

/* Who computes routed experts that are not in device memory (src/engine/hybrid.c). All are called
 * while the step is being queued. start, if there: a step begins. replay, if there: the record that
 * start told of is about to be queued. embed, if there: queue what fills dst with rows of w, one for
 * each of the step's tokens; false: w is in device memory. begin: src [n_tokens, hidden], ids and
 * weights [n_tokens, top_k] are device memory, complete when what is queued so far is done; src stays
 * until end. end: queue what fills dst. finish, if there: the whole step is queued, before it is waited
 * for; what it fails with is the step's error.
 * record, if there: from here on begin and end queue what replays of record number `record` will run,
 * until recorded; `state` is the step in device memory then. False: its steps cannot be recorded. */
struct gpu_partner {
    void *ctx;
    void (*start)(void *ctx, const struct gpu_run *run);
    void (*replay)(void *ctx);
    void (*begin)(void *ctx, const struct experts *e, struct rows src, const int32_t *ids,
                  const float *weights, int n_tokens);
    void (*end)(void *ctx, struct rows dst, int n_tokens);
    bool (*finish)(void *ctx, struct error *err);
    bool (*record)(void *ctx, int record, const struct gpu_step *state);
    void (*recorded)(void *ctx);
    bool (*embed)(void *ctx, struct rows dst, const struct weight *w, int n_tokens);
};

/* A whole device of src/device.h on one card. */
struct gpu_device_options {
    int index;                   /* which card */
    struct gpu_limits limits;
    int64_t n_vocab;             /* rows of the output head */
    int n_layers;                /* to account for records; 0: steps are not recorded */
    size_t logits_bytes;         /* its output on the card at a time, at least one row; 0: 16 MiB */
    struct gpu_partner partner;  /* begin NULL: all experts are in device memory */
};

/* The codebooks of src/format/quant.h, copied to every stream's card. */
struct gpu_tables {
    uint8_t iq2xxs[256][8], iq2xs[512][8], iq2s[1024][8];
    int8_t iq1[2048][8];
    uint8_t iq3xxs[256][4], iq3s[512][4];
    uint8_t signs[128];
};

/* What the library borrows from the program; valid until it is closed. */
struct gpu_host {
    __typeof__(error_set) *error_set;
    void *(*mem_alloc)(size_t count, size_t size, const char *what, struct error *err);
    void (*mem_free)(void *block);
    const struct quant_traits *(*quant_traits)(uint32_t type);
    void (*fill_tables)(struct gpu_tables *t);
};

/* One card as people see it. */
struct gpu_info {
    char name[128];
    uint64_t total_bytes, free_bytes;
    int major, minor; /* compute capability */
    int n_sms;
    bool emulated;
    bool limits_kernels; /* one that runs for seconds is stopped, and the card lost (a screen hangs on it) */
    char pci[24]; /* "0000:65:00.0" */
};

struct gpu_library {
    uint32_t abi;
    /* Cards that can be used; 0 with a reason in err (no driver, too old, none visible). */
    int (*count)(struct error *err);
    bool (*info)(int index, struct gpu_info *info, struct error *err);

    /* A stream of card `index` with scratch for these limits. ERR_DEVICE, ERR_FIT. */
    bool (*stream_open)(struct gpu_stream **out, int index, const struct gpu_limits *l,
                        struct error *err);
    void (*stream_close)(struct gpu_stream *s); /* accepts NULL */

    /* Bytes of device memory that a device takes, and the device: all of src/device.h, weights and
     * caches in device memory. Closed by its own close. */
    size_t (*device_bytes)(const struct gpu_device_options *o);
    bool (*device_open)(struct device **out, const struct gpu_device_options *o, struct error *err);
    struct gpu_stream *(*device_stream)(struct device *d); /* its queue, borrowed */
    struct gpu_launchers launch;
};

/* The exported symbol: NULL when abi differs from the library's. */
const struct gpu_library *tandem_gpu(uint32_t abi, const struct gpu_host *host);
#define GPU_SYMBOL "tandem_gpu"

#ifdef __cplusplus
}
#endif

#endif
