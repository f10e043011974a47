/* Which tensors a file has, under which names and of which types: the rows of the architecture's
 * table, as the generation of files and the options have them. */
#include <stdio.h>
#include <string.h>

#include "src/format/quant.h"
#include "tools/tiny.h"

void tiny_item_name(char *out, size_t size, const char *pattern, int layer)
{
    const char *mark = strstr(pattern, "%d");
    if (mark)
        snprintf(out, size, "%.*s%d%s", (int)(mark - pattern), pattern, layer, mark + 2);
    else
        snprintf(out, size, "%s", pattern);
}

bool tiny_name_ends(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

/* Alternatives and optional tensors, by the options. */
static bool wanted(const struct tiny_plan *plan, const struct tensor_spec *s, int layer)
{
    const struct shape *like = plan->o->like;
    const struct generation *g = plan->o->generation;
    const char *name = s->name;
    if (tiny_name_ends(name, ".attn_kv_b.weight"))
        return g->kv_b;
    if (tiny_name_ends(name, ".attn_k_b.weight") || tiny_name_ends(name, ".attn_v_b.weight"))
        return g->split;
    if (strstr(name, ".attn_qkv.") || strstr(name, ".ffn_gate_up_exps."))
        return g->fused && !(tiny_name_ends(name, ".bias") && strcmp(like->arch, "qwen2"));
    if (s->instead && (strstr(s->instead, "attn_qkv") || strstr(s->instead, "gate_up_exps")) &&
        g->fused)
        return false;
    if (s->instead && strstr(s->instead, "attn_q_a") && like->q_rank)
        return false;
    if (strcmp(name, "output.weight") == 0)
        return !like->tied;
    if (strcmp(name, "rope_freqs.weight") == 0)
        return like->rope_freqs;
    if (strstr(name, ".nextn.eh_proj"))
        return !g->halves;
    if (strstr(name, ".nextn.e_proj") || strstr(name, ".nextn.h_proj"))
        return g->halves;
    if (strstr(name, ".nextn.hc_head"))
        return true;
    if (strstr(name, ".nextn.shared_head") || strstr(name, ".nextn.embed_tokens"))
        return g->own;
    if (strstr(name, "exp_probs_b"))
        return like->gating == 2 || (like->gating == 4 && layer >= like->hash_layers);
    return s->need == REQUIRED;
}

/* llama-quantize's answers to rows that are no whole number of 256-element blocks. */
static enum tensor_type fallback(enum tensor_type type, uint64_t cols)
{
    if (cols % (uint64_t)quant_traits(type)->block_elements == 0)
        return type;
    switch (type) {
    case TYPE_Q2_K:
    case TYPE_Q3_K: type = TYPE_Q4_0; break;
    case TYPE_Q4_K: type = TYPE_Q5_0; break;
    case TYPE_Q5_K: type = TYPE_Q5_1; break;
    case TYPE_Q6_K: type = TYPE_Q8_0; break;
    default:        type = TYPE_IQ4_NL; break;
    }
    return cols % (uint64_t)quant_traits(type)->block_elements ? TYPE_F16 : type;
}

/* `mix`: what a good 4-bit file looks like. Experts and most of attention in Q4_K (Q5_0 where rows
 * are short of a block), the narrow latent matrices in Q8_0, the head in Q6_K. k_b and v_b are in
 * Q5_0: llama.cpp stops with an assertion when its AMX path meets them in Q8_0 or Q4_K. */
static enum tensor_type mixed_type(const struct tensor_spec *s)
{
    if (s->role == ROLE_HEAD)
        return TYPE_Q6_K;
    if (strstr(s->name, "attn_k_b") || strstr(s->name, "attn_v_b"))
        return TYPE_Q5_0;
    if (strstr(s->name, "kv_a_mqa") || strstr(s->name, "attn_q_b"))
        return TYPE_Q8_0;
    return TYPE_Q4_K;
}

/* `ud-q2_k_xl`: the dynamic 2-bit files of R1 (January 2025): attention and embedding Q4_K, shared
 * experts, dense layers and head Q6_K, the first three `down` of the experts Q3_K, other experts
 * Q2_K. */
static enum tensor_type ud_q2_type(const struct tiny_plan *plan, const struct tensor_spec *s, int layer)
{
    bool early = layer < plan->params.n_dense_lead + 3;
    if (s->role == ROLE_ROUTED)
        return early && strstr(s->name, "down") ? TYPE_Q3_K : TYPE_Q2_K;
    return s->role == ROLE_HEAD || strstr(s->name, ".ffn_") ? TYPE_Q6_K : TYPE_Q4_K;
}

/* `native`: a checkpoint of FP4 experts and FP8 matrices, repacked: MXFP4, Q8_0, and BF16 as it
 * was. */
static enum tensor_type native_type(const struct tensor_spec *s)
{
    if (s->role == ROLE_ROUTED)
        return TYPE_MXFP4;
    bool kept = strstr(s->name, "compressor") || strstr(s->name, "indexer.proj") ||
                s->role == ROLE_EMBED || s->role == ROLE_HEAD;
    return kept ? TYPE_BF16 : TYPE_Q8_0;
}

static enum tensor_type mix_type(const struct tiny_plan *plan, const struct tensor_spec *s, int layer)
{
    switch (plan->o->type) {
    case MIX:        return mixed_type(s);
    case MIX_UD_Q2:  return ud_q2_type(plan, s, layer);
    case MIX_NATIVE: return native_type(s);
    default:         return (enum tensor_type)plan->o->type;
    }
}

static enum tensor_type item_type(const struct tiny_plan *plan, const struct tensor_spec *s, int layer,
                                  const char *name, uint64_t cols)
{
    if (plan->o->type == MIX_NATIVE && strstr(s->name, "ffn_gate_inp"))
        return TYPE_BF16;
    if (s->is_f32 || s->is_i32)
        return s->is_i32 ? TYPE_I32 : TYPE_F32;
    for (size_t i = 0; i < plan->n_chosen; i++) {
        if (strcmp(plan->chosen[i].name, name) == 0)
            return plan->chosen[i].type;
    }
    return fallback(mix_type(plan, s, layer), cols);
}

bool tiny_make_item(const struct tiny_plan *plan, const struct tensor_spec *s, int layer,
                    struct tiny_item *it)
{
    *it = (struct tiny_item){ .spec = s, .layer = layer };
    if (!tensor_stands_in(s, &plan->params, layer) || !wanted(plan, s, layer))
        return false;
    for (int i = 0; i < 4; i++) {
        it->ne[i] = s->shape[i] ? (uint64_t)params_dim(&plan->params, s->shape[i]) : 1;
        if (s->shape[i])
            it->n_dims = i + 1;
        if (it->ne[i] == 0)
            return false;
    }
    bool old = plan->o->generation->old_names && s->alias;
    tiny_item_name(it->name, sizeof it->name, old ? s->alias : s->name, layer);
    it->type = item_type(plan, s, layer, it->name, it->ne[0]);
    return true;
}
