/* Multi-head latent attention (DeepSeek-V2 report, section 2.1).
 *
 * Per token, with u the normalised hidden state:
 *     q            = W_qb rmsnorm(W_qa u)   or  W_q u          [n_heads * (nope + rope)]
 *     [c ; k_rope] = W_kva u                                   [rank + rope]
 *     cached:        rmsnorm(c), rotated k_rope                one row for all heads
 *     key of head h  = [ K_h c ; k_rope ]    value of head h = V_h c
 * The scores may be computed from the latents by moving K_h to the query (absorbed: (K_h^T q) . c),
 * or from expanded keys and values; the device offers both forms, k_b holds K_h^T and v_b holds V_h.
 *
 * Files before April 2025 hold one matrix kv_b of [n_heads * (nope + value)] rows: per head the rows
 * of K_h, then those of V_h. V_h is used in place; K_h is transposed once at load.                  */
#include <math.h>

#include "src/arch/blocks.h"
#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/format/quant.h"

#define MAX_HEAD 8192
#define MAX_RANK 65536

/* ---- dimensions ---- */

static const struct tensor *first_layer(const struct model *m, const char *name, struct error *err)
{
    const struct tensor *t = gguf_tensor(&m->gguf, name);
    if (!t)
        fail(err, ERR_FILE, "%s: missing", name);
    return t;
}

static bool in_range(const char *what, int64_t value, int64_t low, int64_t high, struct error *err)
{
    if (value >= low && value <= high)
        return true;
    return fail(err, ERR_FILE, "%s: %lld from the tensor shapes, expected %lld to %lld", what,
                (long long)value, (long long)low, (long long)high);
}

/* Keys are informative here: converters have written three meanings into them. */
static void compare(const struct model *m, const char *key, int64_t said, int64_t found)
{
    if (said > 0 && said != found)
        log_warning("%s.%s says %lld, the tensors have %lld", m->arch->name, key, (long long)said,
                    (long long)found);
}

static bool solve_dims(struct model *m, struct error *err)
{
    struct params *p = &m->params;
    const struct keys *k = &m->keys;
    const struct tensor *q_a = gguf_tensor(&m->gguf, "blk.0.attn_q_a.weight");
    const struct tensor *q = first_layer(
        m, q_a ? "blk.0.attn_q_b.weight" : "blk.0.attn_q.weight", err);
    const struct tensor *kv_a = first_layer(m, "blk.0.attn_kv_a_mqa.weight", err);
    const struct tensor *norm = first_layer(m, "blk.0.attn_kv_a_norm.weight", err);
    const struct tensor *out = first_layer(m, "blk.0.attn_output.weight", err);
    if (!q || !kv_a || !norm || !out)
        return false;
    int64_t heads = p->n_heads, rank = (int64_t)norm->ne[0];
    if (q->ne[1] % (uint64_t)heads || out->ne[0] % (uint64_t)heads)
        return fail(err, ERR_FILE, "%s: %llu rows and %s: %llu columns, expected multiples of %lld "
                    "heads", q->name, (unsigned long long)q->ne[1], out->name,
                    (unsigned long long)out->ne[0], (long long)heads);
    int64_t head = (int64_t)q->ne[1] / heads, value = (int64_t)out->ne[0] / heads;
    int64_t rotary = (int64_t)kv_a->ne[1] - rank, q_rank = q_a ? (int64_t)q_a->ne[1] : 0;
    if (!in_range("kv_lora_rank", rank, 1, MAX_RANK, err) ||
        !in_range("q_lora_rank", q_rank, 0, MAX_RANK, err) ||
        !in_range("head size", head, 2, MAX_HEAD, err) ||
        !in_range("value head size", value, 1, MAX_HEAD, err) ||
        !in_range("rotary part of a head", rotary, 2, head - 1, err))
        return false;

    p->kv_lora_rank = (int)rank;
    p->q_lora_rank = (int)q_rank;
    p->head_dim = (int)head;
    p->value_dim = (int)value;
    p->qk_rope_dim = (int)rotary;
    p->qk_nope_dim = (int)(head - rotary);
    p->n_kv_heads = p->n_heads; /* every head has its own keys, expanded from the latent */
    compare(m, "attention.kv_lora_rank", k->kv_lora_rank, rank);
    compare(m, "attention.q_lora_rank", k->q_lora_rank, q_rank);
    compare(m, "attention.key_length_mla", k->key_length_mla, head);
    compare(m, "attention.value_length_mla", k->value_length_mla, value);
    compare(m, "rope.dimension_count", k->rope_dim, rotary);
    return true;
}

/* ---- YaRN ---- */

/* Kimi-K2 was trained with a one-turn ramp; converters of its time did not write that down. */
static bool is_early_kimi(const struct keys *k)
{
    return k->n_routed == 384 && k->rope_base == 50000;
}

/* The factor on scores and on cos and sin. The file holds 0.1 * mscale_all_dim: not to be
 * multiplied by 0.1 again. Source: DeepSeek-V3 inference code; architectures without the key take
 * YaRN's own temperature. */
static bool solve_scale(struct model *m, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    bool official = p->numerics != NUMERICS_LLAMACPP;
    double on_scores = 1, magnitude = 1;
    if (k->rope_scaling == ROPE_SCALING_YARN && k->rope_factor > 1) {
        double log_factor = log(k->rope_factor);
        if (!isnan(k->yarn_log_multiplier)) {
            on_scores = 1 + k->yarn_log_multiplier * log_factor;
        } else {
            log_warning("%s.rope.scaling.yarn_log_multiplier: missing, taken as YaRN's default",
                        m->arch->name);
            magnitude = 1 + 0.1 * log_factor;
            on_scores = official ? 1 : magnitude;
        }
    }
    double fast = 32, slow = 1;
    if (official) {
        fast = k->yarn_beta_fast > 0 ? k->yarn_beta_fast : is_early_kimi(k) ? 1 : 32;
        slow = k->yarn_beta_slow > 0 ? k->yarn_beta_slow : 1;
    }
    p->attention_scale = (float)(on_scores * on_scores / sqrt((double)p->head_dim));
    return rope_solve(&p->rope, k, m->arch->pairing, p->qk_rope_dim, fast, slow, magnitude, NULL,
                      err);
}

