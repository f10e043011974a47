/* Hyper-parameters of a model, one struct for every architecture: what a file says, checked, with
 * dimensions solved from tensor shapes where keys are not to be trusted.
 * Names follow the papers; 0 means "this model does not have it". */
#ifndef TANDEM_MODEL_PARAMS_H
#define TANDEM_MODEL_PARAMS_H

#include <stdbool.h>
#include <stdint.h>

#include "src/device.h"

/* Where official code and llama.cpp compute different logits from the same file:
 * official is the default, llamacpp reproduces llama.cpp for comparisons, gguf is llamacpp for the
 * architectures whose only public GGUF implementation is llama.cpp's. */
enum numerics { NUMERICS_OFFICIAL, NUMERICS_GGUF, NUMERICS_LLAMACPP };

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

    /* rope, as used by forward: scaling resolved into frequencies */
    struct rope rope;
    float rope_base;
    int rope_scaling;  /* 0 none, 1 linear, 2 yarn: for display */
    float rope_factor;

    /* experts */
    int n_routed, top_k, n_shared, n_dense_lead;
    int64_t expert_size;
    struct router router; /* bias left empty: it belongs to a layer */

    enum numerics numerics;
};

#endif
