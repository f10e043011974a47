/* Keys of a file: one table with name, range and default of every hyper-parameter.
 * The ranges are wide enough for any published model and narrow enough that every product of two
 * dimensions fits 64 bits; array bounds of the program (512 layers, 64 picks) are among them. */
#include <math.h>
#include <stddef.h>
#include <stdio.h>

#include "src/format/gguf.h"
#include "src/model/arch.h"

#define MAX_VOCAB (1 << 20)
#define ABSENT (-1)

enum kind { INT, REAL, BOOL };

/* Whether a key may hold one value per layer, and which layers count. */
enum per_layer { SCALAR, ALL_LAYERS, DENSE_LAYERS };

struct key_spec {
    const char *name; /* behind "<architecture>." */
    size_t offset;    /* in struct keys */
    enum kind kind;
    enum need need;
    double low, high, fallback;
    enum per_layer per_layer;
};

#define K(field) offsetof(struct keys, field)

/* Order matters where a row's meaning depends on another: layer counts stand before arrays. */
static const struct key_spec key_specs[] = {
    { "block_count", K(block_count), INT, REQUIRED, 1, MAX_LAYERS, 0, SCALAR },
    { "nextn_predict_layers", K(n_mtp), INT, OPTIONAL, 0, 8, 0, SCALAR },
    { "context_length", K(context_length), INT, REQUIRED, 1, 1 << 24, 0, SCALAR },
    { "embedding_length", K(embedding_length), INT, REQUIRED, 8, 65536, 0, SCALAR },
    { "vocab_size", K(vocab_size), INT, OPTIONAL, 1, MAX_VOCAB, ABSENT, SCALAR },
    { "leading_dense_block_count", K(n_dense_lead), INT, OPTIONAL, 0, MAX_LAYERS, 0, SCALAR },

    { "expert_count", K(n_routed), INT, OPTIONAL, 0, 1024, 0, SCALAR },
    { "expert_used_count", K(top_k), INT, OPTIONAL, 0, 64, 0, SCALAR },
    { "expert_shared_count", K(n_shared), INT, OPTIONAL, 0, 64, 0, SCALAR },
    { "expert_feed_forward_length", K(expert_size), INT, OPTIONAL, 1, 1 << 20, ABSENT, SCALAR },
    { "expert_weights_scale", K(weights_scale), REAL, OPTIONAL, -1e6, 1e6, 0, SCALAR },
    { "expert_weights_norm", K(weights_norm), BOOL, OPTIONAL, 0, 1, 0, SCALAR },
    { "expert_gating_func", K(gating), INT, OPTIONAL, 0, 4, 0, SCALAR },
    { "expert_group_count", K(n_groups), INT, OPTIONAL, 0, 1024, ABSENT, SCALAR },
    { "expert_group_used_count", K(n_groups_used), INT, OPTIONAL, 0, 1024, ABSENT, SCALAR },

    { "feed_forward_length", K(feed_forward_length), INT, OPTIONAL, 1, 1 << 20, ABSENT,
      DENSE_LAYERS },
    { "attention.head_count", K(n_heads), INT, REQUIRED, 1, 1024, 0, ALL_LAYERS },
    { "attention.head_count_kv", K(n_kv_heads), INT, OPTIONAL, 1, 1024, ABSENT, ALL_LAYERS },
    { "attention.key_length", K(key_length), INT, OPTIONAL, 1, 8192, ABSENT, SCALAR },
    { "attention.value_length", K(value_length), INT, OPTIONAL, 1, 8192, ABSENT, SCALAR },
    { "attention.key_length_mla", K(key_length_mla), INT, OPTIONAL, 1, 8192, ABSENT, SCALAR },
    { "attention.value_length_mla", K(value_length_mla), INT, OPTIONAL, 1, 8192, ABSENT, SCALAR },
    { "attention.q_lora_rank", K(q_lora_rank), INT, OPTIONAL, 0, 65536, 0, SCALAR },
    { "attention.kv_lora_rank", K(kv_lora_rank), INT, OPTIONAL, 1, 65536, ABSENT, SCALAR },
    { "attention.layer_norm_rms_epsilon", K(rms_eps), REAL, REQUIRED, 1e-12, 1e-1, 0, SCALAR },

    { "attention.indexer.head_count", K(index_heads), INT, OPTIONAL, 1, 1024, ABSENT, SCALAR },
    { "attention.indexer.key_length", K(index_dim), INT, OPTIONAL, 1, 8192, ABSENT, SCALAR },
    { "attention.indexer.top_k", K(index_top_k), INT, OPTIONAL, 1, 1 << 20, ABSENT, SCALAR },
    { "attention.output_group_count", K(out_groups), INT, OPTIONAL, 1, 1024, ABSENT, SCALAR },
    { "attention.output_lora_rank", K(out_lora_rank), INT, OPTIONAL, 1, 65536, ABSENT, SCALAR },
    { "attention.sliding_window", K(window), INT, OPTIONAL, 0, 1 << 20, 0, SCALAR },
    { "attention.compress_rope_freq_base", K(compress_rope_base), REAL, OPTIONAL, 1, 1e12, ABSENT,
      SCALAR },
    { "hyper_connection.count", K(n_streams), INT, OPTIONAL, 0, 64, 0, SCALAR },
    { "hyper_connection.sinkhorn_iterations", K(hyper_passes), INT, OPTIONAL, 1, 1000, ABSENT,
      SCALAR },
    { "hyper_connection.epsilon", K(hyper_eps), REAL, OPTIONAL, 0, 1e-1, ABSENT, SCALAR },
    { "hash_layer_count", K(n_hash_layers), INT, OPTIONAL, 0, MAX_LAYERS, 0, SCALAR },

    { "rope.dimension_count", K(rope_dim), INT, OPTIONAL, 2, 8192, ABSENT, SCALAR },
    { "rope.freq_base", K(rope_base), REAL, OPTIONAL, 1, 1e12, 10000, SCALAR },
    { "rope.scale_linear", K(rope_factor), REAL, OPTIONAL, 1, 1e4, 1, SCALAR },
    { "rope.scaling.factor", K(rope_factor), REAL, OPTIONAL, 1, 1e4, ABSENT, SCALAR },
    { "rope.scaling.original_context_length", K(rope_original_context), INT, OPTIONAL, 1, 1 << 24,
      ABSENT, SCALAR },
    { "rope.scaling.attn_factor", K(rope_attn_factor), REAL, OPTIONAL, 1e-6, 1e6, 1, SCALAR },
    { "rope.scaling.yarn_beta_fast", K(yarn_beta_fast), REAL, OPTIONAL, 1e-6, 1e6, ABSENT,
      SCALAR },
    { "rope.scaling.yarn_beta_slow", K(yarn_beta_slow), REAL, OPTIONAL, 1e-6, 1e6, ABSENT,
      SCALAR },
    { "rope.scaling.yarn_log_multiplier", K(yarn_log_multiplier), REAL, OPTIONAL, -1e6, 1e6, NAN,
      SCALAR },
};

