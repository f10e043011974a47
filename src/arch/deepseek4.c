/* `deepseek4`: V4-Flash, V4-Pro. Four residual streams mixed by hyper-connections; one key-value row
 * of head size for all heads; per layer a window of recent rows and, by its compression ratio, rows
 * that sum up 4 positions (an indexer picks among them) or 128 positions (all are read).
 * Experts of the first layers are picked by token id, from a table in the file.
 *
 * One layer, with four streams X, hyper-connections (struct hyper) around each of its two halves:
 *     y = sum of pre[i] X[i];   X[k] = post[k] F(rmsnorm(y)) + sum of C[j][k] X[j]
 *     q     = W_qb rmsnorm(W_qa y), each head normalised, its tail rotated
 *     row   = rmsnorm(W_kv y), its tail rotated: key and value of every head
 *     o     = attention over window, blocks and sink; its tail rotated back, because a value carries
 *             the rotation of its own position
 *     out   = W_ob concat over groups of heads of W_oa,g o_g
 * Source: DeepSeek-V4's published inference code; the names are those of its GGUF files. */
#include <math.h>
#include <string.h>

#include "src/arch/blocks.h"
#include "src/arch/registry.h"

#define RATIO_CSA 4
#define RATIO_HCA 128
#define REWIND 8 /* positions that a session can take back without computing anything again */
#define STREAMS 4 /* nothing else was trained */

