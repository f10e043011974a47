/* Sizes of models and ways of writing them: what the program tiny can make. */
#ifndef TANDEM_TOOLS_SHAPES_H
#define TANDEM_TOOLS_SHAPES_H

#include <stdbool.h>
#include <stdint.h>

struct shape {
    const char *name, *arch;
    int layers;
    int64_t hidden, ffn;
    int heads, kv_heads, head; /* MLA: head = nope + rope */
    int q_rank, kv_rank, nope, rotary, value;
    int routed, top_k, shared;
    int64_t expert;
    int dense_lead, groups, groups_used, gating; /* gating 2: sigmoid with a bias, normalised */
    float scale;
    int64_t vocab, context;
    double rope_base, rope_factor; /* factor 1: no scaling */
    int64_t original_context;
    double log_multiplier, beta_fast;
    bool tied, rope_freqs;
    const char *pre;
    int index_heads, index_dim, index_top_k; /* sparse attention */
    int window, out_groups, out_rank, streams, hash_layers; /* V4 */
    double compress_base; /* rope base of layers with compression */
    const char *generation; /* that the name stands for; NULL: DEFAULT_GENERATION */
};

/* The shape called `name`, or the first (smallest) of an architecture. NULL: there is none. */
const struct shape *shape_find(const char *name);
const struct shape *shape_of_arch(const char *arch);
const struct shape *shape_at(int index); /* NULL behind the last */

/* Positions that one cached row of a layer sums up: 0 (none), 4 or 128. */
int shape_ratio(const struct shape *s, int layer);

/* File generations of deepseek2 and other ways of writing. */
struct generation {
    const char *name;
    bool kv_b, split, folded;      /* unsplit matrix; k_b and v_b; those with two dimensions */
    bool groups, betas, mtp;       /* keys of groups, keys of the YaRN ramp, a draft block */
    bool halves, own;              /* V4: whose eh_proj is two matrices; with embedding, norm, head */
    bool arrays, fused, old_names; /* per-layer arrays, fused projections, exp_probs_b alone */
};

const struct generation *generation_find(const char *name);
const struct generation *generation_at(int index);
#define DEFAULT_GENERATION "b++"

#endif