static bool in_range(const struct key_spec *s, const char *key, double value, struct error *err)
{
    if (value >= s->low && value <= s->high) /* false for NaN */
        return true;
    return fail(err, ERR_FILE, "%s: %.10g, expected %.10g to %.10g", key, value, s->low, s->high);
}

static void set_int(struct keys *k, const struct key_spec *s, int64_t value)
{
    *(int64_t *)((char *)k + s->offset) = value;
}

/* Does the value of this layer count? */
static bool layer_uses(const struct keys *k, const struct key_spec *s, int64_t layer)
{
    return s->per_layer == ALL_LAYERS || k->n_routed == 0 || layer < k->n_dense_lead;
}

/* A per-layer array, reduced to the value shared by all layers that use it. */
static bool read_array(struct keys *k, const struct key_spec *s, const struct gguf *g,
                       const char *key, struct error *err)
{
    const struct gguf_kv *kv = gguf_array(g, key, GGUF_KIND_INT, err);
    if (!kv)
        return false;
    if (kv->count < (uint64_t)k->block_count)
        return fail(err, ERR_FILE, "%s: %llu values for %lld layers", key,
                    (unsigned long long)kv->count, (long long)k->block_count);
    int64_t first = -1;
    for (int64_t layer = 0; layer < k->block_count; layer++) {
        if (!layer_uses(k, s, layer))
            continue;
        int64_t value = gguf_int_at(kv, (uint64_t)layer);
        if (!in_range(s, key, (double)value, err))
            return error_prefix(err, "layer %lld", (long long)layer);
        if (first < 0)
            set_int(k, s, first = value);
        else if (value != first)
            return fail(err, ERR_FILE, "%s: layer %lld has %lld, others %lld: layers of different "
                        "size are not supported", key, (long long)layer, (long long)value,
                        (long long)first);
    }
    return true;
}

static bool read_int(struct keys *k, const struct key_spec *s, const struct gguf *g,
                     const char *key, struct error *err)
{
    const struct gguf_kv *kv = gguf_find(g, key);
    if (kv && kv->type == GGUF_ARRAY && s->per_layer != SCALAR)
        return read_array(k, s, g, key, err);
    uint64_t value = 0;
    if (!gguf_get_u64(g, key, &value, err))
        return false;
    /* Files of models without dense layers may say 0 here. */
    if (value == 0 && s->per_layer == DENSE_LAYERS)
        return true;
    if (!in_range(s, key, (double)value, err))
        return false;
    set_int(k, s, (int64_t)value);
    return true;
}