static const struct tensor_spec tensors[] = {
    SKELETON_TENSORS, MOE_TENSORS, MTP_TENSORS,
    { "blk.%d.nextn.e_proj.weight", W(nextn_e_proj), { DIM_HIDDEN, DIM_HIDDEN }, ROLE_MTP,
      MTP_LAYER, .need = OPTIONAL },
    { "blk.%d.nextn.h_proj.weight", W(nextn_h_proj), { DIM_HIDDEN, DIM_HIDDEN }, ROLE_MTP,
      MTP_LAYER, .instead = "blk.%d.nextn.eh_proj.weight" },
    { "blk.%d.nextn.hc_head_fn.weight", W(nextn_hc_fn), { DIM_STREAMS_HIDDEN, DIM_STREAMS },
      ROLE_MTP, MTP_LAYER, .need = OPTIONAL, .is_f32 = true, .alone = "output_hc_fn.weight" },
    { "blk.%d.nextn.hc_head_base.weight", W(nextn_hc_base), { DIM_STREAMS }, ROLE_MTP, MTP_LAYER,
      .need = OPTIONAL, .is_f32 = true, .alone = "output_hc_base.weight" },
    { "blk.%d.nextn.hc_head_scale.weight", W(nextn_hc_scale), { DIM_ONE }, ROLE_MTP, MTP_LAYER,
      .need = OPTIONAL, .is_f32 = true, .alone = "output_hc_scale.weight" },
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
    { A(q_latent), { DIM_Q_LORA }, ALIVE_ATTENTION }, { A(q), { DIM_Q, DIM_ATTN_OUT }, ALIVE_ATTENTION },
    { A(kv_a), { DIM_HEAD }, ALIVE_ATTENTION },
    { A(mix), { DIM_MIX }, ALIVE_ALWAYS },
    { A(values), { DIM_HEAD2, DIM_INDEX2 }, ALIVE_ATTENTION },
    { A(value_scores), { DIM_HEAD2, DIM_INDEX2 }, ALIVE_ATTENTION },
    { A(index_q), { DIM_INDEX_Q }, ALIVE_ATTENTION },
    { A(index_weights), { DIM_INDEX_HEADS }, ALIVE_ATTENTION },
    { A(out_lora), { DIM_OUT_LORA }, ALIVE_ATTENTION },
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
    p->router = (struct router){
        .scoring = ROUTER_SQRT_SOFTPLUS, .n_routed = p->n_routed, .top_k = p->top_k,
        .n_groups = 1, .n_groups_used = 1, .normalize = k->weights_norm,
        .normalize_floor = 6.103515625e-5f, .scale = k->weights_scale == 0 ? 1 : (float)k->weights_scale,
    };
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

/* The inverse of a rotation. */
static struct rope turned_back(const struct rope *r)
{
    struct rope back = *r;
    for (int i = 0; i < r->n_rot / 2; i++)
        back.frequency[i] = -r->frequency[i];
    return back;
}

/* Layers without blocks turn at the plain base, the others at their own and with YaRN, whose
 * magnitude is not applied. */
static bool solve_ropes(struct model *m, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    struct keys plain = *k, blocks = *k;
    int64_t n_rot = k->rope_dim > 0 ? k->rope_dim : p->head_dim;
    if (n_rot > p->head_dim || n_rot > p->index_dim)
        return fail(err, ERR_FILE, "deepseek4.rope.dimension_count: %lld, wider than heads of %d or "
                    "index keys of %d", (long long)n_rot, p->head_dim, p->index_dim);
    plain.rope_scaling = ROPE_SCALING_NONE;
    if (k->compress_rope_base > 0)
        blocks.rope_base = k->compress_rope_base;
    double fast = k->yarn_beta_fast > 0 ? k->yarn_beta_fast : 32;
    double slow = k->yarn_beta_slow > 0 ? k->yarn_beta_slow : 1;
    p->qk_rope_dim = (int)n_rot;
    if (!rope_solve(&p->rope, &plain, ROPE_NORM, n_rot, fast, slow, 1, NULL, err) ||
        !rope_solve(&p->rope_blocks, &blocks, ROPE_NORM, n_rot, fast, slow, 1, NULL, err))
        return false;
    p->rope_back = turned_back(&p->rope);
    p->rope_blocks_back = turned_back(&p->rope_blocks);
    return true;
}

static bool solve(struct model *m, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    if (k->hyper_passes < 1 || !(k->hyper_eps >= 0))
        return fail(err, ERR_FILE, "deepseek4.hyper_connection.%s: missing",
                    k->hyper_passes < 1 ? "sinkhorn_iterations" : "epsilon");
    if (k->window < 1)
        return fail(err, ERR_FILE, "deepseek4.attention.sliding_window: missing");
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
    p->attention_scale = (float)(1 / sqrt((double)p->head_dim));
    p->n_dense_lead = 0;
    memcpy(p->compress_ratio, k->compress_ratio, sizeof p->compress_ratio);
    return solve_experts(m, err) && solve_ratios(m, err) && indexer_solve(m, err) &&
           solve_ropes(m, err);
}

/* ---- views and what operations take ---- */

static struct hyper hyper_of(const struct model *m, const struct weight *scale,
                             const struct weight *base)
{
    return (struct hyper){
        .n_streams = STREAMS, .n_passes = (int)m->keys.hyper_passes,
        .eps = (float)m->keys.hyper_eps, .rms_eps = m->params.rms_eps,
        .scale = *scale, .base = *base,
    };
}

static void assemble_attention(struct model *m, struct layer *l, int ratio)
{
    const struct params *p = &m->params;
    l->attend = (struct window_attention){
        .n_heads = p->n_heads, .head_dim = p->head_dim, .window = p->window, .ratio = ratio,
        .selected = ratio == RATIO_CSA, .scale = p->attention_scale, .sinks = l->attn_sinks,
    };
    l->compressor = (struct compressor){
        .ratio = ratio, .dim = p->head_dim, .overlaps = ratio == RATIO_CSA,
        .ape = l->compressor_ape, .norm = l->compressor_norm, .rope = &p->rope_blocks,
        .rms_eps = p->rms_eps,
    };
    l->index_compressor = (struct compressor){
        .ratio = ratio, .dim = p->index_dim, .overlaps = true, .of_index = true,
        .ape = l->indexer_compressor_ape, .norm = l->indexer_compressor_norm,
        .rope = &p->rope_blocks, .rms_eps = p->rms_eps,
    };
    l->indexer = (struct indexer){ .n_heads = p->index_heads, .dim = p->index_dim,
                                   .top_k = p->index_top_k, .ratio = ratio,
                                   .heap_ties = p->numerics == NUMERICS_LLAMACPP };
}

static bool assemble(struct model *m, int layer, struct error *err)
{
    const struct params *p = &m->params;
    struct layer *l = &m->layers[layer];
    m->hyper_end = hyper_of(m, &m->hc_scale, &m->hc_base);
    l->hyper_attn = hyper_of(m, &l->hc_attn_scale, &l->hc_attn_base);
    l->hyper_ffn = hyper_of(m, &l->hc_ffn_scale, &l->hc_ffn_base);
    if (layer >= p->n_layers && p->compress_ratio[layer])
        return fail(err, ERR_FILE, "deepseek4.attention.compress_ratios: %d for the block that "
                    "drafts, expected 0", p->compress_ratio[layer]);
    assemble_attention(m, l, layer < p->n_layers ? p->compress_ratio[layer] : 0);
    if (!moe_assemble(m, layer, err))
        return false;
    l->experts.limit = m->keys.limit_routed[layer];
    l->limit = m->keys.limit_shared[layer];
    l->route.table = l->expert_table;
    return true;
}

/* The picks of a table are used as they stand. */
static bool check_table(struct model *m, int layer, bool act_f32, struct error *err)
{
    const struct weight *w = &m->layers[layer].expert_table;
    const int32_t *ids = w->data;
    (void)act_f32;
    for (int64_t i = 0; ids && i < w->rows * w->cols; i++) {
        if (ids[i] < 0 || ids[i] >= m->params.n_routed)
            return fail(err, ERR_FILE, "%s: expert %d for token %lld, expected 0 to %d", w->name,
                        ids[i], (long long)(i / w->cols), m->params.n_routed - 1);
    }
    return true;
}

/* ---- cache ---- */

/* Positions whose values a compressor may still ask for: those of a block that is not complete, and
 * of the block before it where blocks overlap. */
static int64_t state_rows(int ratio)
{
    return (ratio == RATIO_CSA ? 2 * ratio : ratio) + REWIND;
}

static int cache_parts(const struct params *p, enum tensor_type type, int64_t n_ctx, int layer,
                       struct cache_part *parts)
{
    int n = 0, ratio = p->compress_ratio[layer];
    bool csa = ratio == RATIO_CSA;
    size_t element = type == TYPE_F32 ? 4 : 2;
    size_t head = (size_t)p->head_dim, index = (size_t)p->index_dim;
    parts[n++] = (struct cache_part){
        .name = "window", .layer = layer, .kind = CACHE_RING, .row_bytes = head * element,
        .n_rows = min_of((int64_t)p->window + REWIND, n_ctx), .span = 1,
    };
    if (ratio == 0)
        return n;
    parts[n++] = (struct cache_part){
        .name = "blocks", .layer = layer, .kind = CACHE_ROWS, .row_bytes = head * element,
        .n_rows = n_ctx / ratio, .span = ratio,
    };
    parts[n++] = (struct cache_part){
        .name = "state", .layer = layer, .kind = CACHE_RING, .n_rows = state_rows(ratio),
        .row_bytes = 2 * (csa ? 2 : 1) * head * sizeof(float), .span = 1,
    };
    if (!csa)
        return n;
    n += indexer_cache_parts(p, type, n_ctx / ratio, ratio, layer, parts + n);
    parts[n++] = (struct cache_part){
        .name = "index_state", .layer = layer, .kind = CACHE_RING, .n_rows = state_rows(ratio),
        .row_bytes = 2 * 2 * index * sizeof(float), .span = 1,
    };
    return n;
}

/* Going back to no less than the newest position seen minus REWIND costs nothing: no ring has lost what
 * is needed. Beyond, checkpoints help (src/model/checkpoint.h), or all is computed again. */
static int64_t cache_rewind(const struct params *p, struct kvcache *c, int64_t n_past, int64_t n)
{
    (void)p;
    c->newest = max_of(c->newest, n_past);
    if (n >= c->newest - REWIND)
        return n;
    return c->newest = 0;
}

/* ---- forward ---- */

/* Rows that sum up blocks, and the choice among them. */
static void read_blocks(struct device *d, const struct params *p, const struct layer *l, int layer,
                        const struct step *s, struct activations *a)
{
    struct rows values = columns(a->values, 0, l->compressor_kv.rows);
    struct rows scores = columns(a->value_scores, 0, l->compressor_kv.rows);
    matmul(d, values, &l->compressor_kv, a->normed, NULL);
    matmul(d, scores, &l->compressor_gate, a->normed, NULL);
    compress(d, s->cache, layer, values, scores, &l->compressor);
    if (!l->attend.selected)
        return;

    values = columns(a->values, 0, l->indexer_compressor_kv.rows);
    scores = columns(a->value_scores, 0, l->indexer_compressor_kv.rows);
    matmul(d, values, &l->indexer_compressor_kv, a->normed, NULL);
    matmul(d, scores, &l->indexer_compressor_gate, a->normed, NULL);
    compress(d, s->cache, layer, values, scores, &l->index_compressor);
    matmul(d, a->index_q, &l->indexer_q_b, a->q_latent, NULL);
    rope(d, a->index_q, &p->rope_blocks, p->index_heads, p->index_dim,
         p->index_dim - p->qk_rope_dim);
    matmul(d, a->index_weights, &l->indexer_proj, a->normed, NULL);
    indexer_topk(d, a->index_q, a->index_weights, s->cache, layer, &l->indexer);
}

/* out = W_ob concat of W_oa,g o_g. */
static void project_out(struct device *d, const struct params *p, const struct layer *l,
                        struct activations *a)
{
    int64_t group = l->output_a.cols, rank = p->out_lora_rank;
    for (int g = 0; g < p->out_groups; g++) {
        struct weight w = weight_rows(&l->output_a, g * rank, rank);
        matmul(d, columns(a->out_lora, g * rank, rank), &w, columns(a->q, g * group, group), NULL);
    }
    matmul(d, a->out, &l->output_b, a->out_lora, NULL);
}

static void attention(struct device *d, const struct params *p, const struct layer *l, int layer,
                      const struct step *s, struct activations *a)
{
    const struct weight plain = { .cols = p->head_dim };
    const struct rope *turn = l->attend.ratio ? &p->rope_blocks : &p->rope;
    const struct rope *back = l->attend.ratio ? &p->rope_blocks_back : &p->rope_back;
    int64_t tail = p->head_dim - p->qk_rope_dim;

    matmul(d, a->q_latent, &l->q_a, a->normed, NULL);
    rmsnorm(d, a->q_latent, a->q_latent, &l->q_a_norm, 1, p->rms_eps);
    matmul(d, a->q, &l->q_b, a->q_latent, NULL);
    rmsnorm(d, a->q, a->q, &plain, p->n_heads, p->rms_eps);
    rope(d, a->q, turn, p->n_heads, p->head_dim, tail);

    matmul(d, a->kv_a, &l->kv, a->normed, NULL);
    rmsnorm(d, a->kv_a, a->kv_a, &l->kv_a_norm, 1, p->rms_eps);
    rope(d, a->kv_a, turn, 1, 0, tail);

    if (l->attend.ratio)
        read_blocks(d, p, l, layer, s, a);
    attention_window(d, a->q, a->q, a->kv_a, s->cache, layer, &l->attend);
    rope(d, a->q, back, p->n_heads, p->head_dim, tail);
    project_out(d, p, l, a);
}

/* normed = rmsnorm of the streams' mixture that a half of a layer reads. */
static void enter(struct device *d, const struct params *p, const struct weight *fn,
                  const struct hyper *h, const struct weight *norm, struct activations *a)
{
    struct rows mix = columns(a->mix, 0, fn->rows);
    matmul(d, mix, fn, a->hidden, NULL);
    hyper_mix(d, a->normed, mix, a->hidden, h);
    rmsnorm(d, a->normed, a->normed, norm, 1, p->rms_eps);
}

/* The streams through one layer, whose part of the cache is number `layer`. */
static bool through_layer(struct device *d, const struct params *p, const struct layer *l,
                          int layer, const struct step *s, struct activations *a,
                          struct error *err)
{
    enter(d, p, &l->hc_attn_fn, &l->hyper_attn, &l->attn_norm, a);
    attention(d, p, l, layer, s, a);
    hyper_join(d, a->hidden, a->mix, a->out);
    phase_done(a->clock, PHASE_ATTENTION);
    if (decoder_cancelled(s, err))
        return false;

    enter(d, p, &l->hc_ffn_fn, &l->hyper_ffn, &l->ffn_norm, a);
    moe_mix(d, p, l, a);
    if (p->n_shared > 0)
        add(d, a->routed, a->routed, a->out);
    hyper_join(d, a->hidden, a->mix, a->routed);
    return !decoder_cancelled(s, err);
}

static bool forward(const struct model *m, struct device *d, const struct step *s,
                    struct activations *a, struct error *err)
{
    const struct params *p = &m->params;
    struct rows first = columns(a->hidden, 0, p->hidden_size);
    embed(d, first, &m->token_embd);
    for (int i = 1; i < STREAMS; i++)
        d->ops->copy(d, columns(a->hidden, i * p->hidden_size, p->hidden_size), first);
    for (int i = 0; i < p->n_layers; i++) {
        if (!through_layer(d, p, &m->layers[i], i, s, a, err))
            return false;
    }
    if (a->states.data)
        d->ops->copy(d, a->states, a->hidden);
    if (s->n_logits > 0) {
        enter(d, p, &m->hc_fn, &m->hyper_end, &m->output_norm, a);
        logits(d, &m->output, a->normed);
    }
    phase_done(a->clock, PHASE_HEAD);
    return !decoder_cancelled(s, err);
}

/* ---- multi-token prediction ---- */

/* Each stream of the block's input, from the same stream behind the last layer:
 *     X'[i] = E rmsnorm(embed(token)) + P rmsnorm(X[i])
 * eh_proj is both matrices side by side. A row of pairs: [ streams | one vector | the other ]. */
static void join_pairs(struct device *d, const struct params *p, const struct layer *l,
                       struct rows states, struct rows pairs, struct activations *a)
{
    int64_t width = p->hidden_size;
    struct rows pair = columns(pairs, STREAMS * width, 2 * width);
    struct rows e = columns(pair, 0, width), x = columns(pair, width, width);
    rmsnorm(d, e, a->normed, &l->nextn_enorm, 1, p->rms_eps);
    if (l->nextn_e_proj.data)
        matmul(d, a->out, &l->nextn_e_proj, e, NULL);
    for (int i = 0; i < STREAMS; i++) {
        struct rows stream = columns(a->hidden, i * width, width);
        rmsnorm(d, x, columns(states, i * width, width), &l->nextn_hnorm, 1, p->rms_eps);
        if (l->nextn_e_proj.data) {
            matmul(d, stream, &l->nextn_h_proj, x, NULL);
            add(d, stream, stream, a->out);
        } else {
            matmul(d, stream, &l->nextn_eh_proj, pair, NULL);
        }
    }
}

/* A weight of the block, or where it has none the model's. */
static const struct weight *own_or(const struct weight *own, const struct weight *shared)
{
    return own->data ? own : shared;
}

/* One more layer, with a window for attention, experts by scores, and its own way from the streams to
 * the head, which it shares with the model (src/arch/mtp.c is the block of V3). */
static bool draft(const struct model *m, struct device *d, const struct step *s,
                  struct rows states, struct rows pairs, struct activations *a,
                  struct error *err)
{
    const struct params *p = &m->params;
    const struct layer *l = &m->layers[p->n_layers];
    embed(d, a->normed, own_or(&l->nextn_embed, &m->token_embd));
    join_pairs(d, p, l, states, pairs, a);
    if (!through_layer(d, p, l, 0, s, a, err))
        return false;
    if (s->n_logits > 0) {
        d->ops->copy(d, columns(pairs, 0, STREAMS * p->hidden_size), a->hidden);
        struct hyper end = hyper_of(m, own_or(&l->nextn_hc_scale, &m->hc_scale),
                                    own_or(&l->nextn_hc_base, &m->hc_base));
        enter(d, p, own_or(&l->nextn_hc_fn, &m->hc_fn), &end,
              own_or(&l->nextn_head_norm, &m->output_norm), a);
        logits(d, own_or(&l->nextn_head, &m->output), a->normed);
    }
    return !decoder_cancelled(s, err);
}

const struct arch arch_deepseek4 = {
    .name = "deepseek4",
    .tensors = tensors, .n_tensors = ARRAY_LEN(tensors),
    .pairing = ROPE_NORM,
    .solve = solve, .assemble = assemble, .derive = check_table,
    .cache_parts = cache_parts, .cache_rewind = cache_rewind, .forward = forward,
    .draft = draft,
    .buffers = buffers, .n_buffers = ARRAY_LEN(buffers),
};
