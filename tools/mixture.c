/* Which tensor gets which type, by the rules of the named mixtures.
 *
 * The rules are those of llama-quantize (ggml-org/llama.cpp src/llama-quant.cpp), so that a file
 * of a given name has the types users know; tests/vectors/mixtures.txt holds what that program
 * chose. Their idea: value and down projections suffer most from rounding, early and late layers
 * more than those in the middle, and with many experts the attention is so small that more bits
 * cost nothing. */
#include "tools/mixture.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "src/cli/options.h"
#include "src/format/quant.h"

/* ---- names ---- */

static const struct preset ds_iq1 = { TYPE_IQ1_S, TYPE_IQ1_S, TYPE_IQ2_XXS, TYPE_Q6_K, TYPE_Q6_K,
                                      TYPE_Q4_K, TYPE_Q6_K };
static const struct preset ds_iq2 = { TYPE_IQ2_XXS, TYPE_Q2_K, TYPE_Q2_K, TYPE_Q8_0, TYPE_Q8_0,
                                      TYPE_Q4_K, TYPE_Q6_K };
static const struct preset ds_q2 = { TYPE_Q2_K, TYPE_Q3_K, TYPE_Q3_K, TYPE_Q8_0, TYPE_Q8_0,
                                     TYPE_Q4_K, TYPE_Q6_K };
static const struct preset ds_iq3 = { TYPE_IQ3_XXS, TYPE_IQ4_XS, TYPE_IQ4_XS, TYPE_Q8_0, TYPE_Q8_0,
                                      TYPE_Q8_0, TYPE_Q8_0 };
static const struct preset ds_q3 = { TYPE_Q3_K, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q8_0, TYPE_Q8_0,
                                     TYPE_Q8_0, TYPE_Q8_0 };
static const struct preset ds_q4 = { TYPE_Q4_K, TYPE_Q4_K, TYPE_Q4_K, TYPE_Q8_0, TYPE_Q8_0,
                                     TYPE_Q8_0, TYPE_Q8_0 };
static const struct preset ds_q4m = { TYPE_Q4_K, TYPE_Q6_K, TYPE_Q6_K, TYPE_Q8_0, TYPE_Q8_0,
                                      TYPE_Q8_0, TYPE_Q8_0 };

