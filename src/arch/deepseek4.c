/* `deepseek4`: V4-Flash, V4-Pro. Four residual streams mixed by hyper-connections; one key-value row
 * of head size for all heads; per layer a window of recent rows and, by its compression ratio, rows
 * that sum up 4 positions (an indexer picks among them) or 128 positions (all are read).
 * Experts of the first layers are picked by token id, from a table in the file.
 *
 * Tables, sizes and cache only: there is no forward pass yet. */
#include "src/arch/blocks.h"
#include "src/arch/registry.h"

#define RATIO_CSA 4
#define RATIO_HCA 128
#define USUAL_STEP 512 /* tokens of a prefill step */
#define STREAMS 4 /* nothing else was trained */

static const struct tensor_spec tensors[] = {
    SKELETON_TENSORS, MOE_TENSORS,
    { "output_hc_fn.weight", M(hc_fn), { DIM_STREAMS_HIDDEN, DIM_STREAMS }, ROLE_TRUNK, ONCE,
      .is_f32 = true, .alias = "hc_head_fn.weight" },
    { "output_hc_base.weight", M(hc_base), { DIM_STREAMS }, ROLE_TRUNK, ONCE, .is_f32 = true,
      .alias = "hc_head_base.weight" },
    { "output_hc_scale.weight", M(hc_scale), { DIM_ONE }, ROLE_TRUNK, ONCE, .is_f32 = true,
      .alias = "hc_head_scale.weight" },
    { "blk.%d.hc_attn_fn.weight", W(hc_attn_fn), { DIM_STREAMS_HIDDEN, DIM_MIX }, ROLE_TRUNK,
      EVERY_LAYER, .is_f32 = true },
    { "blk.%d.hc_attn_base.weight", W(hc_attn_base), { DIM_MIX }, ROLE_TRUNK, EVERY_LAYER,
      .is_f32 = true },
    { "blk.%d.hc_attn_scale.weight", W(hc_attn_scale), { DIM_MIX_SCALES }, ROLE_TRUNK, EVERY_LAYER,
      .is_f32 = true },
    { "blk.%d.hc_ffn_fn.weight", W(hc_ffn_fn), { DIM_STREAMS_HIDDEN, DIM_MIX }, ROLE_TRUNK,
      EVERY_LAYER, .is_f32 = true },
    { "blk.%d.hc_ffn_base.weight", W(hc_ffn_base), { DIM_MIX }, ROLE_TRUNK, EVERY_LAYER,
      .is_f32 = true },
    { "blk.%d.hc_ffn_scale.weight", W(hc_ffn_scale), { DIM_MIX_SCALES }, ROLE_TRUNK, EVERY_LAYER,
      .is_f32 = true },

    { "blk.%d.attn_sinks.weight", W(attn_sinks), { DIM_HEADS }, ROLE_TRUNK, EVERY_LAYER,
      .is_f32 = true },
    { "blk.%d.attn_q_a.weight", W(q_a), { DIM_HIDDEN, DIM_Q_LORA }, ROLE_TRUNK, EVERY_LAYER,
      .need = REQUIRED },
    { "blk.%d.attn_q_a_norm.weight", W(q_a_norm), { DIM_Q_LORA }, ROLE_TRUNK, EVERY_LAYER,
      .is_f32 = true },
    { "blk.%d.attn_q_b.weight", W(q_b), { DIM_Q_LORA, DIM_Q }, ROLE_TRUNK, EVERY_LAYER,
      .need = REQUIRED },
    { "blk.%d.attn_kv.weight", W(kv), { DIM_HIDDEN, DIM_HEAD }, ROLE_TRUNK, EVERY_LAYER,
      .need = REQUIRED, .alias = "blk.%d.attn_kv_latent.weight" },
    { "blk.%d.attn_kv_a_norm.weight", W(kv_a_norm), { DIM_HEAD }, ROLE_TRUNK, EVERY_LAYER,
      .is_f32 = true },
    { "blk.%d.attn_output_a.weight", W(output_a), { DIM_OUT_GROUP, DIM_OUT_LORA }, ROLE_TRUNK,
      EVERY_LAYER, .need = REQUIRED },
    { "blk.%d.attn_output_b.weight", W(output_b), { DIM_OUT_LORA, DIM_HIDDEN }, ROLE_TRUNK,
      EVERY_LAYER, .need = REQUIRED },

    { "blk.%d.attn_compressor_kv.weight", W(compressor_kv), { DIM_HIDDEN, DIM_HEAD2 }, ROLE_TRUNK,
      CSA_LAYER, .need = REQUIRED },
    { "blk.%d.attn_compressor_gate.weight", W(compressor_gate), { DIM_HIDDEN, DIM_HEAD2 },
      ROLE_TRUNK, CSA_LAYER, .need = REQUIRED },
    { "blk.%d.attn_compressor_ape.weight", W(compressor_ape), { DIM_HEAD2, DIM_RATIO_CSA },
      ROLE_TRUNK, CSA_LAYER, .is_f32 = true },
    { "blk.%d.attn_compressor_kv.weight", W(compressor_kv), { DIM_HIDDEN, DIM_HEAD }, ROLE_TRUNK,
      HCA_LAYER, .need = REQUIRED },
    { "blk.%d.attn_compressor_gate.weight", W(compressor_gate), { DIM_HIDDEN, DIM_HEAD },
      ROLE_TRUNK, HCA_LAYER, .need = REQUIRED },
    { "blk.%d.attn_compressor_ape.weight", W(compressor_ape), { DIM_HEAD, DIM_RATIO_HCA },
      ROLE_TRUNK, HCA_LAYER, .is_f32 = true },
    { "blk.%d.attn_compressor_norm.weight", W(compressor_norm), { DIM_HEAD }, ROLE_TRUNK,
      CSA_LAYER, .is_f32 = true },
    { "blk.%d.attn_compressor_norm.weight", W(compressor_norm), { DIM_HEAD }, ROLE_TRUNK,
      HCA_LAYER, .is_f32 = true },

    { "blk.%d.indexer.attn_q_b.weight", W(indexer_q_b), { DIM_Q_LORA, DIM_INDEX_Q }, ROLE_TRUNK,
      CSA_LAYER, .need = REQUIRED },
    { "blk.%d.indexer.proj.weight", W(indexer_proj), { DIM_HIDDEN, DIM_INDEX_HEADS }, ROLE_TRUNK,
      CSA_LAYER, .need = REQUIRED },
    { "blk.%d.indexer_compressor_kv.weight", W(indexer_compressor_kv), { DIM_HIDDEN, DIM_INDEX2 },
      ROLE_TRUNK, CSA_LAYER, .need = REQUIRED },
    { "blk.%d.indexer_compressor_gate.weight", W(indexer_compressor_gate),
      { DIM_HIDDEN, DIM_INDEX2 }, ROLE_TRUNK, CSA_LAYER, .need = REQUIRED },
    { "blk.%d.indexer_compressor_ape.weight", W(indexer_compressor_ape),
      { DIM_INDEX2, DIM_RATIO_CSA }, ROLE_TRUNK, CSA_LAYER, .is_f32 = true },
    { "blk.%d.indexer_compressor_norm.weight", W(indexer_compressor_norm), { DIM_INDEX },
      ROLE_TRUNK, CSA_LAYER, .is_f32 = true },

    { "blk.%d.ffn_gate_tid2eid.weight", W(expert_table), { DIM_TOP_K, DIM_VOCAB }, ROLE_EMBED,
      HASH_LAYER, .is_i32 = true },
};

