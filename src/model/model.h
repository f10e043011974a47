/* A loaded model: GGUF file -> params and weights, driven by the architecture's tables.
 *
 * model_open reads the header, finds the architecture, solves and checks the params and gives every
 * tensor of the tables its exact shape check; model_load then makes the weights ready for a device.
 * inspect and plan need only the first. A zeroed struct is a closed model. */
#ifndef TANDEM_MODEL_MODEL_H
#define TANDEM_MODEL_MODEL_H

#include "src/base/arena.h"
#include "src/format/gguf.h"
#include "src/model/params.h"

struct arch;
struct tensor_spec;

/* Weights of one layer; what an architecture does not have stays data == NULL. */
struct layer {
    struct weight attn_norm, ffn_norm;
    /* GQA; a fused qkv is cut into q, k, v */
    struct weight q, k, v, q_bias, k_bias, v_bias, q_norm, k_norm;
    struct weight qkv, qkv_bias;
    struct weight attn_output, attn_output_bias;
    /* MLA; kv_b of old files is turned into k_b and v_b */
    struct weight q_a, q_a_norm, q_b, kv_a_mqa, kv_a_norm, kv_b, k_b, v_b;
    struct mla mla;
    /* dense FFN, or the shared experts of a mixture */
    struct weight gate, up, down, gate_bias, up_bias, down_bias;
    /* mixture */
    struct weight router, router_bias, gate_routed, up_routed, gate_up_routed, down_routed;
    struct router route;
    struct experts experts;
    /* sparse attention: the indexer (V3.2, V4), compressed rows and their indexer (V4) */
    struct weight indexer_q_b, indexer_k, indexer_k_norm, indexer_k_norm_bias, indexer_proj;
    struct weight compressor_kv, compressor_gate, compressor_ape, compressor_norm;
    struct weight indexer_compressor_kv, indexer_compressor_gate, indexer_compressor_ape,
        indexer_compressor_norm;
    /* V4: one row as key and value, output in two steps, hyper-connections, experts by token id */
    struct weight kv, attn_sinks, output_a, output_b;
    struct weight hc_attn_fn, hc_attn_base, hc_attn_scale, hc_ffn_fn, hc_ffn_base, hc_ffn_scale;
    struct weight expert_table;
    struct hyper hyper_attn, hyper_ffn;
    struct compressor compressor, index_compressor;
    struct indexer indexer;
    struct window_attention attend;
    float limit; /* of the shared experts' SwiGLU, as in struct experts */
    /* multi-token prediction (only blocks behind the main layers) */
    struct weight nextn_eh_proj, nextn_enorm, nextn_hnorm, nextn_head_norm, nextn_head,
        nextn_embed;
    struct weight nextn_e_proj, nextn_h_proj; /* V4: the halves of eh_proj, where a file has these */
    struct weight nextn_hc_fn, nextn_hc_base, nextn_hc_scale; /* V4: streams to one, for this block */
    bool is_moe;
};

/* A tensor of the file that the model uses: its row of the table, its place, and who holds it. */
struct model_tensor {
    const struct tensor_spec *spec;
    const struct tensor *tensor;
    struct weight *weight;
    int layer; /* -1: global */
    int role;  /* enum role; ROLE_MTP for everything in a block behind the main layers */
};

struct model {
    struct gguf gguf;
    struct gguf block;    /* the file of a block for multi-token prediction; closed: there is none */
    const struct arch *arch;
    struct keys keys;     /* what the file says */
    struct params params; /* what that means */
    struct arena arena;
    struct weight token_embd, output_norm, output, output_bias, rope_freqs;
    struct weight hc_fn, hc_base, hc_scale; /* V4: streams to one before the output */
    struct hyper hyper_end;
    struct layer *layers; /* [n_layers + n_mtp] */
    struct model_tensor *tensors;
    int n_tensors;
    uint64_t weight_bytes;   /* tensors of the main model */
    uint64_t routed_bytes;   /* of those, routed experts */
    uint64_t mtp_bytes;      /* blocks for multi-token prediction, not in weight_bytes */
    uint64_t bytes_per_token; /* read once per decoded token: trunk + top_k of n_routed experts + one row of the embedding */
    uint64_t n_elements, n_elements_active; /* parameters: all, and used per token */
    uint64_t derived_bytes;  /* memory for weights rebuilt at load (k_b of old files) */
    void *copy;              /* our own memory that holds the weights; NULL: mapped */
    size_t copy_bytes;
    int n_parts;             /* of the copy: memory nodes that share the routed experts; 0: mapped */
};

