/* Metadata of a file that tiny writes: hyper-parameters and vocabulary. */
#include "tools/tiny.h"

#include <stdio.h>
#include <string.h>

#include "src/base/mem.h"

/* ---- metadata ---- */

static bool add_u32(struct tiny_plan *p, const char *key, int64_t value, struct error *err)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", p->arch->name, key);
    return gguf_writer_add_u32(&p->writer, full, (uint32_t)value, err);
}

static bool add_f32(struct tiny_plan *p, const char *key, double value, struct error *err)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", p->arch->name, key);
    return gguf_writer_add_f32(&p->writer, full, (float)value, err);
}

static bool add_str(struct tiny_plan *p, const char *key, const char *value, struct error *err)
{
    char full[128];
    snprintf(full, sizeof full, "%s.%s", p->arch->name, key);
    return gguf_writer_add_str(&p->writer, full, value, err);
}

/* One value, or the same value for every block (0 from block `until` on) where the generation says
 * so. */
static bool add_layers(struct tiny_plan *p, const char *key, int64_t value, int64_t until,
                       struct error *err)
{
    int32_t values[512];
    char full[128];
    int n = p->params.n_layers + p->params.n_mtp;
    if (!p->o->generation->arrays)
        return add_u32(p, key, value, err);
    for (int i = 0; i < n; i++)
        values[i] = i < until ? (int32_t)value : 0;
    snprintf(full, sizeof full, "%s.%s", p->arch->name, key);
    return gguf_writer_add_array(&p->writer, full, GGUF_I32, values, (size_t)n, err);
}

static bool add_expert_keys(struct tiny_plan *p, struct error *err)
{
    const struct shape *s = p->o->like;
    const struct generation *g = p->o->generation;
    bool old = g->kv_b && !g->split && s->gating == 1; /* files of V2's time say nothing */
    bool ok = add_u32(p, "expert_count", s->routed, err) &&
              add_u32(p, "expert_used_count", s->top_k, err) &&
              add_u32(p, "expert_shared_count", s->shared, err) &&
              add_u32(p, "expert_feed_forward_length", s->expert, err) &&
              add_u32(p, "leading_dense_block_count", p->params.n_dense_lead, err) &&
              add_f32(p, "expert_weights_scale", (double)s->scale, err);
    char full[128];
    snprintf(full, sizeof full, "%s.expert_weights_norm", s->arch);
    if (ok && !old && strcmp(s->arch, "deepseek"))
        ok = add_u32(p, "expert_gating_func", s->gating, err) &&
             gguf_writer_add_bool(&p->writer, full, s->gating != 1, err);
    if (ok && g->groups && s->groups > 1)
        ok = add_u32(p, "expert_group_count", s->groups, err) &&
             add_u32(p, "expert_group_used_count", s->groups_used, err);
    return ok;
}

static bool add_indexer_keys(struct tiny_plan *p, struct error *err)
{
    const struct shape *s = p->o->like;
    return add_u32(p, "attention.indexer.head_count", s->index_heads, err) &&
           add_u32(p, "attention.indexer.key_length", s->index_dim, err) &&
           add_u32(p, "attention.indexer.top_k", s->index_top_k, err);
}

static bool add_v4_keys(struct tiny_plan *p, struct error *err)
{
    const struct shape *s = p->o->like;
    int32_t ratios[513] = { 0 };
    float clamps[512];
    char key[128], clamp[128];
    int n = p->params.n_layers, n_blocks = n + p->params.n_mtp;
    for (int i = 0; i < n; i++)
        ratios[i] = shape_ratio(s, i);
    for (int i = 0; i < n_blocks; i++)
        clamps[i] = 10;
    snprintf(key, sizeof key, "%s.attention.compress_ratios", s->arch);
    snprintf(clamp, sizeof clamp, "%s.swiglu_clamp_exp", s->arch);
    return gguf_writer_add_array(&p->writer, key, GGUF_I32, ratios, (size_t)n + 1, err) &&
           gguf_writer_add_array(&p->writer, clamp, GGUF_F32, clamps, (size_t)n_blocks, err) &&
           add_u32(p, "embedding_length_out", s->streams * s->hidden, err) &&
           add_u32(p, "attention.head_count_kv", 1, err) &&
           add_u32(p, "attention.key_length", s->head, err) &&
           add_u32(p, "attention.value_length", s->value, err) &&
           add_u32(p, "attention.q_lora_rank", s->q_rank, err) &&
           add_u32(p, "attention.sliding_window", s->window, err) &&
           add_u32(p, "attention.output_group_count", s->out_groups, err) &&
           add_u32(p, "attention.output_lora_rank", s->out_rank, err) &&
           add_f32(p, "attention.compress_rope_freq_base", s->compress_base, err) &&
           add_u32(p, "hyper_connection.count", s->streams, err) &&
           add_u32(p, "hyper_connection.sinkhorn_iterations", 20, err) &&
           add_f32(p, "hyper_connection.epsilon", 1e-6, err) &&
           add_u32(p, "hash_layer_count", s->hash_layers, err) &&
           add_u32(p, "rope.dimension_count", s->rotary, err);
}

