/* config.json as metadata of the file: the "<architecture>." keys. */
#include "tools/hf_config.h"

#include <math.h>
#include <stdio.h>

#include "tools/hf_fields.h"

/* A writer that puts the architecture's name in front and stops at the first failure. */
struct keys_out {
    struct gguf_writer *w;
    const char *arch;
    struct error *err;
    bool ok;
    char key[128];
};

static const char *full(struct keys_out *k, const char *suffix)
{
    snprintf(k->key, sizeof k->key, "%s.%s", k->arch, suffix);
    return k->key;
}

static void put_u32(struct keys_out *k, const char *suffix, int64_t value)
{
    k->ok = k->ok && gguf_writer_add_u32(k->w, full(k, suffix), (uint32_t)value, k->err);
}

static void put_f32(struct keys_out *k, const char *suffix, double value)
{
    k->ok = k->ok && gguf_writer_add_f32(k->w, full(k, suffix), (float)value, k->err);
}

static void put_str(struct keys_out *k, const char *suffix, const char *value)
{
    k->ok = k->ok && gguf_writer_add_str(k->w, full(k, suffix), value, k->err);
}

static void put_indexer(struct keys_out *k, const struct params *p)
{
    put_u32(k, "attention.indexer.head_count", p->index_heads);
    put_u32(k, "attention.indexer.key_length", p->index_dim);
    put_u32(k, "attention.indexer.top_k", p->index_top_k);
}

static void put_array(struct keys_out *k, const char *suffix, enum gguf_type type,
                      const void *values, size_t n)
{
    k->ok = k->ok && gguf_writer_add_array(k->w, full(k, suffix), type, values, n, k->err);
}

/* Attention and streams of V4. The list of ratios is written as the checkpoint has it, with those
 * of prediction blocks behind. */
static bool put_v4(struct keys_out *k, const struct hf_config *c)
{
    const struct params *p = &c->params;
    const struct json *j = c->json, *list = js_get(j, "compress_ratios");
    int32_t ratios[2 * MAX_LAYERS];
    float clamps[MAX_LAYERS];
    int64_t ratio, rounds;
    double base, eps, limit;
    size_t n = min_of(js_count(list), ARRAY_LEN(ratios));
    if (!field_real(j, "compress_rope_theta", 1, 1e12, NAN, &base, k->err) ||
        !field_int(j, "hc_sinkhorn_iters", 1, 1000, REQUIRED_FIELD, &rounds, k->err) ||
        !field_real(j, "hc_eps", 1e-12, 0.1, NAN, &eps, k->err) ||
        !field_real(j, "swiglu_limit", 0, 1e6, 0, &limit, k->err))
        return false;
    for (size_t i = 0; i < n; i++)
        ratios[i] = js_as_int(js_at(list, i), &ratio) ? (int32_t)ratio : 0;
    size_t n_blocks = (size_t)(p->n_layers + p->n_mtp);
    for (size_t i = 0; i < n_blocks; i++)
        clamps[i] = (float)limit;
    put_u32(k, "embedding_length_out", p->n_streams * p->hidden_size);
    put_u32(k, "attention.head_count", p->n_heads);
    put_u32(k, "attention.head_count_kv", 1);
    put_f32(k, "attention.layer_norm_rms_epsilon", p->rms_eps);
    put_u32(k, "attention.key_length", p->head_dim);
    put_u32(k, "attention.value_length", p->value_dim);
    put_u32(k, "attention.q_lora_rank", p->q_lora_rank);
    put_u32(k, "attention.sliding_window", p->window);
    put_u32(k, "attention.output_group_count", p->out_groups);
    put_u32(k, "attention.output_lora_rank", p->out_lora_rank);
    put_array(k, "attention.compress_ratios", GGUF_I32, ratios, n);
    put_f32(k, "attention.compress_rope_freq_base", base);
    put_indexer(k, p);
    put_u32(k, "hyper_connection.count", p->n_streams);
    put_u32(k, "hyper_connection.sinkhorn_iterations", rounds);
    put_f32(k, "hyper_connection.epsilon", eps);
    put_u32(k, "hash_layer_count", p->n_hash_layers);
    put_array(k, "swiglu_clamp_exp", GGUF_F32, clamps, n_blocks);
    put_array(k, "swiglu_clamp_shexp", GGUF_F32, clamps, n_blocks);
    put_u32(k, "rope.dimension_count", p->rope.n_rot);
    return k->ok;
}

static void put_attention(struct keys_out *k, const struct hf_config *c)
{
    const struct params *p = &c->params;
    put_u32(k, "attention.head_count", p->n_heads);
    put_f32(k, "attention.layer_norm_rms_epsilon", p->rms_eps);
    if (!c->arch->has_latent_cache) {
        put_u32(k, "attention.head_count_kv", p->n_kv_heads);
        if (c->has_head_dim) {
            put_u32(k, "attention.key_length", p->head_dim);
            put_u32(k, "attention.value_length", p->value_dim);
        }
        put_u32(k, "rope.dimension_count", p->head_dim);
        return;
    }
    if (hf_is_arch(c, "deepseek32"))
        put_indexer(k, p);
    put_u32(k, "attention.head_count_kv", 1); /* as the absorbed form sees it: one latent for all */
    if (p->q_lora_rank)
        put_u32(k, "attention.q_lora_rank", p->q_lora_rank);
    put_u32(k, "attention.kv_lora_rank", p->kv_lora_rank);
    put_u32(k, "attention.key_length", p->kv_lora_rank + p->qk_rope_dim);
    put_u32(k, "attention.value_length", p->kv_lora_rank);
    put_u32(k, "attention.key_length_mla", p->head_dim);
    put_u32(k, "attention.value_length_mla", p->value_dim);
    put_u32(k, "rope.dimension_count", p->qk_rope_dim);
}