static const struct buffer_spec buffers[] = {
    { A(hidden), { DIM_STREAMS_HIDDEN }, ALIVE_ALWAYS },
    { A(normed), { DIM_HIDDEN }, ALIVE_ALWAYS }, { A(out), { DIM_HIDDEN }, ALIVE_ALWAYS },
    { A(q_latent), { DIM_Q_LORA }, ALIVE_ATTENTION }, { A(q), { DIM_Q }, ALIVE_ATTENTION },
    { A(kv_a), { DIM_HEAD }, ALIVE_ATTENTION }, { A(attn), { DIM_ATTN_OUT }, ALIVE_ATTENTION },
    MOE_BUFFERS,
};

/* ---- sizes ---- */

static bool solve_experts(struct model *m, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    if (k->gating != 4)
        return fail(err, ERR_FILE, "deepseek4.expert_gating_func: %lld, expected 4 (square root of "
                    "softplus)", (long long)k->gating);
    if (k->n_routed < 1 || k->top_k < 1 || k->top_k > k->n_routed || k->expert_size < 1)
        return fail(err, ERR_FILE, "deepseek4: %lld of %lld experts of width %lld: a key is "
                    "missing", (long long)k->top_k, (long long)k->n_routed, (long long)k->expert_size);
    p->n_routed = (int)k->n_routed;
    p->top_k = (int)k->top_k;
    p->n_shared = (int)k->n_shared;
    p->expert_size = k->expert_size;
    p->n_hash_layers = (int)min_of(k->n_hash_layers, (int64_t)p->n_layers);
    return true;
}

