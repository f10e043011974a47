/* The contract an architecture fills in: one file in src/arch, one line in src/arch/registry.c.
 *
 * Loading, checking, placing, reporting, converting and the tiny test models all read these tables.
 * If a second place must learn an architecture's name, the table is missing a column. */
#ifndef TANDEM_MODEL_ARCH_H
#define TANDEM_MODEL_ARCH_H

#include "src/model/model.h"
#include "src/model/phases.h"

/* Symbolic dimensions of the tensor table, solved once per file (params) and then exact. One that
 * solves to 0 means "this model has no such thing": tensors of that shape are not looked for. */
enum dim {
    DIM_NONE, /* end of the shape */
    DIM_HIDDEN, DIM_VOCAB, DIM_FFN,
    DIM_Q, DIM_KV, DIM_V,            /* n_heads * head_dim, n_kv_heads * head_dim, n_kv_heads * value_dim */
    DIM_QKV,                         /* the three together */
    DIM_ATTN_OUT,                    /* n_heads * value_dim */
    DIM_HEAD,                        /* head_dim */
    DIM_ROPE_PAIRS,                  /* n_rot / 2 */
    DIM_Q_LORA, DIM_KV_LORA, DIM_KV_A, /* kv_lora_rank + qk_rope_dim */
    DIM_NOPE, DIM_VALUE, DIM_HEADS,
    DIM_KV_B,                        /* n_heads * (qk_nope_dim + value_dim) */
    DIM_EXPERT, DIM_EXPERT2, DIM_SHARED, /* expert_size, twice it, n_shared * expert_size */
    DIM_ROUTED,                      /* n_routed */
    DIM_HIDDEN2,                     /* 2 * hidden_size */
    DIM_INDEX, DIM_INDEX2, DIM_INDEX_HEADS, DIM_INDEX_Q, /* index_dim, twice it, heads, all heads */
    DIM_STREAMS, DIM_STREAMS_HIDDEN, /* residual streams, all of them side by side */
    DIM_MIX, DIM_MIX_SCALES,         /* outputs of a hyper-connection, and their scales */
    DIM_HEAD2,                       /* 2 * head_dim */
    DIM_RATIO_CSA, DIM_RATIO_HCA,    /* positions summed up in one row: 4, 128 */
    DIM_OUT_GROUP, DIM_OUT_LORA,     /* inputs of a group of heads; out_groups * out_lora_rank */
    DIM_TOP_K, DIM_ONE,
    N_DIMS
};
int64_t params_dim(const struct params *p, enum dim d);
/* What a position leaves to a block that drafts: its state behind the final norm, or its streams. */
int64_t params_state_width(const struct params *p);
/* Room for a pair of that and a token, as arch->draft wants it. */
int64_t params_pair_width(const struct params *p);

enum role { ROLE_TRUNK, ROLE_ROUTED, ROLE_EMBED, ROLE_HEAD, ROLE_MTP };

/* In which layers a tensor stands, and whether it must. */
enum when {
    ONCE,          /* global: %d does not appear in the name */
    EVERY_LAYER,
    DENSE_LAYER,
    MOE_LAYER,
    MTP_LAYER,
    MAIN_LAYER,           /* every one but those */
    CSA_LAYER, HCA_LAYER, /* compression ratio 4, 128 */
    HASH_LAYER,           /* experts picked by token id */
};
enum need { REQUIRED, OPTIONAL };

struct tensor_spec {
    const char *name;   /* GGUF name, "%d" for the layer */
    size_t offset;      /* of the struct weight: in struct layer, or in struct model for ONCE */
    enum dim shape[4];  /* ne[0] first */
    enum role role;
    enum when when;
    enum need need;
    bool is_f32;        /* norms, biases, routers: F32, F16 or BF16 in the file, decoded at load */
    bool by_rows;       /* rows are taken one by one or cut apart: never woven (model_weave) */
    bool is_i32;        /* a table of numbers: I32 in the file */
    bool may_fold;      /* files with the last two dimensions multiplied into one hold the same bytes */
    const char *alias;  /* a second name in older files; NULL: none */
    const char *alone;  /* the name in a file that holds nothing but the block (model_add_block); NULL:
                         * the same */
    const char *instead; /* not looked for when the file has this tensor (same layer); NULL: none */
};

/* ---- activations ---- */

/* Parts of a layer during which the contents of a buffer matter. Buffers that never live at the
 * same time share memory. */
enum { ALIVE_ATTENTION = 1, ALIVE_FFN = 2, ALIVE_ALWAYS = 3 };

/* Layers behind the dense lead are mixtures, and so is every multi-token-prediction block. */
bool layer_is_moe(const struct params *p, int layer);
/* Has this layer (-1: the model as a whole) a place for the tensor? Its shape may still say no. */
bool tensor_stands_in(const struct tensor_spec *s, const struct params *p, int layer);