bool mla_solve(struct model *m, struct error *err)
{
    return solve_dims(m, err) && solve_scale(m, err);
}

/* ---- weights ---- */

bool mla_assemble(struct model *m, int layer, struct error *err)
{
    const struct params *p = &m->params;
    struct layer *l = &m->layers[layer];
    if (l->kv_b.data) {
        size_t row_bytes = l->kv_b.row_bytes;
        l->v_b = weight_rows(&l->kv_b, p->qk_nope_dim, p->value_dim);
        l->v_b.n_matrices = p->n_heads;
        l->v_b.matrix_bytes = row_bytes * (size_t)(p->qk_nope_dim + p->value_dim);
    }
    if (!l->v_b.data)
        return fail(err, ERR_FILE, "blk.%d.attn_v_b.weight: missing", layer);
    l->mla = (struct mla){
        .n_heads = p->n_heads, .nope = p->qk_nope_dim, .rope = p->qk_rope_dim,
        .value = p->value_dim, .rank = p->kv_lora_rank, .scale = p->attention_scale,
        .k_b = l->k_b, .v_b = l->v_b,
    };
    return true;
}

uint64_t mla_derived_bytes(const struct model *m, int layer, bool act_f32)
{
    const struct params *p = &m->params;
    const struct layer *l = &m->layers[layer];
    uint64_t element = act_f32 ? sizeof(float) : sizeof(uint16_t);
    bool in_file = !l->kv_b.name || (l->k_b.name && l->k_b.name != l->kv_b.name);
    return in_file ? 0 : element * (uint64_t)(p->n_heads * (int64_t)p->qk_nope_dim * p->kv_lora_rank);
}

/* Transpose the key rows of kv_b: k_b[h][r][i] = kv_b[h * (nope + value) + i][r]. */
bool mla_derive(struct model *m, int layer, bool act_f32, struct error *err)
{
    const struct params *p = &m->params;
    struct layer *l = &m->layers[layer];
    if (l->k_b.data)
        return true;
    int64_t nope = p->qk_nope_dim, rank = p->kv_lora_rank;
    size_t element = act_f32 ? sizeof(float) : sizeof(uint16_t);
    size_t n = (size_t)(p->n_heads * nope * rank);
    char *k_b = arena_alloc(&m->arena, n, element, err);
    float *row = mem_alloc_aligned((size_t)rank, sizeof *row, "row of kv_b", err);
    bool ok = k_b && row;
    for (int64_t i = 0; ok && i < p->n_heads * nope; i++) {
        int64_t head = i / nope, in_head = i % nope;
        const char *from = (const char *)l->kv_b.data +
                           l->kv_b.row_bytes * (size_t)(head * (nope + p->value_dim) + in_head);
        quant_traits(l->kv_b.type)->dequantize(from, row, rank);
        for (int64_t r = 0; r < rank; r++) {
            size_t to = (size_t)((head * rank + r) * nope + in_head);
            if (act_f32)
                ((float *)k_b)[to] = row[r];
            else
                ((uint16_t *)k_b)[to] = f32_to_f16(row[r]);
        }
    }
    mem_free(row);
    if (!ok)
        return false;
    l->k_b = (struct weight){
        .data = k_b, .type = act_f32 ? TYPE_F32 : TYPE_F16,
        .cols = nope, .rows = rank, .n_matrices = p->n_heads,
        .row_bytes = element * (size_t)nope, .matrix_bytes = element * (size_t)(nope * rank),
        .name = l->kv_b.name,
    };
    return true;
}

/* ---- forward ---- */

void mla_project(struct device *d, const struct params *p, const struct layer *l, int layer,
                 const struct step *s, struct activations *a)
{
    if (l->q_a.data) {
        matmul(d, a->q_latent, &l->q_a, a->normed, NULL);
        rmsnorm(d, a->q_latent, a->q_latent, &l->q_a_norm, 1, p->rms_eps);
        matmul(d, a->q, &l->q_b, a->q_latent, NULL);
    } else {
        matmul(d, a->q, &l->q, a->normed, NULL);
    }
    rope(d, a->q, &p->rope, p->n_heads, p->head_dim, p->qk_nope_dim);

    struct rows latent = columns(a->kv_a, 0, p->kv_lora_rank);
    matmul(d, a->kv_a, &l->kv_a_mqa, a->normed, NULL);
    rmsnorm(d, latent, latent, &l->kv_a_norm, 1, p->rms_eps);
    rope(d, a->kv_a, &p->rope, 1, 0, p->kv_lora_rank); /* k_rope is not normalised */
    cache_mla(d, s->cache, layer, a->kv_a);
}

void mla_attend(struct device *d, const struct layer *l, int layer, const struct mla *m,
                const struct step *s, struct activations *a)
{
    attention_mla(d, a->attn, a->q, s->cache, layer, m);
    matmul(d, a->out, &l->attn_output, a->attn, NULL);
}

void mla_attention(struct device *d, const struct params *p, const struct layer *l, int layer,
                   const struct step *s, struct activations *a)
{
    mla_project(d, p, l, layer, s, a);
    mla_attend(d, l, layer, &l->mla, s, a);
}
