#include "tools/convert_plan.h"

#include <math.h>
#include <stdio.h>

#include "src/base/log.h"
#include "src/base/mem.h"

#define CHUNK_ELEMENTS (1 << 20) /* of f32: 4 MB per thread */

typedef unsigned long long ull;

/* ---- names ---- */

/* GGUF and Hugging Face names; the first %d is the layer, a second one the expert. Tensors of the
 * architectures' tables that have no row here (fused forms, old spellings) are not produced. */
static const struct name_row {
    const char *gguf, *hf;
    enum how how;
} names[] = {
    { "token_embd.weight", "model.embed_tokens.weight", HOW_ROWS },
    { "output_norm.weight", "model.norm.weight", HOW_ROWS },
    { "output.weight", "lm_head.weight", HOW_ROWS },
    { "rope_freqs.weight", NULL, HOW_FREQS },
#define LAYER "model.layers.%d."
#define BLOCK(gguf, hf) { "blk.%d." gguf, LAYER hf, HOW_ROWS }
#define BLOCK_AS(how, gguf, hf) { "blk.%d." gguf, LAYER hf, how }
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

static const struct name_row *find_names(const char *gguf)
{
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (strcmp(names[i].gguf, gguf) == 0)
            return &names[i];
    return NULL;
}

/* A name of the table with its numbers filled in. */
static const char *fill_name(char *out, size_t size, const char *pattern, int layer, int64_t expert)
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

/* ---- which tensors ---- */

/* Shape by the table; false: this model has no such tensor. */
static bool solve_shape(struct plan_tensor *t, const struct tensor_spec *s, const struct params *p)
{
    t->n_dims = 0;
    for (int d = 0; d < TENSOR_MAX_DIMS && s->shape[d] != DIM_NONE; d++) {
        int64_t n = params_dim(p, s->shape[d]);
        if (n <= 0)
            return false;
        t->ne[t->n_dims++] = (uint64_t)n;
    }
    return true;
}

static bool is_planned(const struct plan *p, const char *name)
{
    for (size_t i = p->n_tensors; i-- > 0;)
        if (strcmp(p->tensors[i].name, name) == 0)
            return true;
    return false;
}

/* ---- sources ---- */

static const char *shape_text(char text[96], const uint64_t *shape, int rank)
{
    size_t n = 0;
    for (int d = 0; d < rank; d++)
        n += (size_t)snprintf(text + n, 96 - n, d ? "x%llu" : "%llu", (ull)shape[d]);
    text[n] = 0;
    return text;
}

static bool check_shape(const struct st_tensor *t, uint64_t rows, uint64_t cols, struct error *err)
{
    uint64_t wanted[2] = { rows, cols };
    int rank = rows ? 2 : 1;
    char found_text[96], wanted_text[96];
    if (t->rank == rank && t->shape[rank - 1] == cols && (rank == 1 || t->shape[0] == rows))
        return true;
    return fail(err, ERR_FILE, "%s: shape %s, config.json implies %s", t->name,
                shape_text(found_text, t->shape, t->rank),
                shape_text(wanted_text, wanted + 2 - rank, rank));
}

static bool check_scale_values(const struct checkpoint *c, const struct st_tensor *s,
                               struct error *err)
{
    size_t bytes = (size_t)s->bytes, size = st_dtype_bytes(s->dtype), n = bytes / size;
    uint8_t *raw = mem_alloc(bytes, 1, "scales", err);
    bool ok = raw && checkpoint_read(c, s, 0, raw, bytes, err);
    for (size_t i = 0; ok && i < n; i++) {
        float value = e8m0_to_f32(raw[i]);
        uint16_t half;
        if (size == 4)
            memcpy(&value, raw + 4 * i, 4);
        else if (size == 2)
            memcpy(&half, raw + 2 * i, 2), value = bf16_to_f32(half);
        if (!(value > 0) || !isfinite(value))
            ok = fail(err, ERR_FILE, "%s: block %llu, %llu: scale %g is not a positive number",
                      s->name,
                      (ull)(i / s->shape[1]), (ull)(i % s->shape[1]), (double)value);
    }
    mem_free(raw);
    return ok;
}

/* FP8 weights have X_scale_inv beside X, others must not. */
static bool find_scale(struct plan *p, const struct st_tensor *t, const struct st_tensor **scale,
                       struct error *err)
{
    char name[300];
    snprintf(name, sizeof name, "%s_scale_inv", t->name);
    struct st_tensor *s = checkpoint_find(p->checkpoint, name);
    *scale = s;
    if (t->dtype != ST_F8_E4M3)
        return !s || fail(err, ERR_FILE, "%s: scales for a weight of type %s", s->name,
                          t->dtype_name);
    if (!p->config->fp8)
        return fail(err, ERR_FILE, "%s: FP8, but config.json has no quantization_config", t->name);
    if (!s)
        return fail(err, ERR_FILE, "%s: FP8 without %s", t->name, name);
    if (s->dtype != ST_F32 && s->dtype != ST_BF16 && s->dtype != ST_F8_E8M0)
        return fail(err, ERR_FILE, "%s: type %s, expected F32, BF16 or F8_E8M0", s->name,
                    s->dtype_name);
    s->used = true;
    uint64_t rows = (t->shape[0] + FP8_BLOCK - 1) / FP8_BLOCK;
    uint64_t cols = (t->shape[1] + FP8_BLOCK - 1) / FP8_BLOCK;
    return check_shape(s, rows, cols, err) && check_scale_values(p->checkpoint, s, err);
}

/* The sources of one planned tensor; *found tells a missing one from other failures. */
static bool find_sources(struct plan *p, struct plan_tensor *t, const struct name_row *row,
                         int layer, bool *found, struct error *err)
{
    const struct params *q = &p->config->params;
    char name[256];
    int64_t n = t->how == HOW_ROWS ? t->n_matrices : 1;
    uint64_t rows = t->n_dims == 1 ? 0 : (uint64_t)t->rows, cols = t->ne[0];
    if (t->how == HOW_K_B || t->how == HOW_V_B) {
        rows = (uint64_t)params_dim(q, DIM_KV_B);
        cols = (uint64_t)q->kv_lora_rank;
    }
    t->sources = arena_alloc(&p->arena, (size_t)n, sizeof *t->sources, err);
    t->scales = arena_alloc(&p->arena, (size_t)n, sizeof *t->scales, err);
    *found = true;
    if (!t->sources || !t->scales)
        return false;
    for (int64_t i = 0; i < n; i++) {
        struct st_tensor *s = checkpoint_find(p->checkpoint,
                                              fill_name(name, sizeof name, row->hf, layer, i));
        if (!s) {
            *found = i > 0; /* some experts and not others: never optional */
            return fail(err, ERR_FILE, "%s: %s is missing", p->checkpoint->folder, name);
        }
        if (s->dtype == ST_OTHER || s->dtype == ST_F8_E8M0)
            return fail(err, ERR_FILE, "%s: type %s cannot be converted", s->name, s->dtype_name);
        if (!check_shape(s, rows, cols, err) || !find_scale(p, s, &t->scales[i], err))
            return false;
        if (s->used && t->how != HOW_V_B)
            return fail(err, ERR_INTERNAL, "%s: used twice", s->name);
        s->used = true;
        t->sources[i] = s;
    }
    return true;
}

/* ---- types and chunks ---- */

static enum tensor_type native_type(const struct plan_tensor *t)
{
    enum st_dtype dtype = t->sources[0]->dtype;
    for (int64_t i = 1; i < (t->how == HOW_ROWS ? t->n_matrices : 1); i++)
        if (t->sources[i]->dtype != dtype) /* experts of different kinds: what holds all */
            return TYPE_F32;
    return dtype == ST_F32 ? TYPE_F32 : dtype == ST_F16 ? TYPE_F16
         : dtype == ST_BF16 ? TYPE_BF16 : TYPE_Q8_0;
}

static void choose_type(struct plan *p, struct plan_tensor *t, bool is_f32, int wish)
{
    t->type = is_f32 || t->how == HOW_FREQS ? TYPE_F32
            : wish < 0 ? native_type(t) : (enum tensor_type)wish;
    if (t->ne[0] % (uint64_t)quant_traits(t->type)->block_elements) {
        t->type = TYPE_F16;
        p->n_fallbacks++;
    }
}

/* Rows that one thread converts at a time; whole heads where rows change places within a head. */
static void choose_chunk(struct plan_tensor *t)
{
    int64_t unit = t->how == HOW_ROTARY ? t->head_rows : t->how == HOW_K_B ? t->rows : 1;
    int64_t fit = CHUNK_ELEMENTS / (t->cols * unit);
    t->rows_per_chunk = min_of(max_of(fit, 1) * unit, t->rows);
}

void plan_source_rows(const struct plan *p, const struct plan_tensor *t, int64_t matrix,
                      int64_t first, int64_t n, int64_t *source_first, int64_t *source_n)
{
    const struct params *q = &p->config->params;
    int64_t head = matrix * (q->qk_nope_dim + q->value_dim);
    *source_first = t->how == HOW_V_B   ? head + q->qk_nope_dim + first
                    : t->how == HOW_K_B ? head
                                        : first;
    *source_n = t->how == HOW_K_B ? q->qk_nope_dim : n;
}

/* ---- one tensor ---- */

static struct plan_tensor *new_tensor(struct plan *p, struct error *err)
{
    if (p->n_tensors == p->room) {
        size_t room = p->room ? 2 * p->room : 256;
        void *grown = mem_resize(p->tensors, room, sizeof *p->tensors, "plan", err);
        if (!grown)
            return NULL;
        p->tensors = grown;
        p->room = room;
    }
    struct plan_tensor *t = &p->tensors[p->n_tensors];
    *t = (struct plan_tensor){ .ne = { 1, 1, 1, 1 } };
    return t;
}

static void account(struct plan *p, const struct plan_tensor *t)
{
    uint64_t n = t->ne[0] * t->ne[1] * t->ne[2];
    p->n_elements += n;
    p->routed_elements += t->role == ROLE_ROUTED ? n : 0;
    p->file_bytes += quant_row_bytes(t->type, (int64_t)t->ne[0]) * t->ne[1] * t->ne[2];
}

static bool may_lack(const struct plan *p, const struct tensor_spec *s, const struct plan_tensor *t)
{
    if (s->when == ONCE && strcmp(s->name, "output.weight") == 0)
        return p->config->tied;
    return s->need == OPTIONAL && t->how != HOW_K_B && t->how != HOW_V_B;
}

static bool plan_one(struct plan *p, const struct tensor_spec *s, int layer, int type,
                     struct error *err)
{
    const struct params *q = &p->config->params;
    const struct name_row *row = find_names(s->name);
    struct error why = { 0 };
    char other[64];
    bool found;
    struct plan_tensor *t = row ? new_tensor(p, err) : NULL;
    if (!t)
        return !row;
    if (!solve_shape(t, s, q) || (row->how == HOW_FREQS && !p->config->llama3.present) ||
        (s->instead && is_planned(p, fill_name(other, sizeof other, s->instead, layer, 0))))
        return true;
    fill_name(t->name, sizeof t->name, s->name, layer, 0);
    t->how = row->how == HOW_ROTARY && !p->config->arch->permuted_qk ? HOW_ROWS : row->how;
    t->role = s->role;
    t->cols = t->how == HOW_ROTARY && t->n_dims == 1 ? 1 : (int64_t)t->ne[0];
    t->rows = t->n_dims == 1 ? (int64_t)t->ne[0] / t->cols : (int64_t)t->ne[1];
    t->n_matrices = (int64_t)t->ne[2];
    t->head_rows = q->head_dim;
    if (s->when == ONCE && p->config->tied && strcmp(s->name, "output.weight") == 0)
        return true;
    if (t->how != HOW_FREQS && !find_sources(p, t, row, layer, &found, &why))
        return (!found && may_lack(p, s, t)) || fail(err, why.code, "%s", why.text);
    choose_type(p, t, s->is_f32, type);
    choose_chunk(t);
    account(p, t);
    p->n_tensors++;
    return true;
}

/* ---- the rest of the checkpoint ---- */

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

/* Tensors that say nothing to this program: frequencies computed elsewhere, ranges of activations,
 * prediction blocks that were not asked for, a head that repeats the embedding. */
static bool is_useless(const struct plan *p, const struct st_tensor *t)
{
    int layer;
    if (ends_with(t->name, "rotary_emb.inv_freq") || ends_with(t->name, "_activation_scale") ||
        ends_with(t->name, "input_scale"))
        return true;
    if (p->config->tied && strcmp(t->name, "lm_head.weight") == 0)
        return true;
    return sscanf(t->name, "model.layers.%d.", &layer) == 1 &&
           layer >= p->config->params.n_layers + p->config->params.n_mtp &&
               p->config->params.n_routed;
}

static bool check_all_used(const struct plan *p, struct error *err)
{
    for (size_t i = 0; i < p->checkpoint->n_tensors; i++) {
        const struct st_tensor *t = &p->checkpoint->tensors[i];
        if (!t->used && !is_useless(p, t))
            return fail(err, ERR_FILE, "%s: architecture %s has no place for it", t->name,
                        p->config->arch->name);
    }
    return true;
}

/* Many derived checkpoints announce the prediction block and leave it out. */
static void settle_mtp(struct hf_config *config, const struct checkpoint *c, bool keep)
{
    char name[64];
    int announced = config->params.n_mtp;
    for (int i = 0; i < announced; i++) {
        snprintf(name, sizeof name, LAYER "eh_proj.weight", config->params.n_layers + i);
        if (keep && checkpoint_find(c, name))
            continue;
        if (keep)
            log_note("%s is missing: written without multi-token prediction", name);
        config->params.n_mtp = i;
        return;
    }
}

bool plan_make(struct plan *p, struct checkpoint *c, struct hf_config *config, int type,
               bool keep_mtp, struct error *err)
{
    *p = (struct plan){ .checkpoint = c, .config = config };
    settle_mtp(config, c, keep_mtp);
    const struct params *q = &config->params;
    for (int layer = -1; layer < q->n_layers + q->n_mtp; layer++)
        for (int i = 0; i < config->arch->n_tensors; i++)
            if (tensor_stands_in(&config->arch->tensors[i], q, layer) &&
                !plan_one(p, &config->arch->tensors[i], layer, type, err))
                return false;
    for (size_t i = 0; i < c->n_tensors; i++)
        p->source_bytes += c->tensors[i].used ? c->tensors[i].bytes : 0;
    return check_all_used(p, err);
}

void plan_release(struct plan *p)
{
    mem_free(p->tensors);
    arena_release(&p->arena);
    *p = (struct plan){ 0 };
}