/* One activation buffer: [tokens of a step, the widest of `widths`] floats. The same rows size the
 * memory, carve it, and print the report. */
struct buffer_spec {
    const char *name;
    size_t offset; /* of the struct rows in struct activations */
    enum dim widths[3];
    unsigned alive;
};

/* Working memory of one step. What an architecture has no row for stays data == NULL. */
struct activations {
    struct rows hidden;          /* the residual stream */
    struct rows normed, out;     /* input and output of a block */
    struct rows q_latent, q, k, v; /* q_latent: MLA query before its up-projection */
    struct rows kv_a;            /* MLA: latent and k_rope of this step */
    struct rows attn;            /* heads' outputs before the output projection */
    struct rows gate, up;        /* dense FFN or shared experts */
    struct rows scores, routed;  /* router logits; output of the routed experts */
    /* V4: hyper-connections; what compressors sum up, and its scores; the indexer's queries and the
       weights of its heads; attention's output on its way through the first of two projections */
    struct rows mix, values, value_scores, index_q, index_weights, out_lora;
    struct rows index_k;         /* V3.2: the indexer's key of each token */
    struct phase_clock *clock;   /* the caller's; NULL: nobody measures */
    struct rows states;          /* the caller's: where what a position leaves to be drafted from
                                    goes (params_state_width); data NULL: nobody wants it */
    void *block;                 /* device memory under all of them */
    size_t bytes;
};

#define CACHE_MAX_PARTS 8

struct arch {
    const char *name;  /* value of general.architecture */
    const struct tensor_spec *tensors;
    int n_tensors;
    enum rope_pairing pairing;
    bool has_latent_cache;     /* MLA: one latent per token; else keys and values */
    bool permuted_qk;          /* converter reorders rotary rows (gguf_and_quants 11.3) */

    /* Solve the params that are special to this architecture; m->keys are read and in range, and
     * the skeleton of m->params (layers, hidden size, vocabulary) is in place. */
    bool (*solve)(struct model *m, struct error *err);
    /* The weights of one layer have their shapes and addresses: build what operations take (views
     * into fused tensors, struct mla, struct experts, struct router). Called again after the
     * addresses changed. */
    bool (*assemble)(struct model *m, int layer, struct error *err);
    /* Rebuild what the file of this layer lacks, in the model's arena, and check what only the
     * contents of its tensors tell; then assemble is called. NULL: never needed. */
    bool (*derive)(struct model *m, int layer, bool act_f32, struct error *err);
    /* Bytes that derive will take for this layer. NULL: none ever. */
    uint64_t (*derived_bytes)(const struct model *m, int layer, bool act_f32);
    /* Parts of one layer's cache, in a fixed order, at most CACHE_MAX_PARTS; data is filled in by
     * kvcache_open. The elements of rows are `type`, those of states what the architecture wants.
     * Returns how many. NULL: a latent, or keys and values. */
    int (*cache_parts)(const struct params *p, enum tensor_type type, int64_t n_ctx, int layer,
                       struct cache_part *parts);
    /* A cache that holds n_past positions shall go back to n < n_past: to how many of them it can,
     * n or fewer (the rest is computed again). NULL: to n, which is so when all parts are
     * CACHE_ROWS. */
    int64_t (*cache_rewind)(const struct params *p, struct kvcache *c, int64_t n_past, int64_t n);
    /* One step through all layers. Buffers come from `work`. NULL: models of this architecture can
     * be inspected and planned, but this version cannot run them. */
    bool (*forward)(const struct model *m, struct device *d, const struct step *s,
                    struct activations *work, struct error *err);
    /* The block behind the main layers guesses tokens: row t of `states` [n_tokens, state width] is
     * what the position before the one of tokens[t] has left, n_past counts such pairs, the cache is
     * that block's alone (layer 0), the logits are of the token behind tokens[t]. `pairs` [n_tokens,
     * pair width] is room; where logits are wanted its left part, as wide as a state, holds the
     * block's own guess of the next states behind the call, which may be `states` of the next call
     * as they lie there. NULL: this architecture does not draft. */
    bool (*draft)(const struct model *m, struct device *d, const struct step *s,
                  struct rows states, struct rows pairs, struct activations *work,
                  struct error *err);
    const struct buffer_spec *buffers;
    int n_buffers;
};

const struct arch *arch_find(struct str name);
const struct arch *arch_at(int index); /* NULL behind the last */

/* Bytes of the activation buffers for steps of n_tokens, and the buffers themselves in one block of
 * device memory. A zeroed struct is closed. */
size_t activations_bytes(const struct arch *arch, const struct params *p, int n_tokens);
bool activations_open(struct activations *a, const struct arch *arch, const struct params *p,
                      int n_tokens, struct device *d, struct error *err);
void activations_close(struct activations *a, struct device *d);

#endif
