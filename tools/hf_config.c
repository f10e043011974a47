#include "tools/hf_config.h"

#include <math.h>
#include <stdio.h>

#define PI 3.14159265358979323846

/* ---- fields ---- */

#define REQUIRED_FIELD INT64_MIN

/* An integer field in low .. high; absent or null: `fallback`, or an error when it is required. */
static bool get_int(const struct json *j, const char *key, int64_t low, int64_t high,
                    int64_t fallback, int64_t *value, struct error *err)
{
    const struct json *field = js_get(j, key);
    double real;
    *value = fallback;
    if (!field || js_is_null(field))
        return fallback != REQUIRED_FIELD || fail(err, ERR_FILE, "config.json: %s: missing", key);
    if (!js_as_int(field, value)) {
        if (!js_as_real(field, &real) || real != floor(real) || fabs(real) > 1e15)
            return fail(err, ERR_FILE, "config.json: %s: not a whole number", key);
        *value = (int64_t)real;
    }
    return (*value >= low && *value <= high) ||
           fail(err, ERR_FILE, "config.json: %s: %lld, expected %lld to %lld", key,
                (long long)*value, (long long)low, (long long)high);
}

/* A number in low .. high; NAN as fallback: required. */
static bool get_real(const struct json *j, const char *key, double low, double high,
                     double fallback,
                     double *value, struct error *err)
{
    const struct json *field = js_get(j, key);
    *value = fallback;
    if (!field || js_is_null(field))
        return !isnan(fallback) || fail(err, ERR_FILE, "config.json: %s: missing", key);
    if (!js_as_real(field, value))
        return fail(err, ERR_FILE, "config.json: %s: not a number", key);
    return (*value >= low && *value <= high) ||
           fail(err, ERR_FILE, "config.json: %s: %g, expected %g to %g", key, *value, low, high);
}

static bool get_bool(const struct json *j, const char *key, bool fallback, bool *value,
                     struct error *err)
{
    const struct json *field = js_get(j, key);
    *value = fallback;
    return !field || js_is_null(field) || js_as_bool(field, value) ||
           fail(err, ERR_FILE, "config.json: %s: not true or false", key);
}

/* A text that must be one of `words`, separated by blanks, or absent. */
static bool expect_text(const struct json *j, const char *key, const char *words, struct error *err)
{
    const struct json *field = js_get(j, key);
    struct str text;
    if (!field || js_is_null(field))
        return true;
    if (!js_as_text(field, &text))
        return fail(err, ERR_FILE, "config.json: %s: not a text", key);
    for (const char *at = words; *at; at += strspn(at, " ")) {
        size_t n = strcspn(at, " ");
        if (text.len == n && memcmp(at, text.data, n) == 0)
            return true;
        at += n;
    }
    return fail(err, ERR_FILE, "config.json: %s: \"%.*s\", expected one of: %s", key,
                (int)min_of(text.len, (size_t)40), text.data, words);
}

static bool expect_bool(const struct json *j, const char *key, bool wanted, struct error *err)
{
    bool value;
    return get_bool(j, key, wanted, &value, err) &&
           (value == wanted || fail(err, ERR_FILE, "config.json: %s: %s is not supported", key,
                                    value ? "true" : "false"));
}

/* ---- architecture ---- */

static const struct {
    const char *hf, *gguf; /* gguf NULL: known, not supported by this converter */
} architectures[] = {
    { "LlamaForCausalLM", "llama" },
    { "Qwen2ForCausalLM", "qwen2" },
    { "Qwen3ForCausalLM", "qwen3" },
    { "DeepseekForCausalLM", "deepseek" },
    { "DeepseekV2ForCausalLM", "deepseek2" },
    { "DeepseekV3ForCausalLM", "deepseek2" },
    { "DeepseekV32ForCausalLM", NULL },
    { "DeepseekV4ForCausalLM", NULL },
};

static bool find_architecture(struct hf_config *c, struct error *err)
{
    const struct json *list = js_get(c->json, "architectures");
    struct str name;
    if (js_count(list) != 1 || !js_as_text(js_at(list, 0), &name))
        return fail(err, ERR_FILE, "config.json: architectures: %zu names, expected one",
                    js_count(list));
    for (size_t i = 0; i < ARRAY_LEN(architectures); i++) {
        if (!str_is(name, architectures[i].hf))
            continue;
        c->is_v3 = str_is(name, "DeepseekV3ForCausalLM");
        c->arch = architectures[i].gguf ? arch_find(str_of(architectures[i].gguf)) : NULL;
        return c->arch || fail(err, ERR_FILE, "config.json: %s: this version cannot convert it",
                               architectures[i].hf);
    }
    return fail(err, ERR_FILE, "config.json: architecture %.*s: not supported (Llama, Qwen2, "
                "Qwen3, "
                "Deepseek, DeepseekV2 and DeepseekV3 are)", (int)min_of(name.len, (size_t)60),
                name.data);
}

