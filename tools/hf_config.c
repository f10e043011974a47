#include "tools/hf_config.h"

#include <math.h>

#include "tools/hf_fields.h"

#define PI 3.14159265358979323846

/* ---- architecture ---- */

static const struct {
    const char *hf, *gguf;
    enum spelling spelling;
    const char *scoring; /* of the router where the file does not say */
} architectures[] = {
    { "LlamaForCausalLM", "llama", SPELLING_HF, NULL },
    { "Qwen2ForCausalLM", "qwen2", SPELLING_HF, NULL },
    { "Qwen3ForCausalLM", "qwen3", SPELLING_HF, NULL },
    { "DeepseekForCausalLM", "deepseek", SPELLING_HF, "softmax" },
    { "DeepseekV2ForCausalLM", "deepseek2", SPELLING_HF, "softmax" },
    { "DeepseekV3ForCausalLM", "deepseek2", SPELLING_HF, "sigmoid" },
    { "DeepseekV32ForCausalLM", "deepseek32", SPELLING_HF, "sigmoid" },
    { "DeepseekV4ForCausalLM", "deepseek4", SPELLING_V4, "sqrtsoftplus" },
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
        c->arch = arch_find(str_of(architectures[i].gguf));
        c->spelling = architectures[i].spelling;
        c->scoring = architectures[i].scoring;
        return c->arch || fail(err, ERR_FILE, "config.json: %s: this version cannot convert it",
                               architectures[i].hf);
    }
    return fail(err, ERR_FILE, "config.json: architecture %.*s: not supported (Llama, Qwen2, "
                "Qwen3, Deepseek, DeepseekV2, V3, V32 and V4 are)", (int)min_of(name.len, (size_t)60),
                name.data);
}

bool hf_is_arch(const struct hf_config *c, const char *name)
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
    bool has_dense = c->spelling != SPELLING_V4; /* that one has experts in every layer */
    if (!field_int(j, "num_hidden_layers", 1, 504, REQUIRED_FIELD, &layers, err) ||
        !field_int(j, "hidden_size", 8, 65536, REQUIRED_FIELD, &p->hidden_size, err) ||
        !field_int(j, "vocab_size", 1, 1 << 20, REQUIRED_FIELD, &p->n_vocab, err) ||
        !field_int(j, "max_position_embeddings", 1, 1 << 24, REQUIRED_FIELD, &p->context_length,
                 err) ||
        !field_int(j, "intermediate_size", 1, 1 << 20, has_dense ? REQUIRED_FIELD : 0,
                   &p->ffn_size, err) ||
        !field_int(j, "num_attention_heads", 1, 1024, REQUIRED_FIELD, &heads, err) ||
        !field_int(j, "num_key_value_heads", 1, 1024, heads, &kv_heads, err) ||
        !field_real(j, "rms_norm_eps", 1e-12, 0.1, 1e-6, &eps, err) ||
        !field_bool(j, "tie_word_embeddings", false, &c->tied, err) ||
        !field_text_is(j, "hidden_act", "silu", err) ||
        !field_bool_is(j, "use_sliding_window", false, err))
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
    if (!field_int(c->json, "head_dim", 2, 8192, 0, &head_dim, err))
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
    if (!field_int(j, "q_lora_rank", 1, 65536, 0, &q_rank, err) ||
        !field_int(j, "kv_lora_rank", 1, 65536, REQUIRED_FIELD, &rank, err) ||
        !field_int(j, "qk_nope_head_dim", 1, 8190, REQUIRED_FIELD, &nope, err) ||
        !field_int(j, "qk_rope_head_dim", 2, 8190, REQUIRED_FIELD, &rotary, err) ||
        !field_int(j, "v_head_dim", 1, 8192, REQUIRED_FIELD, &value, err) ||
        !field_bool_is(j, "attention_bias", false, err) ||
        !field_bool_is(j, "rope_interleave", true, err))
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