/* ERR_FILE when damaged, unsupported, or inconsistent: the message names key or tensor, what was
 * found and what was expected; an unknown architecture lists the known ones. */
bool model_open(struct model *m, const char *path, enum numerics numerics, struct error *err);

/* The same of unfinished files (gguf_open_unfinished). */
bool model_open_unfinished(struct model *m, const char *path, enum numerics numerics,
                           struct error *err);

/* Take the block for multi-token prediction from a file of its own, before model_load: what converters
 * write beside a model that came without one. The file counts the main layers too and holds block
 * number n_layers, or it calls the block "mtp.0." and its tensors as the checkpoint does. Embedding and
 * head stay the model's. ERR_USAGE: the model has a block. ERR_FILE: not a block of this model; the
 * model is as before. */
bool model_add_block(struct model *m, const char *path, struct error *err);

/* Has one of the files been cut short or become unreadable? ERR_RUN naming it and the offset. */
bool model_check_files(const struct model *m, struct error *err);

/* Called at least every 100 ms while loading: bytes so far and in all. Return false to cancel
 * (ERR_INTERRUPTED). */
typedef bool load_progress(void *ctx, uint64_t done_bytes, uint64_t total_bytes);

struct load_options {
    enum load_mode mode; /* as the placement decided; LOAD_AUTO is LOAD_MMAP here */
    bool act_f32;  /* derived matrices are kept in F32, else F16 */
    int n_parts;   /* split routed experts into so many parts: 0: one per memory node, 1: none;
                    * mapped weights stay whole */
    bool lazy;     /* mapped weights are read when they are used, none before */
    const unsigned char *homes; /* enum home of each tensor: those of HOME_GPU are neither copied nor read
                    * ahead, who takes them there reads the mapped file; NULL: none is */
    bool lock;     /* keep the weights from being paged out; a note where the system refuses */
    load_progress *progress; /* may be NULL */
    void *ctx;
};

/* Make the weights ready: read them once so that the first token is not slow, or copy them, and
 * derive what old files lack (absorbed key matrices). ERR_FIT, ERR_INTERRUPTED, ERR_RUN; the model
 * is then to be closed. */
bool model_load(struct model *m, const struct load_options *o, struct error *err);

/* Lay the copied matrices of these types out for kernels whose lanes are rows (src/format/weave.h),
 * in place, those that are not yet: their `woven` is set then, and only the tensors in the file still
 * hold plain rows. Does nothing where weights are mapped. Needs a few rows of memory (ERR_FIT).
 * ERR_INTERRUPTED when progress (may be NULL) says so; the model is then to be closed. */
struct pool;
bool model_weave(struct model *m, const bool types[N_TENSOR_TYPES], struct pool *pool,
                 load_progress *progress, void *ctx, struct error *err);
/* Bytes that will pass through it once the weights are copied. */
uint64_t model_weave_bytes(const struct model *m, const bool types[N_TENSOR_TYPES]);
/* Would that weave this tensor, once it is copied? */
bool model_weavable(const struct model_tensor *mt, const bool types[N_TENSOR_TYPES]);

void model_close(struct model *m);

/* Fill a weight from a tensor of the file: shape, strides, address. */
void weight_from_tensor(struct weight *w, const struct tensor *t);

/* Rows first .. first + rows - 1 of each matrix of w, as a weight of its own. */
struct weight weight_rows(const struct weight *w, int64_t first, int64_t rows);

/* "DeepSeek V3 671.0 B, 37.6 B active"-like short line for people, from metadata and counts. */
void model_describe(const struct model *m, char *text, size_t size);

#endif