static bool add_attention_keys(struct tiny_plan *p, struct error *err)
{
    const struct shape *s = p->o->like;
    const struct generation *g = p->o->generation;
    bool old = g->kv_b;
    if (s->streams)
        return add_v4_keys(p, err) && add_indexer_keys(p, err);
    if (s->index_heads && !add_indexer_keys(p, err))
        return false;
    if (!s->kv_rank)
        return add_layers(p, "attention.head_count_kv", s->kv_heads, 512, err) &&
               add_u32(p, "attention.key_length", s->head, err) &&
               add_u32(p, "attention.value_length", s->value, err) &&
               add_u32(p, "rope.dimension_count", s->head, err);
    return add_layers(p, "attention.head_count_kv", old ? s->heads : 1, 512, err) &&
           add_u32(p, "attention.q_lora_rank", s->q_rank, err) && /* llama.cpp wants the 0 too */
           add_u32(p, "attention.kv_lora_rank", s->kv_rank, err) &&
           add_u32(p, "attention.key_length", old ? s->head : s->kv_rank + s->rotary, err) &&
           add_u32(p, "attention.value_length", old ? s->value : s->kv_rank, err) &&
           (old || (add_u32(p, "attention.key_length_mla", s->head, err) &&
                    add_u32(p, "attention.value_length_mla", s->value, err))) &&
           add_u32(p, "rope.dimension_count", s->rotary, err);
}

static bool add_rope_keys(struct tiny_plan *p, struct error *err)
{
    const struct shape *s = p->o->like;
    bool betas = p->o->generation->betas && s->beta_fast > 0;
    if (!add_f32(p, "rope.freq_base", s->rope_base, err))
        return false;
    if (s->rope_factor <= 1)
        return add_str(p, "rope.scaling.type", "none", err);
    return add_str(p, "rope.scaling.type", "yarn", err) &&
           add_f32(p, "rope.scaling.factor", s->rope_factor, err) &&
           add_u32(p, "rope.scaling.original_context_length", s->original_context, err) &&
           (s->log_multiplier == 0 ||
            add_f32(p, "rope.scaling.yarn_log_multiplier", s->log_multiplier, err)) &&
           (!betas || (add_f32(p, "rope.scaling.yarn_beta_fast", s->beta_fast, err) &&
                       add_f32(p, "rope.scaling.yarn_beta_slow", 1, err)));
}

bool tiny_add_keys(struct tiny_plan *p, struct error *err)
{
    const struct shape *s = p->o->like;
    const struct params *q = &p->params;
    char name[64];
    snprintf(name, sizeof name, "Random %s", s->name);
    return gguf_writer_add_str(&p->writer, "general.architecture", s->arch, err) &&
           gguf_writer_add_str(&p->writer, "general.type", "model", err) &&
           gguf_writer_add_str(&p->writer, "general.name", name, err) &&
           gguf_writer_add_u32(&p->writer, "general.quantization_version", 2, err) &&
           add_u32(p, "block_count", q->n_layers + q->n_mtp, err) &&
           (!q->n_mtp || add_u32(p, "nextn_predict_layers", q->n_mtp, err)) &&
           add_u32(p, "context_length", s->context, err) &&
           add_u32(p, "embedding_length", s->hidden, err) &&
           add_u32(p, "vocab_size", q->n_vocab, err) &&
           (!s->ffn ||
            add_layers(p, "feed_forward_length", s->ffn, s->routed ? q->n_dense_lead : 512, err)) &&
           add_layers(p, "attention.head_count", s->heads, 512, err) &&
           add_f32(p, "attention.layer_norm_rms_epsilon", 1e-6, err) &&
           add_attention_keys(p, err) && add_rope_keys(p, err) &&
           (!s->routed || add_expert_keys(p, err));
}