static bool solve_ratios(const struct model *m, struct error *err)
{
    const struct params *p = &m->params;
    if (m->keys.n_compress_ratios < p->n_layers)
        return fail(err, ERR_FILE, "deepseek4.attention.compress_ratios: %d values for %d layers",
                    m->keys.n_compress_ratios, p->n_layers);
    for (int i = 0; i < p->n_layers; i++) {
        int ratio = p->compress_ratio[i];
        if (ratio != 0 && ratio != RATIO_CSA && ratio != RATIO_HCA)
            return fail(err, ERR_FILE, "deepseek4.attention.compress_ratios: layer %d has %d, "
                        "expected 0, 4 or 128", i, ratio);
    }
    return true;
}

static bool solve(struct model *m, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    if (k->n_streams != STREAMS)
        return fail(err, ERR_FILE, "deepseek4.hyper_connection.count: %lld, expected %d",
                    (long long)k->n_streams, STREAMS);
    if (k->key_length < 1 || k->q_lora_rank < 1 || k->out_groups < 1 || k->out_lora_rank < 1 ||
        k->n_heads % k->out_groups)
        return fail(err, ERR_FILE, "deepseek4.attention: %lld heads of %lld in %lld groups of rank "
                    "%lld: a key is missing or does not divide", (long long)k->n_heads,
                    (long long)k->key_length, (long long)k->out_groups,
                    (long long)k->out_lora_rank);
    p->head_dim = p->value_dim = (int)k->key_length;
    p->q_lora_rank = (int)k->q_lora_rank;
    p->n_streams = STREAMS;
    p->out_groups = (int)k->out_groups;
    p->out_lora_rank = (int)k->out_lora_rank;
    p->window = (int)k->window;
    p->n_dense_lead = 0;
    memcpy(p->compress_ratio, k->compress_ratio, sizeof p->compress_ratio);
    return solve_experts(m, err) && solve_ratios(m, err) && indexer_solve(m, err);
}

static bool assemble(struct model *m, int layer, struct error *err)
{
    (void)m;
    (void)layer;
    (void)err;
    return true; /* views come with the forward pass */
}

/* ---- cache ---- */

/* Rows of head size: the window, with room for the steps of a prefill, and those that sum up a
 * block; index keys beside those of ratio 4; and F32 sums of the block that is not complete yet,
 * kept for two blocks at ratio 4. */
static int cache_parts(const struct params *p, enum tensor_type type, int64_t n_ctx, int layer,
                       struct cache_part *parts)
{
    int n = 0, ratio = p->compress_ratio[layer];
    size_t element = type == TYPE_F32 ? 4 : 2;
    size_t head = (size_t)p->head_dim, index = ratio == RATIO_CSA ? (size_t)p->index_dim : 0;
    int64_t n_blocks = ratio ? (n_ctx + ratio - 1) / ratio : 0;
    parts[n++] = (struct cache_part){
        .name = "window", .layer = layer, .kind = CACHE_RING, .row_bytes = head * element,
        .n_rows = min_of((int64_t)p->window + USUAL_STEP, n_ctx), .span = 1,
    };
    if (ratio == 0)
        return n;
    parts[n++] = (struct cache_part){
        .name = "blocks", .layer = layer, .kind = CACHE_ROWS, .row_bytes = head * element,
        .n_rows = n_blocks, .span = ratio,
    };
    if (index)
        parts[n++] = (struct cache_part){
            .name = "index", .layer = layer, .kind = CACHE_ROWS, .row_bytes = index * element,
            .n_rows = n_blocks, .span = ratio,
        };
    parts[n++] = (struct cache_part){
        .name = "sums", .layer = layer, .kind = CACHE_STATE,
        .row_bytes = (ratio == RATIO_CSA ? 4 : 1) * 2 * (head + index) * sizeof(float),
        .n_rows = ratio, .span = 1,
    };
    return n;
}

const struct arch arch_deepseek4 = {
    .name = "deepseek4",
    .tensors = tensors, .n_tensors = ARRAY_LEN(tensors),
    .pairing = ROPE_NORM,
    .solve = solve, .assemble = assemble, .cache_parts = cache_parts,
    .buffers = buffers, .n_buffers = ARRAY_LEN(buffers),
};
