#include "tools/hf_names.h"

#include <stdio.h>
#include <string.h>

#include "src/base/util.h"

/* ---- Llama, Qwen, DeepSeek up to V3.2 ---- */

#define LAYER "model.layers.%d."
#define BLOCK(gguf, hf) { "blk.%d." gguf, LAYER hf, HOW_ROWS, NULL }
#define BLOCK_AS(how, gguf, hf) { "blk.%d." gguf, LAYER hf, how, NULL }

static const struct name_row hf_names[] = {
    { "token_embd.weight", "model.embed_tokens.weight", HOW_ROWS, NULL },
    { "output_norm.weight", "model.norm.weight", HOW_ROWS, NULL },
    { "output.weight", "lm_head.weight", HOW_ROWS, NULL },
    { "rope_freqs.weight", NULL, HOW_FREQS, NULL },
    BLOCK("attn_norm.weight", "input_layernorm.weight"),
    BLOCK("ffn_norm.weight", "post_attention_layernorm.weight"),
    BLOCK_AS(HOW_ROTARY, "attn_q.weight", "self_attn.q_proj.weight"),
    BLOCK_AS(HOW_ROTARY, "attn_k.weight", "self_attn.k_proj.weight"),
    BLOCK("attn_v.weight", "self_attn.v_proj.weight"),
    BLOCK("attn_output.weight", "self_attn.o_proj.weight"),
    BLOCK_AS(HOW_ROTARY, "attn_q.bias", "self_attn.q_proj.bias"),
    BLOCK_AS(HOW_ROTARY, "attn_k.bias", "self_attn.k_proj.bias"),
    BLOCK("attn_v.bias", "self_attn.v_proj.bias"),
    BLOCK("attn_output.bias", "self_attn.o_proj.bias"),
    BLOCK("attn_q_norm.weight", "self_attn.q_norm.weight"),
    BLOCK("attn_k_norm.weight", "self_attn.k_norm.weight"),
    BLOCK("attn_q_a.weight", "self_attn.q_a_proj.weight"),
    BLOCK("attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight"),
    BLOCK("attn_q_b.weight", "self_attn.q_b_proj.weight"),
    BLOCK("attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight"),
    BLOCK("attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight"),
    BLOCK_AS(HOW_K_B, "attn_k_b.weight", "self_attn.kv_b_proj.weight"),
    BLOCK_AS(HOW_V_B, "attn_v_b.weight", "self_attn.kv_b_proj.weight"),
    BLOCK("indexer.attn_q_b.weight", "self_attn.indexer.wq_b.weight"),
    BLOCK("indexer.attn_k.weight", "self_attn.indexer.wk.weight"),
    BLOCK("indexer.k_norm.weight", "self_attn.indexer.k_norm.weight"),
    BLOCK("indexer.k_norm.bias", "self_attn.indexer.k_norm.bias"),
    BLOCK("indexer.proj.weight", "self_attn.indexer.weights_proj.weight"),
    BLOCK("ffn_gate.weight", "mlp.gate_proj.weight"),
    BLOCK("ffn_up.weight", "mlp.up_proj.weight"),
    BLOCK("ffn_down.weight", "mlp.down_proj.weight"),
    BLOCK("ffn_gate.bias", "mlp.gate_proj.bias"),
    BLOCK("ffn_up.bias", "mlp.up_proj.bias"),
    BLOCK("ffn_down.bias", "mlp.down_proj.bias"),
    BLOCK("ffn_gate_inp.weight", "mlp.gate.weight"),
    BLOCK("exp_probs_b.bias", "mlp.gate.e_score_correction_bias"),
    BLOCK("ffn_gate_exps.weight", "mlp.experts.%d.gate_proj.weight"),
    BLOCK("ffn_up_exps.weight", "mlp.experts.%d.up_proj.weight"),
    BLOCK("ffn_down_exps.weight", "mlp.experts.%d.down_proj.weight"),
    BLOCK("ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight"),
    BLOCK("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight"),
    BLOCK("ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight"),
    BLOCK("nextn.eh_proj.weight", "eh_proj.weight"),
    BLOCK("nextn.enorm.weight", "enorm.weight"),
    BLOCK("nextn.hnorm.weight", "hnorm.weight"),
    BLOCK("nextn.shared_head_norm.weight", "shared_head.norm.weight"),
    BLOCK("nextn.shared_head_head.weight", "shared_head.head.weight"),
    BLOCK("nextn.embed_tokens.weight", "embed_tokens.weight"),
};

/* ---- DeepSeek V4 ---- */

#undef LAYER
#define LAYER "layers.%d."