static bool is_arch(const struct hf_config *c, const char *name)
{
    return strcmp(c->arch->name, name) == 0;
}

/* ---- dimensions ---- */

static bool read_skeleton(struct hf_config *c, struct error *err)
{
    struct params *p = &c->params;
    const struct json *j = c->json;
    int64_t layers, heads, kv_heads;
    double eps;
    if (!get_int(j, "num_hidden_layers", 1, 504, REQUIRED_FIELD, &layers, err) ||
        !get_int(j, "hidden_size", 8, 65536, REQUIRED_FIELD, &p->hidden_size, err) ||
        !get_int(j, "vocab_size", 1, 1 << 20, REQUIRED_FIELD, &p->n_vocab, err) ||
        !get_int(j, "max_position_embeddings", 1, 1 << 24, REQUIRED_FIELD, &p->context_length,
                 err) ||
        !get_int(j, "intermediate_size", 1, 1 << 20, REQUIRED_FIELD, &p->ffn_size, err) ||
        !get_int(j, "num_attention_heads", 1, 1024, REQUIRED_FIELD, &heads, err) ||
        !get_int(j, "num_key_value_heads", 1, 1024, heads, &kv_heads, err) ||
        !get_real(j, "rms_norm_eps", 1e-12, 0.1, 1e-6, &eps, err) ||
        !get_bool(j, "tie_word_embeddings", false, &c->tied, err) ||
        !expect_text(j, "hidden_act", "silu", err) ||
        !expect_bool(j, "use_sliding_window", false, err))
        return false;
    if (heads % kv_heads)
        return fail(err, ERR_FILE, "config.json: num_key_value_heads: %lld does not divide %lld "
                    "heads",
                    (long long)kv_heads, (long long)heads);
    p->n_layers = (int)layers;
    p->n_heads = (int)heads;
    p->n_kv_heads = (int)kv_heads;
    p->rms_eps = (float)eps;
    return true;
}

static bool read_gqa(struct hf_config *c, struct error *err)
{
    struct params *p = &c->params;
    int64_t head_dim;
    if (!get_int(c->json, "head_dim", 2, 8192, 0, &head_dim, err))
        return false;
    c->has_head_dim = head_dim > 0;
    if (!head_dim && p->hidden_size % p->n_heads)
        return fail(err, ERR_FILE, "config.json: hidden_size: %lld is not divisible by %d heads",
                    (long long)p->hidden_size, p->n_heads);
    p->head_dim = (int)(head_dim ? head_dim : p->hidden_size / p->n_heads);
    p->value_dim = p->head_dim;
    p->rope.n_rot = p->head_dim;
    return p->head_dim % 2 == 0 ||
           fail(err, ERR_FILE, "config.json: head size %d is odd", p->head_dim);
}

static bool read_mla(struct hf_config *c, struct error *err)
{
    struct params *p = &c->params;
    const struct json *j = c->json;
    int64_t q_rank, rank, nope, rotary, value;
    if (!get_int(j, "q_lora_rank", 1, 65536, 0, &q_rank, err) ||
        !get_int(j, "kv_lora_rank", 1, 65536, REQUIRED_FIELD, &rank, err) ||
        !get_int(j, "qk_nope_head_dim", 1, 8190, REQUIRED_FIELD, &nope, err) ||
        !get_int(j, "qk_rope_head_dim", 2, 8190, REQUIRED_FIELD, &rotary, err) ||
        !get_int(j, "v_head_dim", 1, 8192, REQUIRED_FIELD, &value, err) ||
        !expect_bool(j, "attention_bias", false, err) ||
        !expect_bool(j, "rope_interleave", true, err))
        return false;
    if (rotary % 2)
        return fail(err, ERR_FILE, "config.json: qk_rope_head_dim: %lld is odd", (long long)rotary);
    p->q_lora_rank = (int)q_rank;
    p->kv_lora_rank = (int)rank;
    p->qk_nope_dim = (int)nope;
    p->qk_rope_dim = (int)rotary;
    p->head_dim = (int)(nope + rotary);
    p->value_dim = (int)value;
    p->n_kv_heads = p->n_heads;
    p->rope.n_rot = (int)rotary;
    return true;
}