static const struct mixture mixtures[] = {
    { .name = "F32", .file_type = FILE_F32, .base = TYPE_F32 },
    { .name = "F16", .file_type = FILE_F16, .base = TYPE_F16 },
    { .name = "BF16", .file_type = FILE_BF16, .base = TYPE_BF16 },
    { .name = "Q8_0", .file_type = FILE_Q8_0, .base = TYPE_Q8_0 },
    { .name = "Q6_K", .file_type = FILE_Q6_K, .base = TYPE_Q6_K },
    { .name = "Q5_K_M", .alias = "Q5_K", .file_type = FILE_Q5_K_M, .base = TYPE_Q5_K },
    { .name = "Q5_K_S", .file_type = FILE_Q5_K_S, .base = TYPE_Q5_K },
    { .name = "Q5_0", .file_type = FILE_Q5_0, .base = TYPE_Q5_0 },
    { .name = "Q5_1", .file_type = FILE_Q5_1, .base = TYPE_Q5_1 },
    { .name = "Q4_K_M", .alias = "Q4_K", .file_type = FILE_Q4_K_M, .base = TYPE_Q4_K },
    { .name = "Q4_K_S", .file_type = FILE_Q4_K_S, .base = TYPE_Q4_K },
    { .name = "Q4_0", .file_type = FILE_Q4_0, .base = TYPE_Q4_0 },
    { .name = "Q4_1", .file_type = FILE_Q4_1, .base = TYPE_Q4_1 },
    { .name = "IQ4_NL", .file_type = FILE_IQ4_NL, .base = TYPE_IQ4_NL },
    { .name = "IQ4_XS", .file_type = FILE_IQ4_XS, .base = TYPE_IQ4_XS },
    { .name = "MXFP4_MOE", .alias = "MXFP4", .file_type = FILE_MXFP4_MOE, .base = TYPE_MXFP4 },
    { .name = "NVFP4", .file_type = FILE_NVFP4, .base = TYPE_NVFP4 },
    { .name = "Q3_K_L", .file_type = FILE_Q3_K_L, .base = TYPE_Q3_K },
    { .name = "Q3_K_M", .alias = "Q3_K", .file_type = FILE_Q3_K_M, .base = TYPE_Q3_K },
    { .name = "Q3_K_S", .file_type = FILE_Q3_K_S, .base = TYPE_Q3_K },
    { .name = "IQ3_M", .file_type = FILE_IQ3_M, .base = TYPE_IQ3_S },
    { .name = "IQ3_S", .file_type = FILE_IQ3_S, .base = TYPE_IQ3_S },
    { .name = "IQ3_XS", .file_type = FILE_IQ3_XS, .base = TYPE_IQ3_S },
    { .name = "IQ3_XXS", .file_type = FILE_IQ3_XXS, .base = TYPE_IQ3_XXS },
    { .name = "Q2_K", .file_type = FILE_Q2_K, .base = TYPE_Q2_K },
    { .name = "Q2_K_S", .file_type = FILE_Q2_K_S, .base = TYPE_Q2_K },
    { .name = "IQ2_M", .file_type = FILE_IQ2_M, .base = TYPE_IQ2_S },
    { .name = "IQ2_S", .file_type = FILE_IQ2_S, .base = TYPE_IQ2_XS },
    { .name = "IQ2_XS", .file_type = FILE_IQ2_XS, .base = TYPE_IQ2_XS },
    { .name = "IQ2_XXS", .file_type = FILE_IQ2_XXS, .base = TYPE_IQ2_XXS },
    { .name = "IQ1_M", .file_type = FILE_IQ1_M, .base = TYPE_IQ1_M },
    { .name = "IQ1_S", .file_type = FILE_IQ1_S, .base = TYPE_IQ1_S },
    { .name = "Q2_K_L", .file_type = FILE_Q2_K, .base = TYPE_Q2_K, .large = true },
    { .name = "Q3_K_XL", .file_type = FILE_Q3_K_L, .base = TYPE_Q3_K, .large = true },
    { .name = "Q4_K_L", .file_type = FILE_Q4_K_M, .base = TYPE_Q4_K, .large = true },
    { .name = "Q5_K_L", .file_type = FILE_Q5_K_M, .base = TYPE_Q5_K, .large = true },
    { .name = "Q6_K_L", .file_type = FILE_Q6_K, .base = TYPE_Q6_K, .large = true },
    { .name = "ds-iq1", .file_type = FILE_IQ1_S, .base = TYPE_IQ1_S, .preset = &ds_iq1 },
    { .name = "ds-iq2", .file_type = FILE_IQ2_XXS, .base = TYPE_IQ2_XXS, .preset = &ds_iq2 },
    { .name = "ds-q2", .file_type = FILE_Q2_K, .base = TYPE_Q2_K, .preset = &ds_q2 },
    { .name = "ds-iq3", .file_type = FILE_IQ3_XXS, .base = TYPE_IQ3_XXS, .preset = &ds_iq3 },
    { .name = "ds-q3", .file_type = FILE_Q3_K_M, .base = TYPE_Q3_K, .preset = &ds_q3 },
    { .name = "ds-q4", .file_type = FILE_Q4_K_S, .base = TYPE_Q4_K, .preset = &ds_q4 },
    { .name = "ds-q4m", .file_type = FILE_Q4_K_M, .base = TYPE_Q4_K, .preset = &ds_q4m },
    { .name = "copy", .copy = true },
};

const struct mixture *mixture_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(mixtures); i++)
        if (strcasecmp(name, mixtures[i].name) == 0 ||
            (mixtures[i].alias && strcasecmp(name, mixtures[i].alias) == 0))
            return &mixtures[i];
    return NULL;
}

