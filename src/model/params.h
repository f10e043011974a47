/* Hyper-parameters of a model: `struct keys` is what a file says, each value within its range;
 * `struct params` is what that means, one struct for every architecture, with dimensions solved from
 * tensor shapes where keys are not to be trusted.
 * Names follow the papers; 0 means "this model does not have it". */
#ifndef TANDEM_MODEL_PARAMS_H
#define TANDEM_MODEL_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "src/device.h"

#define MAX_LAYERS 512

struct gguf;

/* Where official code and llama.cpp compute different logits from the same file:
 * official is the default, llamacpp reproduces llama.cpp for comparisons, gguf is llamacpp for the
 * architectures whose only public GGUF implementation is llama.cpp's, and official for the others. */
enum numerics { NUMERICS_OFFICIAL, NUMERICS_GGUF, NUMERICS_LLAMACPP };
const char *numerics_name(enum numerics n); /* "official", "gguf", "llamacpp" */

enum rope_scaling { ROPE_SCALING_NONE, ROPE_SCALING_LINEAR, ROPE_SCALING_YARN };

/* Values of the "<architecture>." keys. Absent ones hold the default of the table in params.c: -1 for
 * "not said" (NAN for log_multiplier). Keys that may be per-layer arrays are reduced to the one value
 * that all layers using them share. */
struct keys {
    int64_t block_count, n_mtp, context_length, embedding_length, feed_forward_length, vocab_size;
    int64_t n_heads, n_kv_heads, key_length, value_length;
    int64_t key_length_mla, value_length_mla, q_lora_rank, kv_lora_rank;
    int64_t rope_dim, rope_original_context;
    int64_t n_dense_lead, n_routed, top_k, n_shared, expert_size, gating, n_groups, n_groups_used;
    int64_t index_heads, index_dim, index_top_k, out_groups, out_lora_rank, window;
    int64_t n_streams, hyper_passes, n_hash_layers;
    uint8_t compress_ratio[MAX_LAYERS];
    int n_compress_ratios;
    float limit_routed[MAX_LAYERS], limit_shared[MAX_LAYERS]; /* of SwiGLU; 0: none */
    double hyper_eps, compress_rope_base;
    double rms_eps, rope_base, rope_factor, rope_attn_factor;
    double yarn_beta_fast, yarn_beta_slow, yarn_log_multiplier, weights_scale;
    bool weights_norm;
    enum rope_scaling rope_scaling;
};

/* Read and range-check all keys of architecture `arch`. ERR_FILE names the key, the value found and
 * the range. */
bool keys_read(struct keys *k, const struct gguf *g, const char *arch, struct error *err);

struct params {
    /* skeleton */
    int n_layers;      /* main layers, multi-token-prediction blocks left out */
    int n_mtp;         /* blocks n_layers .. n_layers + n_mtp - 1 */
    int64_t hidden_size;
    int64_t ffn_size;  /* of dense layers */
    int64_t n_vocab;   /* rows of the output matrix */
    int64_t context_length; /* trained */
    float rms_eps;
    bool tied_output;

    /* attention */
    int n_heads, n_kv_heads;
    int head_dim;      /* of q and k */
    int value_dim;     /* of v, per head */
    float attention_scale;

    /* latent attention */
    int q_lora_rank, kv_lora_rank;
    int qk_nope_dim, qk_rope_dim;

    /* sparse attention (V3.2, V4) */
    int index_heads, index_dim, index_top_k;
    int window;                         /* recent positions that are always read */
    uint8_t compress_ratio[MAX_LAYERS]; /* 0, 4 or 128 positions in one row, per layer */
    int out_groups, out_lora_rank;      /* output projection in two steps, by groups of heads */
    int n_streams;                      /* residual streams of hyper-connections */
    struct rope rope_index;             /* V3.2: of the indexer, the same angles on other pairs */
    struct rope rope_back;              /* V4: the inverse of `rope` */
    struct rope rope_blocks, rope_blocks_back; /* of layers with blocks, and its inverse */

    /* rope, as used by forward: scaling resolved into frequencies */
    struct rope rope;
    float rope_base;
    int rope_scaling;  /* enum rope_scaling: for display */
    float rope_factor;

    /* experts */
    int n_routed, top_k, n_shared, n_dense_lead;
    int n_hash_layers; /* first layers, whose experts follow from the token id */
    int64_t expert_size;
    struct router router; /* bias left empty: it belongs to a layer */

    enum numerics numerics;
};

/* Frequencies of a rotation over n_rot dimensions, scaling included.
 *   yarn_beta_fast  where the ramp begins, in turns over the original context
 *   magnitude       of cos and sin
 *   divisors        [n_rot / 2] of rope_freqs.weight, or NULL
 * Source: YaRN (Peng et al. 2023), section 3.2, with the ramp's ends rounded outwards and clamped as
 * every implementation does. */
bool rope_solve(struct rope *r, const struct keys *k, enum rope_pairing pairing, int64_t n_rot,
                double yarn_beta_fast, double yarn_beta_slow, double magnitude,
                const float *divisors, struct error *err);

#endif