/* The indexer of V3.2 and V4. */
static bool read_indexer(struct hf_config *c, struct error *err)
{
    struct params *p = &c->params;
    int64_t heads, dim, top_k;
    if (!field_int(c->json, "index_n_heads", 1, 1024, REQUIRED_FIELD, &heads, err) ||
        !field_int(c->json, "index_head_dim", 2, 8192, REQUIRED_FIELD, &dim, err) ||
        !field_int(c->json, "index_topk", 1, 1 << 20, REQUIRED_FIELD, &top_k, err))
        return false;
    p->index_heads = (int)heads;
    p->index_dim = (int)dim;
    p->index_top_k = (int)top_k;
    return true;
}

static bool read_ratios(struct hf_config *c, struct error *err)
{
    const struct json *list = js_get(c->json, "compress_ratios");
    if (!js_is_array(list) || js_count(list) < (size_t)c->params.n_layers)
        return fail(err, ERR_FILE, "config.json: compress_ratios: %zu values for %d layers",
                    js_count(list), c->params.n_layers);
    for (size_t i = 0; i < js_count(list); i++) {
        int64_t ratio;
        if (!js_as_int(js_at(list, i), &ratio) || (ratio != 0 && ratio != 4 && ratio != 128))
            return fail(err, ERR_FILE, "config.json: compress_ratios: value %zu is not 0, 4 or 128",
                        i);
        if (i < (size_t)c->params.n_layers)
            c->params.compress_ratio[i] = (uint8_t)ratio;
    }
    return true;
}

/* V4: one key-value row of head size, output in two steps by groups of heads, four streams. */
static bool read_v4(struct hf_config *c, struct error *err)
{
    struct params *p = &c->params;
    const struct json *j = c->json;
    int64_t head, rotary, rank, groups, out_rank, window, hash, streams;
    if (!field_int(j, "head_dim", 2, 8192, REQUIRED_FIELD, &head, err) ||
        !field_int(j, "qk_rope_head_dim", 2, head, REQUIRED_FIELD, &rotary, err) ||
        !field_int(j, "q_lora_rank", 1, 65536, REQUIRED_FIELD, &rank, err) ||
        !field_int(j, "o_groups", 1, p->n_heads, REQUIRED_FIELD, &groups, err) ||
        !field_int(j, "o_lora_rank", 1, 65536, REQUIRED_FIELD, &out_rank, err) ||
        !field_int(j, "sliding_window", 1, 1 << 20, REQUIRED_FIELD, &window, err) ||
        !field_int(j, "num_hash_layers", 0, p->n_layers, 0, &hash, err) ||
        !field_int(j, "hc_mult", 4, 4, REQUIRED_FIELD, &streams, err) ||
        !field_bool_is(j, "attention_bias", false, err) || !read_ratios(c, err))
        return false;
    if (p->n_heads % groups || rotary % 2 || p->n_kv_heads != 1)
        return fail(err, ERR_FILE, "config.json: %d heads in %lld groups, %lld rotary dimensions, "
                    "%d key-value heads: expected a divisor, an even number and 1", p->n_heads,
                    (long long)groups, (long long)rotary, p->n_kv_heads);
    p->head_dim = p->value_dim = (int)head;
    p->q_lora_rank = (int)rank;
    p->rope.n_rot = (int)rotary;
    p->out_groups = (int)groups;
    p->out_lora_rank = (int)out_rank;
    p->window = (int)window;
    p->n_hash_layers = (int)hash;
    p->n_streams = (int)streams;
    return read_indexer(c, err);
}