uint32_t mixture_label(enum tensor_type type)
{
    for (size_t i = 0; i < ARRAY_LEN(mixtures); i++)
        if (mixtures[i].base == type && !mixtures[i].copy)
            return (uint32_t)mixtures[i].file_type;
    return FILE_Q8_0;
}

const char *mixture_names(void)
{
    static char text[ARRAY_LEN(mixtures) * 12];
    size_t n = 0;
    for (size_t i = 0; i < ARRAY_LEN(mixtures); i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%s", i ? ", " : "", mixtures[i].name);
    return text;
}

const char *mixture_nearest(const char *name)
{
    const char *names[ARRAY_LEN(mixtures)], *found = NULL;
    char word[24];
    for (size_t i = 0; i < ARRAY_LEN(mixtures); i++)
        names[i] = mixtures[i].name;
    /* Types are written in capitals, presets are not. */
    for (int capitals = 1; capitals >= 0 && !found && strlen(name) < sizeof word; capitals--) {
        for (size_t i = 0; i <= strlen(name); i++)
            word[i] = (char)(capitals ? toupper((unsigned char)name[i])
                                      : tolower((unsigned char)name[i]));
        found = nearest_name(word, names, ARRAY_LEN(names));
    }
    return found;
}

/* ---- parts of a model ---- */

int tensor_layer(const char *name)
{
    int layer;
    return sscanf(name, "blk.%d.", &layer) == 1 && layer >= 0 ? layer : -1;
}

static bool has(const char *name, const char *part)
{
    return strstr(name, part) != NULL;
}

bool mixture_is_attn_v(const char *tensor)
{
    return has(tensor, "attn_qkv.weight") || has(tensor, "attn_kv_b.weight") ||
           has(tensor, "attn_v.weight");
}

/* Layers whose errors travel furthest: the first and last eighth, and every third between. */
static bool wants_more(int layer, int n)
{
    return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
}

static bool many_queries_per_value(const struct recipe_model *m)
{
    return m->n_kv_heads > 0 && m->n_heads / m->n_kv_heads >= 4;
}

/* Llama and Qwen of 70 billion weights: eight query heads share each value head. */
static bool is_70b(const struct recipe_model *m)
{
    return m->n_layers == 80 && (str_is(m->arch, "qwen2") ||
                                 (str_is(m->arch, "llama") && m->n_heads != m->n_kv_heads));
}

static bool is_low(enum file_type f)
{
    return f == FILE_IQ1_S || f == FILE_IQ1_M || f == FILE_IQ2_XXS || f == FILE_IQ2_XS ||
           f == FILE_IQ2_S || f == FILE_IQ2_M;
}

static bool is_iq2_large(enum file_type f)
{
    return f == FILE_IQ2_S || f == FILE_IQ2_M;
}

/* ---- rules ---- */

static enum tensor_type output_type(const struct mixture *m, const struct recipe_tensor *t)
{
    if (m->file_type == FILE_MXFP4_MOE || m->base == TYPE_Q8_0 ||
        t->ne[0] % (uint64_t)quant_traits(m->base)->block_elements)
        return TYPE_Q8_0;
    return is_low(m->file_type) || m->file_type == FILE_IQ3_XXS ? TYPE_Q5_K : TYPE_Q6_K;
}

static enum tensor_type embed_type(const struct mixture *m)
{
    if (is_iq2_large(m->file_type) || m->file_type == FILE_IQ3_XXS)
        return TYPE_IQ3_S;
    return is_low(m->file_type) ? TYPE_Q2_K : m->base;
}

/* Mixtures of one to two bits per weight. */
static enum tensor_type low_type(struct mixture_walk *w, const struct recipe_tensor *t)
{
    const struct mixture *m = w->mixture;
    const struct recipe_model *model = w->model;
    if (mixture_is_attn_v(t->name)) {
        if (many_queries_per_value(model) || model->n_experts >= 4)
            return TYPE_Q4_K;
        return is_iq2_large(m->file_type) ? TYPE_IQ3_S : TYPE_Q2_K;
    }
    if (has(t->name, "attn_k.weight") && model->n_experts == 8)
        return TYPE_Q4_K;
    if (has(t->name, "ffn_down")) /* the first eighth as counted in tensors */
        return w->i_down++ >= model->n_layers / 8 ? m->base
               : is_iq2_large(m->file_type)       ? TYPE_IQ3_S
                                                  : TYPE_Q2_K;
    if (has(t->name, "attn_output.weight")) {
        if (model->n_experts == 8)
            return TYPE_Q5_K;
        if (is_iq2_large(m->file_type))
            return TYPE_IQ3_S;
        if (m->file_type == FILE_IQ1_S || m->file_type == FILE_IQ1_M)
            return TYPE_IQ2_XXS;
    }
    return m->base;
}

static enum tensor_type value_rule(const struct mixture_walk *w)
{
    const struct mixture *m = w->mixture;
    bool shared = many_queries_per_value(w->model);
    int i = w->i_attn_v;
    switch (m->file_type) {
    case FILE_Q2_K:
        return shared ? TYPE_Q4_K : TYPE_Q3_K;
    case FILE_Q2_K_S:
    case FILE_IQ3_XS:
    case FILE_IQ3_S:
        return shared ? TYPE_Q4_K : m->base;
    case FILE_IQ3_XXS:
        return shared ? TYPE_Q4_K : w->has_imatrix ? TYPE_IQ3_XXS : TYPE_IQ3_S;
    case FILE_IQ3_M:
        return TYPE_Q4_K;
    case FILE_Q3_K_M:
        return i < 2 ? TYPE_Q5_K : TYPE_Q4_K;
    case FILE_Q3_K_L:
        return TYPE_Q5_K;
    case FILE_IQ4_NL:
    case FILE_IQ4_XS:
        return shared ? TYPE_Q5_K : m->base;
    case FILE_Q4_K_M:
    case FILE_Q5_K_M:
        return wants_more(i, w->n_attn_v) ? TYPE_Q6_K : m->base;
    case FILE_Q4_K_S:
        return i < 4 ? TYPE_Q5_K : m->base;
    default:
        return m->base;
    }
}

static enum tensor_type value_type(struct mixture_walk *w)
{
    enum tensor_type type = value_rule(w);
    w->i_attn_v++;
    if (is_70b(w->model) && (type == TYPE_Q3_K || type == TYPE_Q4_K))
        type = TYPE_Q5_K;
    return w->model->n_experts == 8 ? TYPE_Q8_0 : type;
}

static enum tensor_type down_type(struct mixture_walk *w, const struct recipe_tensor *t)
{
    const struct mixture *m = w->mixture;
    int layer = tensor_layer(t->name), n = w->model->n_layers;
    if (w->model->n_experts <= 1 || layer < 0)
        layer = w->i_down;
    w->i_down++;
    bool early = layer < n / 8;
    switch (m->file_type) {
    case FILE_Q2_K:
        return TYPE_Q3_K;
    case FILE_Q2_K_S:
        return early ? TYPE_Q4_K : m->base;
    case FILE_IQ3_XXS:
        return w->has_imatrix ? m->base : early ? TYPE_Q4_K : TYPE_Q3_K;
    case FILE_Q3_K_M:
        return layer < n / 16 ? TYPE_Q5_K : TYPE_Q4_K;
    case FILE_IQ3_M:
        return early || (w->model->n_experts == 8 && wants_more(layer, n)) ? TYPE_Q4_K : m->base;
    case FILE_Q3_K_L:
        return TYPE_Q5_K;
    case FILE_Q4_K_M:
    case FILE_Q5_K_M:
        return wants_more(layer, n) ? TYPE_Q6_K : m->base;
    case FILE_IQ4_NL:
    case FILE_IQ4_XS:
        return early && !w->has_imatrix ? TYPE_Q5_K : m->base;
    case FILE_Q4_K_S:
        return early ? TYPE_Q5_K : m->base;
    case FILE_Q4_0: /* importance can make these two go astray in the first layers */
        return early && w->has_imatrix ? TYPE_Q4_1 : m->base;
    case FILE_Q5_0:
        return early && w->has_imatrix ? TYPE_Q5_1 : m->base;
    default:
        return m->base;
    }
}

static enum tensor_type attn_output_type(const struct mixture_walk *w)
{
    const struct mixture *m = w->mixture;
    bool eight = w->model->n_experts == 8;
    switch (m->file_type) {
    case FILE_Q2_K:
        return eight ? TYPE_Q5_K : TYPE_Q3_K;
    case FILE_IQ3_XXS:
        return eight ? TYPE_Q5_K : TYPE_IQ3_S;
    case FILE_Q3_K_M:
    case FILE_IQ3_M:
        return eight ? TYPE_Q5_K : TYPE_Q4_K;
    case FILE_Q3_K_L:
        return eight ? m->base : TYPE_Q5_K;
    case FILE_IQ3_XS:
    case FILE_Q3_K_S:
    case FILE_IQ4_NL:
    case FILE_Q4_K_S:
    case FILE_Q4_K_M:
    case FILE_IQ3_S:
    case FILE_IQ4_XS:
        return eight ? TYPE_Q5_K : m->base;
    default:
        return m->base;
    }
}

static enum tensor_type query_key_type(const struct mixture_walk *w, bool key)
{
    if (key && w->model->n_experts == 8)
        return TYPE_Q8_0;
    if (w->mixture->file_type == FILE_IQ3_XS)
        return TYPE_IQ3_XXS;
    return w->mixture->file_type == FILE_IQ3_XXS ? TYPE_IQ2_S : w->mixture->base;
}

static enum tensor_type gate_up_type(const struct mixture_walk *w, const struct recipe_tensor *t)
{
    int layer = tensor_layer(t->name), n = w->model->n_layers;
    bool middle = layer >= n / 8 && layer < 7 * n / 8;
    return w->mixture->file_type == FILE_IQ3_XS && middle ? TYPE_IQ3_XXS : w->mixture->base;
}

static enum tensor_type preset_type(struct mixture_walk *w, const struct recipe_tensor *t)
{
    const struct preset *p = w->mixture->preset;
    if (strcmp(t->name, "output.weight") == 0)
        return p->output;
    if (strcmp(t->name, "token_embd.weight") == 0)
        return w->tied ? p->output : p->embed;
    if (has(t->name, "ffn_down_exps"))
        return w->i_down++ < 6 ? p->first_down : p->down;
    if (has(t->name, "_exps"))
        return p->gate_up;
    return has(t->name, "ffn_") ? p->dense : p->attention;
}

enum tensor_type mixture_type(struct mixture_walk *w, const struct recipe_tensor *t)
{
    const struct mixture *m = w->mixture;
    bool output = strcmp(t->name, "output.weight") == 0;
    bool embed = strcmp(t->name, "token_embd.weight") == 0;
    if (m->base == TYPE_F32 || m->base == TYPE_F16 || m->base == TYPE_BF16)
        return m->base;
    if (m->preset)
        return preset_type(w, t);
    if (m->large && (output || embed))
        return TYPE_Q8_0;
    if (output || (embed && w->tied))
        return output_type(m, t);
    if (m->file_type == FILE_MXFP4_MOE)
        return t->ne[2] > 1 ? TYPE_MXFP4 : TYPE_Q8_0;
    if (embed)
        return embed_type(m);
    if (is_low(m->file_type))
        return low_type(w, t);
    if (mixture_is_attn_v(t->name))
        return value_type(w);
    if (has(t->name, "attn_k.weight") || has(t->name, "attn_q.weight"))
        return query_key_type(w, has(t->name, "attn_k.weight"));
    if (has(t->name, "attn_output.weight"))
        return attn_output_type(w);
    if (has(t->name, "ffn_down"))
        return down_type(w, t);
    if (has(t->name, "ffn_up") || has(t->name, "ffn_gate"))
        return gate_up_type(w, t);
    return m->base;
}