static bool read_experts(struct hf_config *c, struct error *err)
{
    struct params *p = &c->params;
    const struct json *j = c->json;
    int64_t routed, top_k, shared, lead, every, mtp;
    if (!get_int(j, "n_routed_experts", 1, 1024, REQUIRED_FIELD, &routed, err) ||
        !get_int(j, "num_experts_per_tok", 1, min_of(routed, 64), REQUIRED_FIELD, &top_k, err) ||
        !get_int(j, "n_shared_experts", 0, 64, 0, &shared, err) ||
        !get_int(j, "moe_intermediate_size", 1, 1 << 20, REQUIRED_FIELD, &p->expert_size, err) ||
        !get_int(j, "first_k_dense_replace", 0, p->n_layers, 0, &lead, err) ||
        !get_int(j, "moe_layer_freq", 1, 1, 1, &every, err) ||
        !get_int(j, "num_nextn_predict_layers", 0, 8, 0, &mtp, err) ||
        !expect_text(j, "scoring_func", "softmax sigmoid", err) ||
        !expect_text(j, "topk_method", "greedy group_limited_greedy noaux_tc", err))
        return false;
    p->n_routed = (int)routed;
    p->top_k = (int)top_k;
    p->n_shared = (int)shared;
    p->n_dense_lead = (int)lead;
    p->n_mtp = (int)mtp;
    return true;
}

/* ---- rope ---- */

/* rope_scaling of older files, rope_parameters of newer ones; NULL when there is none. */
static const struct json *rope_fields(const struct hf_config *c)
{
    const struct json *j = js_get(c->json, "rope_scaling");
    if (!js_is_object(j))
        j = js_get(c->json, "rope_parameters");
    return js_is_object(j) ? j : NULL;
}

static struct str rope_type(const struct hf_config *c)
{
    struct str type;
    const struct json *j = rope_fields(c);
    if (js_as_text(js_get(j, "rope_type"), &type) || js_as_text(js_get(j, "type"), &type))
        return type;
    return str_of("default");
}

static bool read_llama3(struct hf_config *c, struct error *err)
{
    struct llama3_rope *r = &c->llama3;
    const struct json *j = rope_fields(c);
    if (!is_arch(c, "llama"))
        return fail(err, ERR_FILE, "config.json: rope type llama3 with architecture %s",
                    c->arch->name);
    r->present = true;
    return get_real(j, "factor", 1, 1e4, NAN, &r->factor, err) &&
           get_real(j, "low_freq_factor", 1e-6, 1e6, NAN, &r->low, err) &&
           get_real(j, "high_freq_factor", 1e-6, 1e6, NAN, &r->high, err) &&
           get_real(j, "original_max_position_embeddings", 1, 1 << 24, NAN, &r->original_context,
                    err) &&
           (r->high > r->low || fail(err, ERR_FILE, "config.json: high_freq_factor: %g, expected "
                                     "more "
                                     "than low_freq_factor", r->high));
}

static bool read_rope(struct hf_config *c, struct error *err)
{
    const struct json *fields = rope_fields(c);
    struct str type = rope_type(c);
    double inner, partial;
    if (!get_real(fields, "rope_theta", 1, 1e12, 10000, &inner, err) ||
        !get_real(c->json, "rope_theta", 1, 1e12, inner, &c->rope_base, err) ||
        !get_real(c->json, "partial_rotary_factor", 0, 1, 1, &partial, err))
        return false;
    if (partial != 1)
        return fail(err, ERR_FILE, "config.json: partial_rotary_factor: %g is not supported",
                    partial);
    if (str_is(type, "llama3"))
        return read_llama3(c, err);
    if (str_is(type, "default") || str_is(type, "linear") || str_is(type, "yarn"))
        return true;
    return fail(err, ERR_FILE, "config.json: rope type \"%.*s\", expected default, linear, yarn or "
                "llama3", (int)min_of(type.len, (size_t)40), type.data);
}

/* ---- quantization of the source ---- */

static bool read_quantization(struct hf_config *c, struct error *err)
{
    const struct json *q = js_get(c->json, "quantization_config");
    const struct json *block = js_get(q, "weight_block_size");
    int64_t rows, cols;
    if (!q || js_is_null(q))
        return true;
    c->fp8 = true;
    if (!js_get(q, "quant_method"))
        return fail(err, ERR_FILE, "config.json: quantization_config: no quant_method");
    if (!expect_text(q, "quant_method", "fp8", err) || !expect_text(q, "fmt", "e4m3", err))
        return false;
    return (js_as_int(js_at(block, 0), &rows) && js_as_int(js_at(block, 1), &cols) && rows == 128 &&
            cols == 128) ||
           fail(err, ERR_FILE, "config.json: weight_block_size: expected [128, 128]");
}