static bool read_experts(struct hf_config *c, struct error *err)
{
    struct params *p = &c->params;
    const struct json *j = c->json;
    int64_t routed, top_k, shared, lead, every, mtp;
    if (!field_int(j, "n_routed_experts", 1, 1024, REQUIRED_FIELD, &routed, err) ||
        !field_int(j, "num_experts_per_tok", 1, min_of(routed, 64), REQUIRED_FIELD, &top_k, err) ||
        !field_int(j, "n_shared_experts", 0, 64, 0, &shared, err) ||
        !field_int(j, "moe_intermediate_size", 1, 1 << 20, REQUIRED_FIELD, &p->expert_size, err) ||
        !field_int(j, "first_k_dense_replace", 0, p->n_layers, 0, &lead, err) ||
        !field_int(j, "moe_layer_freq", 1, 1, 1, &every, err) ||
        !field_int(j, "num_nextn_predict_layers", 0, 8, 0, &mtp, err) ||
        !field_text_is(j, "scoring_func", c->spelling == SPELLING_V4 ? "sqrtsoftplus"
                                                                      : "softmax sigmoid", err) ||
        !field_text_is(j, "topk_method", "greedy group_limited_greedy noaux_tc", err))
        return false;
    p->n_routed = (int)routed;
    p->top_k = (int)top_k;
    p->n_shared = (int)shared;
    p->n_dense_lead = (int)lead;
    p->n_mtp = (int)mtp;
    return true;
}

/* ---- rope ---- */

const struct json *hf_rope_fields(const struct hf_config *c)
{
    const struct json *j = js_get(c->json, "rope_scaling");
    if (!js_is_object(j))
        j = js_get(c->json, "rope_parameters");
    return js_is_object(j) ? j : NULL;
}

struct str hf_rope_type(const struct hf_config *c)
{
    struct str type;
    const struct json *j = hf_rope_fields(c);
    if (js_as_text(js_get(j, "rope_type"), &type) || js_as_text(js_get(j, "type"), &type))
        return type;
    return str_of("default");
}

static bool read_llama3(struct hf_config *c, struct error *err)
{
    struct llama3_rope *r = &c->llama3;
    const struct json *j = hf_rope_fields(c);
    if (!hf_is_arch(c, "llama"))
        return fail(err, ERR_FILE, "config.json: rope type llama3 with architecture %s",
                    c->arch->name);
    r->present = true;
    return field_real(j, "factor", 1, 1e4, NAN, &r->factor, err) &&
           field_real(j, "low_freq_factor", 1e-6, 1e6, NAN, &r->low, err) &&
           field_real(j, "high_freq_factor", 1e-6, 1e6, NAN, &r->high, err) &&
           field_real(j, "original_max_position_embeddings", 1, 1 << 24, NAN, &r->original_context,
                    err) &&
           (r->high > r->low || fail(err, ERR_FILE, "config.json: high_freq_factor: %g, expected "
                                     "more "
                                     "than low_freq_factor", r->high));
}

static bool read_rope(struct hf_config *c, struct error *err)
{
    const struct json *fields = hf_rope_fields(c);
    struct str type = hf_rope_type(c);
    double inner, partial;
    if (!field_real(fields, "rope_theta", 1, 1e12, 10000, &inner, err) ||
        !field_real(c->json, "rope_theta", 1, 1e12, inner, &c->rope_base, err) ||
        !field_real(c->json, "partial_rotary_factor", 0, 1, 1, &partial, err))
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
    if (!field_text_is(q, "quant_method", "fp8", err) || !field_text_is(q, "fmt", "e4m3", err))
        return false;
    return (js_as_int(js_at(block, 0), &rows) && js_as_int(js_at(block, 1), &cols) && rows == 128 &&
            cols == 128) ||
           fail(err, ERR_FILE, "config.json: weight_block_size: expected [128, 128]");
}

static bool read_attention(struct hf_config *c, struct error *err)
{
    if (c->spelling == SPELLING_V4)
        return read_v4(c, err);
    if (!c->arch->has_latent_cache)
        return read_gqa(c, err);
    return read_mla(c, err) && (!hf_is_arch(c, "deepseek32") || read_indexer(c, err));
}

bool hf_config_read(struct hf_config *c, const struct json *json, struct error *err)
{
    *c = (struct hf_config){ .json = json };
    if (!js_is_object(json))
        return fail(err, ERR_FILE, "config.json: not an object");
    return find_architecture(c, err) && read_skeleton(c, err) && read_rope(c, err) &&
           read_quantization(c, err) && read_attention(c, err) &&
           (!c->scoring || read_experts(c, err));
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