static bool read_key(struct keys *k, const struct key_spec *s, const struct gguf *g,
                     const char *arch, struct error *err)
{
    char key[256];
    snprintf(key, sizeof key, "%s.%s", arch, s->name);
    if (!gguf_has(g, key))
        return s->need == OPTIONAL ? true : fail(err, ERR_FILE, "%s: missing", key);
    if (s->kind == INT)
        return read_int(k, s, g, key, err);
    if (s->kind == BOOL)
        return gguf_get_bool(g, key, (bool *)((char *)k + s->offset), err);
    double *value = (double *)((char *)k + s->offset);
    return gguf_get_f64(g, key, value, err) && in_range(s, key, *value, err);
}

static void set_fallbacks(struct keys *k)
{
    for (size_t i = 0; i < ARRAY_LEN(key_specs); i++) {
        const struct key_spec *s = &key_specs[i];
        if (s->kind == INT)
            set_int(k, s, (int64_t)s->fallback);
        else if (s->kind == REAL)
            *(double *)((char *)k + s->offset) = s->fallback;
    }
    k->rope_factor = 1;
}

static bool read_rope_scaling(struct keys *k, const struct gguf *g, const char *arch,
                              struct error *err)
{
    static const char *const names[] = { "none", "linear", "yarn" };
    char key[256];
    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    struct str type = str_of("linear"); /* with factor 1 when nothing is said */
    if (!gguf_get_str(g, key, &type, err))
        return false;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (str_is(type, names[i])) {
            k->rope_scaling = (enum rope_scaling)i;
            return true;
        }
    }
    return fail(err, ERR_FILE, "%s: \"%.*s\", expected none, linear or yarn", key,
                (int)min_of(type.len, (size_t)40), type.data);
}

/* One compression ratio per layer; entries behind the last are not read. */
static bool read_ratios(struct keys *k, const struct gguf *g, const char *arch, struct error *err)
{
    char key[256];
    snprintf(key, sizeof key, "%s.attention.compress_ratios", arch);
    if (!gguf_has(g, key))
        return true;
    const struct gguf_kv *kv = gguf_array(g, key, GGUF_KIND_INT, err);
    if (!kv)
        return false;
    k->n_compress_ratios = (int)min_of(kv->count, (uint64_t)MAX_LAYERS);
    for (int i = 0; i < k->n_compress_ratios; i++) {
        int64_t ratio = gguf_int_at(kv, (uint64_t)i);
        if (ratio < 0 || ratio > 255)
            return fail(err, ERR_FILE, "%s: layer %d has %lld, expected 0 to 255", key, i,
                        (long long)ratio);
        k->compress_ratio[i] = (uint8_t)ratio;
    }
    return true;
}

/* A limit per layer, or one for all; layers behind the last one told have that too (a block that
 * drafts is often left out). Values up to 1e-6 mean none. */
static bool read_limits(float *limits, const struct gguf *g, const char *arch, const char *name,
                        struct error *err)
{
    char key[256];
    snprintf(key, sizeof key, "%s.%s", arch, name);
    const struct gguf_kv *kv = gguf_find(g, key);
    if (!kv)
        return true;
    bool many = kv->type == GGUF_ARRAY;
    double value = 0;
    if (many ? !(kv = gguf_array(g, key, GGUF_KIND_FLOAT, err)) : !gguf_get_f64(g, key, &value, err))
        return false;
    uint64_t n = many ? min_of(kv->count, (uint64_t)MAX_LAYERS) : MAX_LAYERS;
    for (uint64_t i = 0; i < MAX_LAYERS && n > 0; i++) {
        double limit = many ? gguf_float_at(kv, min_of(i, n - 1)) : value;
        if (!(limit >= 0 && limit <= 1e30))
            return fail(err, ERR_FILE, "%s: layer %d has %g, expected 0 to 1e30", key, (int)i,
                        limit);
        limits[i] = limit > 1e-6 ? (float)limit : 0;
    }
    return true;
}

/* The shared experts' limits are those of the routed ones unless the file says otherwise. */
static bool read_all_limits(struct keys *k, const struct gguf *g, const char *arch,
                            struct error *err)
{
    if (!read_limits(k->limit_routed, g, arch, "swiglu_clamp_exp", err))
        return false;
    memcpy(k->limit_shared, k->limit_routed, sizeof k->limit_shared);
    return read_limits(k->limit_shared, g, arch, "swiglu_clamp_shexp", err);
}