static const struct name_row v4_names[] = {
    { "token_embd.weight", "embed.weight", HOW_ROWS, NULL },
    { "output_norm.weight", "norm.weight", HOW_ROWS, NULL },
    { "output.weight", "head.weight", HOW_ROWS, NULL },
    { "output_hc_fn.weight", "hc_head_fn", HOW_ROWS, NULL },
    { "output_hc_base.weight", "hc_head_base", HOW_ROWS, NULL },
    { "output_hc_scale.weight", "hc_head_scale", HOW_ROWS, NULL },
    BLOCK("hc_attn_fn.weight", "hc_attn_fn"),
    BLOCK("hc_attn_base.weight", "hc_attn_base"),
    BLOCK("hc_attn_scale.weight", "hc_attn_scale"),
    BLOCK("hc_ffn_fn.weight", "hc_ffn_fn"),
    BLOCK("hc_ffn_base.weight", "hc_ffn_base"),
    BLOCK("hc_ffn_scale.weight", "hc_ffn_scale"),
    BLOCK("attn_norm.weight", "attn_norm.weight"),
    BLOCK("ffn_norm.weight", "ffn_norm.weight"),
    BLOCK("attn_q_a.weight", "attn.wq_a.weight"),
    BLOCK("attn_q_a_norm.weight", "attn.q_norm.weight"),
    BLOCK("attn_q_b.weight", "attn.wq_b.weight"),
    BLOCK("attn_kv.weight", "attn.wkv.weight"),
    BLOCK("attn_kv_a_norm.weight", "attn.kv_norm.weight"),
    BLOCK("attn_output_a.weight", "attn.wo_a.weight"),
    BLOCK("attn_output_b.weight", "attn.wo_b.weight"),
    BLOCK("attn_sinks.weight", "attn.attn_sink"),
    BLOCK("attn_compressor_kv.weight", "attn.compressor.wkv.weight"),
    BLOCK("attn_compressor_gate.weight", "attn.compressor.wgate.weight"),
    BLOCK("attn_compressor_ape.weight", "attn.compressor.ape"),
    BLOCK("attn_compressor_norm.weight", "attn.compressor.norm.weight"),
    BLOCK("indexer.attn_q_b.weight", "attn.indexer.wq_b.weight"),
    BLOCK("indexer.proj.weight", "attn.indexer.weights_proj.weight"),
    BLOCK("indexer_compressor_kv.weight", "attn.indexer.compressor.wkv.weight"),
    BLOCK("indexer_compressor_gate.weight", "attn.indexer.compressor.wgate.weight"),
    BLOCK("indexer_compressor_ape.weight", "attn.indexer.compressor.ape"),
    BLOCK("indexer_compressor_norm.weight", "attn.indexer.compressor.norm.weight"),
    BLOCK("ffn_gate_inp.weight", "ffn.gate.weight"),
    BLOCK("exp_probs_b.bias", "ffn.gate.bias"),
    BLOCK_AS(HOW_INTEGERS, "ffn_gate_tid2eid.weight", "ffn.gate.tid2eid"),
    BLOCK("ffn_gate_exps.weight", "ffn.experts.%d.w1.weight"),
    BLOCK("ffn_down_exps.weight", "ffn.experts.%d.w2.weight"),
    BLOCK("ffn_up_exps.weight", "ffn.experts.%d.w3.weight"),
    BLOCK("ffn_gate_shexp.weight", "ffn.shared_experts.w1.weight"),
    BLOCK("ffn_down_shexp.weight", "ffn.shared_experts.w2.weight"),
    BLOCK("ffn_up_shexp.weight", "ffn.shared_experts.w3.weight"),
    { "blk.%d.nextn.eh_proj.weight", LAYER "e_proj.weight", HOW_BESIDE, LAYER "h_proj.weight" },
    BLOCK("nextn.enorm.weight", "enorm.weight"),
    BLOCK("nextn.hnorm.weight", "hnorm.weight"),
    BLOCK("nextn.shared_head_norm.weight", "norm.weight"),
    BLOCK("nextn.shared_head_head.weight", "head.weight"),
    BLOCK("nextn.embed_tokens.weight", "emb.tok_emb.weight"),
    BLOCK("nextn.hc_head_fn.weight", "hc_head_fn"),
    BLOCK("nextn.hc_head_base.weight", "hc_head_base"),
    BLOCK("nextn.hc_head_scale.weight", "hc_head_scale"),
};

/* ---- look-ups ---- */

const struct name_row *find_names(enum spelling spelling, const char *gguf)
{
    const struct name_row *rows = spelling == SPELLING_V4 ? v4_names : hf_names;
    size_t n = spelling == SPELLING_V4 ? ARRAY_LEN(v4_names) : ARRAY_LEN(hf_names);
    for (size_t i = 0; i < n; i++)
        if (strcmp(rows[i].gguf, gguf) == 0)
            return &rows[i];
    return NULL;
}

void scale_name(enum spelling spelling, const char *weight, char *out, size_t size)
{
    static const char tail[] = ".weight";
    size_t n = strlen(weight), k = sizeof tail - 1;
    bool has_tail = n > k && strcmp(weight + n - k, tail) == 0;
    if (spelling == SPELLING_V4)
        snprintf(out, size, "%.*s.scale", (int)(has_tail ? n - k : n), weight);
    else
        snprintf(out, size, "%s_scale_inv", weight);
}

const char *fill_name(char *out, size_t size, const char *pattern, int layer, int64_t expert)
{
    size_t n = 0;
    int64_t numbers[2] = { layer, expert };
    int used = 0;
    for (const char *at = pattern; *at && n + 12 < size; at++) {
        if (at[0] == '%' && at[1] == 'd' && used < 2) {
            n += (size_t)snprintf(out + n, size - n, "%lld", (long long)numbers[used++]);
            at++;
        } else {
            out[n++] = *at;
        }
    }
    out[n] = 0;
    return out;
}

const char *checkpoint_name(char *out, size_t size, enum spelling spelling, const char *hf,
                            int layer, int n_layers, int64_t expert)
{
    static const char main_layers[] = "layers.";
    char pattern[128];
    if (spelling != SPELLING_V4 || layer < n_layers)
        return fill_name(out, size, hf, layer, expert);
    snprintf(pattern, sizeof pattern, "mtp.%s", hf + sizeof main_layers - 1);
    return fill_name(out, size, pattern, layer - n_layers, expert);
}

int hf_layer(enum spelling spelling, const char *name)
{
    int layer = -1, found = spelling == SPELLING_V4 ? sscanf(name, "layers.%d.", &layer)
                                                    : sscanf(name, "model.layers.%d.", &layer);
    return found == 1 && layer >= 0 ? layer : -1;
}
