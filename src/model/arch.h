/* The contract an architecture fills in: one file in src/arch, one line in src/arch/registry.c.
 *
 * Loading, checking, placing, reporting, converting and the tiny test models all read these tables.
 * If a second place must learn an architecture's name, the table is missing a column. */
#ifndef TANDEM_MODEL_ARCH_H
#define TANDEM_MODEL_ARCH_H

#include "src/model/model.h"

/* Symbolic dimensions of the tensor table, solved once per file (params) and then exact. */
enum dim {
    DIM_NONE, /* end of the shape */
    DIM_HIDDEN, DIM_VOCAB, DIM_FFN,
    DIM_Q, DIM_KV, DIM_V,            /* n_heads * head_dim, n_kv_heads * head_dim, n_kv_heads * value_dim */
    DIM_ATTN_OUT,                    /* n_heads * value_dim */
    DIM_HEAD,                        /* head_dim */
    DIM_ROPE_PAIRS,                  /* n_rot / 2 */
    DIM_Q_LORA, DIM_KV_LORA, DIM_KV_A, /* kv_lora_rank + qk_rope_dim */
    DIM_NOPE, DIM_VALUE, DIM_HEADS,
    DIM_KV_B,                        /* n_heads * (qk_nope_dim + value_dim) */
    DIM_EXPERT, DIM_EXPERT2, DIM_SHARED, /* expert_size, twice it, n_shared * expert_size */
    DIM_ROUTED,                      /* n_routed */
    DIM_HIDDEN2,                     /* 2 * hidden_size */
    N_DIMS
};

enum role { ROLE_TRUNK, ROLE_ROUTED, ROLE_EMBED, ROLE_HEAD, ROLE_MTP };

/* In which layers a tensor stands, and whether it must. */
enum when {
    ONCE,          /* global: %d does not appear in the name */
    EVERY_LAYER,
    DENSE_LAYER,
    MOE_LAYER,
    MTP_LAYER,
};
enum need { REQUIRED, OPTIONAL };

struct tensor_spec {
    const char *name;   /* GGUF name, "%d" for the layer */
    size_t offset;      /* of the struct weight: in struct layer, or in struct model for ONCE */
    enum dim shape[4];  /* ne[0] first */
    enum role role;
    enum when when;
    enum need need;
    bool is_vector;     /* F32, F16 or BF16; decoded to F32 at load */
};

struct arch {
    const char *name;  /* value of general.architecture */
    const struct tensor_spec *tensors;
    int n_tensors;
    enum rope_pairing pairing;
    bool has_latent_cache;     /* MLA: one latent per token; else keys and values */
    bool permuted_qk;          /* converter reorders rotary rows (gguf_and_quants 11.3) */

    /* Read and check what is special to this architecture; the common keys are in place. */
    bool (*solve)(struct model *m, struct error *err);
    /* One step through all layers. Buffers come from `work`. */
    bool (*forward)(const struct model *m, struct device *d, const struct step *s,
                    struct activations *work, struct error *err);
    /* Row list of the activation buffers this forward needs (sizes the arena, carves it, and prints
     * the memory report). */
    const struct buffer_spec *buffers;
    int n_buffers;
};

const struct arch *arch_find(struct str name);
const struct arch *arch_at(int index); /* NULL behind the last */

#endif