/* ---- vocabulary: 256 bytes, a few merges, special tokens, padding ---- */

enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5 };

static const char *const specials[] = {
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>",
    "<think>", "</think>",
};
static const char *const merges[][2] = { { "Ġ", "t" }, { "h", "e" }, { "i", "n" }, { "Ġt", "he" } };

/* The printable stand-in of a byte in byte-level BPE, as UTF-8 (GPT-2's table): printable Latin-1
 * bytes stand for themselves, the others for U+0100 on, in order. */
static void byte_text(int byte, char *out)
{
    int code = byte, shifted = 0;
    for (int b = 0; b <= byte; b++) {
        bool printable = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        code = printable ? b : 256 + shifted++;
    }
    if (code < 0x80)
        snprintf(out, 4, "%c", code);
    else
        snprintf(out, 4, "%c%c", 0xc0 | code >> 6, 0x80 | (code & 0x3f));
}

bool tiny_add_tokenizer(struct tiny_plan *p, struct error *err)
{
    int64_t n = p->params.n_vocab;
    const int64_t first_special = 256 + (int64_t)ARRAY_LEN(merges);
    if (p->o->vocab == 0)
        return gguf_writer_add_str(&p->writer, "tokenizer.ggml.model", "no_vocab", err);
    struct str *texts = mem_alloc((size_t)n, sizeof *texts, "tokens", err);
    char (*store)[48] = mem_alloc((size_t)n, sizeof *store, "tokens", err);
    int32_t *types = mem_alloc((size_t)n, sizeof *types, "token types", err);
    struct str pairs[ARRAY_LEN(merges)];
    char pair_store[ARRAY_LEN(merges)][16];
    bool ok = texts && store && types;
    for (int64_t i = 0; ok && i < n; i++) {
        int64_t special = i - first_special;
        types[i] = TOKEN_NORMAL;
        if (i < 256) {
            byte_text((int)i, store[i]);
        } else if (special < 0) {
            snprintf(store[i], sizeof store[i], "%s%s", merges[i - 256][0], merges[i - 256][1]);
        } else if (special < (int64_t)ARRAY_LEN(specials)) {
            snprintf(store[i], sizeof store[i], "%s", specials[special]);
            types[i] = special < 4 ? TOKEN_CONTROL : TOKEN_USER;
        } else {
            snprintf(store[i], sizeof store[i], "[PAD%lld]", (long long)i);
            types[i] = TOKEN_UNUSED;
        }
        texts[i] = str_of(store[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(merges); i++) {
        snprintf(pair_store[i], sizeof pair_store[i], "%s %s", merges[i][0], merges[i][1]);
        pairs[i] = str_of(pair_store[i]);
    }
    struct gguf_writer *w = &p->writer;
    ok = ok && gguf_writer_add_str(w, "tokenizer.ggml.model", "gpt2", err) &&
         gguf_writer_add_str(w, "tokenizer.ggml.pre", p->o->like->pre, err) &&
         gguf_writer_add_strings(w, "tokenizer.ggml.tokens", texts, (size_t)n, err) &&
         gguf_writer_add_array(w, "tokenizer.ggml.token_type", GGUF_I32, types, (size_t)n, err) &&
         gguf_writer_add_strings(w, "tokenizer.ggml.merges", pairs, ARRAY_LEN(merges), err) &&
         gguf_writer_add_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)first_special, err) &&
         gguf_writer_add_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)first_special + 1, err) &&
         gguf_writer_add_bool(w, "tokenizer.ggml.add_bos_token", true, err);
    mem_free(texts);
    mem_free(store);
    mem_free(types);
    return ok;
}