/* Relations between keys; what depends on the architecture is checked there. */
static bool check_keys(const struct keys *k, const char *arch, struct error *err)
{
    if (k->n_mtp >= k->block_count)
        return fail(err, ERR_FILE, "%s.nextn_predict_layers: %lld of %lld blocks", arch,
                    (long long)k->n_mtp, (long long)k->block_count);
    if (k->n_dense_lead > k->block_count)
        return fail(err, ERR_FILE, "%s.leading_dense_block_count: %lld of %lld blocks", arch,
                    (long long)k->n_dense_lead, (long long)k->block_count);
    if (k->n_kv_heads > 0 && (k->n_kv_heads > k->n_heads || k->n_heads % k->n_kv_heads))
        return fail(err, ERR_FILE, "%s.attention.head_count_kv: %lld does not divide %lld heads",
                    arch, (long long)k->n_kv_heads, (long long)k->n_heads);
    return true;
}

bool keys_read(struct keys *k, const struct gguf *g, const char *arch, struct error *err)
{
    *k = (struct keys){ 0 };
    set_fallbacks(k);
    for (size_t i = 0; i < ARRAY_LEN(key_specs); i++) {
        if (!read_key(k, &key_specs[i], g, arch, err))
            return false;
    }
    if (k->n_kv_heads == ABSENT)
        k->n_kv_heads = k->n_heads;
    if (k->rope_original_context == ABSENT)
        k->rope_original_context = k->context_length;
    return read_rope_scaling(k, g, arch, err) && read_ratios(k, g, arch, err) &&
           read_all_limits(k, g, arch, err) && check_keys(k, arch, err);
}

int64_t params_state_width(const struct params *p)
{
    return p->hidden_size * max_of(p->n_streams, 1);
}

/* Two vectors side by side; with streams, behind room for all of these. */
int64_t params_pair_width(const struct params *p)
{
    return p->hidden_size * (p->n_streams + 2);
}

int64_t params_dim(const struct params *p, enum dim d)
{
    int64_t q = (int64_t)p->n_heads * p->head_dim, kv = (int64_t)p->n_kv_heads * p->head_dim;
    int64_t v = (int64_t)p->n_kv_heads * p->value_dim;
    switch (d) {
    case DIM_HIDDEN:     return p->hidden_size;
    case DIM_VOCAB:      return p->n_vocab;
    case DIM_FFN:        return p->ffn_size;
    case DIM_Q:          return q;
    case DIM_KV:         return kv;
    case DIM_V:          return v;
    case DIM_QKV:        return q + kv + v;
    case DIM_ATTN_OUT:   return (int64_t)p->n_heads * p->value_dim;
    case DIM_HEAD:       return p->head_dim;
    case DIM_ROPE_PAIRS: return p->rope.n_rot / 2;
    case DIM_Q_LORA:     return p->q_lora_rank;
    case DIM_KV_LORA:    return p->kv_lora_rank;
    case DIM_KV_A:       return (int64_t)p->kv_lora_rank + p->qk_rope_dim;
    case DIM_NOPE:       return p->qk_nope_dim;
    case DIM_VALUE:      return p->value_dim;
    case DIM_HEADS:      return p->n_heads;
    case DIM_KV_B:       return (int64_t)p->n_heads * (p->qk_nope_dim + p->value_dim);
    case DIM_EXPERT:     return p->expert_size;
    case DIM_EXPERT2:    return 2 * p->expert_size;
    case DIM_SHARED:     return p->n_shared * p->expert_size;
    case DIM_ROUTED:     return p->n_routed;
    case DIM_HIDDEN2:    return 2 * p->hidden_size;
    case DIM_INDEX:      return p->index_dim;
    case DIM_INDEX2:     return 2 * (int64_t)p->index_dim;
    case DIM_INDEX_HEADS: return p->index_heads;
    case DIM_INDEX_Q:    return (int64_t)p->index_heads * p->index_dim;
    case DIM_STREAMS:    return p->n_streams;
    case DIM_STREAMS_HIDDEN: return p->n_streams * p->hidden_size;
    case DIM_MIX:        return (int64_t)p->n_streams * (2 + p->n_streams);
    case DIM_MIX_SCALES: return p->n_streams ? 3 : 0;
    case DIM_HEAD2:      return 2 * (int64_t)p->head_dim;
    case DIM_RATIO_CSA:  return 4;
    case DIM_RATIO_HCA:  return 128;
    case DIM_OUT_GROUP:  return p->out_groups ? (int64_t)p->n_heads / p->out_groups * p->value_dim : 0;
    case DIM_OUT_LORA:   return (int64_t)p->out_groups * p->out_lora_rank;
    case DIM_TOP_K:      return p->top_k;
    case DIM_ONE:        return 1;
    case DIM_NONE:
    case N_DIMS:         break;
    }
    return 0;
}