bool hf_config_read(struct hf_config *c, const struct json *json, struct error *err)
{
    *c = (struct hf_config){ .json = json };
    if (!js_is_object(json))
        return fail(err, ERR_FILE, "config.json: not an object");
    if (!find_architecture(c, err) || !read_skeleton(c, err) || !read_rope(c, err) ||
        !read_quantization(c, err))
        return false;
    bool moe = is_arch(c, "deepseek") || is_arch(c, "deepseek2");
    return (c->arch->has_latent_cache ? read_mla(c, err) : read_gqa(c, err)) &&
           (!moe || read_experts(c, err));
}

void hf_config_rope_freqs(const struct hf_config *c, float *divisors)
{
    const struct llama3_rope *r = &c->llama3;
    int n = c->params.head_dim;
    for (int i = 0; i < n / 2; i++) {
        double wave = 2 * PI * pow(c->rope_base, 2.0 * i / n);
        double t = (r->original_context / wave - r->low) / (r->high - r->low);
        if (wave < r->original_context / r->high)
            divisors[i] = 1;
        else if (wave > r->original_context / r->low)
            divisors[i] = (float)r->factor;
        else
            divisors[i] = (float)(1 / ((1 - t) / r->factor + t));
    }
}

/* ---- metadata ---- */

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
    bool is_v1 = is_arch(c, "deepseek"), norm;
    int64_t groups, groups_used;
    double scale;
    struct str scoring = str_of(c->is_v3 ? "sigmoid" : "softmax"), method;
    if (!get_bool(j, "norm_topk_prob", false, &norm, k->err) ||
        !get_real(j, "routed_scaling_factor", -1e6, 1e6, 1, &scale, k->err) ||
        !get_int(j, "n_group", 0, 1024, 0, &groups, k->err) ||
        !get_int(j, "topk_group", 0, 1024, 0, &groups_used, k->err))
        return false;
    js_as_text(js_get(j, "scoring_func"), &scoring);
    if (js_as_text(js_get(j, "topk_method"), &method) && str_is(method, "greedy"))
        groups = groups_used = min_of(groups, 1); /* announced or not, this method has none */
    put_u32(k, "leading_dense_block_count", p->n_dense_lead);
    put_u32(k, "expert_count", p->n_routed);
    put_u32(k, "expert_used_count", p->top_k);
    put_u32(k, "expert_shared_count", p->n_shared);
    put_u32(k, "expert_feed_forward_length", p->expert_size);
    put_f32(k, "expert_weights_scale", is_v1 ? 1 : scale);
    if (norm)
        k->ok = k->ok && gguf_writer_add_bool(k->w, full(k, "expert_weights_norm"), true, k->err);
    put_u32(k, "expert_gating_func", str_is(scoring, "sigmoid") ? 2 : 1);
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
    if (!get_real(j, "mscale_all_dim", 0, 1e3, 0, &all_dim, k->err) ||
        !get_real(j, "mscale", 0, 1e3, 1, &mscale, k->err))
        return false;
    if (mscale != all_dim)
        return fail(k->err, ERR_FILE, "config.json: mscale %g differs from mscale_all_dim %g: GGUF "
                    "cannot say this", mscale, all_dim);
    put_f32(k, "rope.scaling.yarn_log_multiplier", 0.1 * all_dim);
    return k->ok;
}

static bool put_rope(struct keys_out *k, const struct hf_config *c)
{
    const struct json *j = rope_fields(c);
    struct str type = rope_type(c);
    double factor, original, fast, slow;
    put_f32(k, "rope.freq_base", c->rope_base);
    if (!str_is(type, "linear") && !str_is(type, "yarn")) {
        if (is_arch(c, "deepseek"))
            put_str(k, "rope.scaling.type", "none");
        return k->ok;
    }
    if (!get_real(j, "factor", 1, 1e4, NAN, &factor, k->err))
        return false;
    put_str(k, "rope.scaling.type", str_is(type, "yarn") ? "yarn" : "linear");
    put_f32(k, "rope.scaling.factor", factor);
    if (str_is(type, "linear"))
        return k->ok;
    if (!get_real(j, "original_max_position_embeddings", 1, 1 << 24, NAN, &original, k->err) ||
        !get_real(j, "beta_fast", 1e-6, 1e6, 0, &fast, k->err) ||
        !get_real(j, "beta_slow", 1e-6, 1e6, 0, &slow, k->err))
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
    put_u32(&k, "feed_forward_length", p->ffn_size);
    put_attention(&k, c);
    return put_rope(&k, c) && (!p->n_routed || put_experts(&k, c)) && k.ok;
}