/* V3's names for V3's choices; older configurations leave some out. */
static bool put_experts(struct keys_out *k, const struct hf_config *c)
{
    const struct params *p = &c->params;
    const struct json *j = c->json;
    bool is_v1 = hf_is_arch(c, "deepseek"), norm;
    int64_t groups, groups_used;
    double scale;
    struct str scoring = str_of(c->scoring), method;
    if (!field_bool(j, "norm_topk_prob", false, &norm, k->err) ||
        !field_real(j, "routed_scaling_factor", -1e6, 1e6, 1, &scale, k->err) ||
        !field_int(j, "n_group", 0, 1024, 0, &groups, k->err) ||
        !field_int(j, "topk_group", 0, 1024, 0, &groups_used, k->err))
        return false;
    js_as_text(js_get(j, "scoring_func"), &scoring);
    if (js_as_text(js_get(j, "topk_method"), &method) && str_is(method, "greedy"))
        groups = groups_used = min_of(groups, 1); /* announced or not, this method has none */
    if (c->spelling != SPELLING_V4)
        put_u32(k, "leading_dense_block_count", p->n_dense_lead);
    put_u32(k, "expert_count", p->n_routed);
    put_u32(k, "expert_used_count", p->top_k);
    put_u32(k, "expert_shared_count", p->n_shared);
    put_u32(k, "expert_feed_forward_length", p->expert_size);
    put_f32(k, "expert_weights_scale", is_v1 ? 1 : scale);
    if (norm)
        k->ok = k->ok && gguf_writer_add_bool(k->w, full(k, "expert_weights_norm"), true, k->err);
    put_u32(k, "expert_gating_func", str_is(scoring, "sqrtsoftplus") ? 4
                                     : str_is(scoring, "sigmoid")    ? 2
                                                                     : 1);
    if (!is_v1 && groups > 0 && groups_used > 0) {
        if (p->n_routed % groups || groups_used > groups)
            return fail(k->err, ERR_FILE, "config.json: n_group %lld, topk_group %lld with %d "
                        "experts",
                        (long long)groups, (long long)groups_used, p->n_routed);
        put_u32(k, "expert_group_count", groups);
        put_u32(k, "expert_group_used_count", groups_used);
    }
    if (p->n_mtp)
        put_u32(k, "nextn_predict_layers", p->n_mtp);
    return k->ok;
}

/* deepseek2 scales the scores by the square of 1 + 0.1 mscale_all_dim ln factor; what cos and sin
 * are multiplied by is the quotient of that for mscale and mscale_all_dim, which is 1 in every
 * release. */
static bool put_mscale(struct keys_out *k, const struct json *j)
{
    double mscale, all_dim;
    if (!field_real(j, "mscale_all_dim", 0, 1e3, 0, &all_dim, k->err) ||
        !field_real(j, "mscale", 0, 1e3, 1, &mscale, k->err))
        return false;
    if (mscale != all_dim)
        return fail(k->err, ERR_FILE, "config.json: mscale %g differs from mscale_all_dim %g: GGUF "
                    "cannot say this", mscale, all_dim);
    put_f32(k, "rope.scaling.yarn_log_multiplier", 0.1 * all_dim);
    return k->ok;
}

static bool put_rope(struct keys_out *k, const struct hf_config *c)
{
    const struct json *j = hf_rope_fields(c);
    struct str type = hf_rope_type(c);
    double factor, original, fast, slow;
    put_f32(k, "rope.freq_base", c->rope_base);
    if (!str_is(type, "linear") && !str_is(type, "yarn")) {
        if (hf_is_arch(c, "deepseek"))
            put_str(k, "rope.scaling.type", "none");
        return k->ok;
    }
    if (!field_real(j, "factor", 1, 1e4, NAN, &factor, k->err))
        return false;
    put_str(k, "rope.scaling.type", str_is(type, "yarn") ? "yarn" : "linear");
    put_f32(k, "rope.scaling.factor", factor);
    if (str_is(type, "linear"))
        return k->ok;
    if (!field_real(j, "original_max_position_embeddings", 1, 1 << 24, NAN, &original, k->err) ||
        !field_real(j, "beta_fast", 1e-6, 1e6, 0, &fast, k->err) ||
        !field_real(j, "beta_slow", 1e-6, 1e6, 0, &slow, k->err))
        return false;
    put_u32(k, "rope.scaling.original_context_length", (int64_t)original);
    if (fast > 0)
        put_f32(k, "rope.scaling.yarn_beta_fast", fast);
    if (slow > 0)
        put_f32(k, "rope.scaling.yarn_beta_slow", slow);
    return k->ok && (!c->arch->has_latent_cache || put_mscale(k, j));
}

bool hf_config_write(const struct hf_config *c, struct gguf_writer *w, struct error *err)
{
    const struct params *p = &c->params;
    struct keys_out k = { .w = w, .arch = c->arch->name, .err = err, .ok = true };
    put_u32(&k, "vocab_size", p->n_vocab);
    put_u32(&k, "context_length", p->context_length);
    put_u32(&k, "embedding_length", p->hidden_size);
    put_u32(&k, "block_count", p->n_layers + p->n_mtp);
    if (p->ffn_size)
        put_u32(&k, "feed_forward_length", p->ffn_size);
    if (c->spelling != SPELLING_V4)
        put_attention(&k, c);
    else if (!put_v4(&k, c))
        return false;
    return put_rope(&k, c) && (!p->n_routed || put_experts(&k, c)) && k.ok;
}
