/* Grouped-query attention (Ainslie et al. 2023): n_heads queries share n_kv_heads keys and values.
 *
 *     q = rope(norm?(W_q x + b_q))   k = rope(norm?(W_k x + b_k))   v = W_v x + b_v
 *     out = W_o concat_h softmax(scale q_h k^T) v + b_o                                            */
#include <math.h>

#include "src/arch/blocks.h"
#include "src/format/quant.h"

/* rope_freqs.weight as floats; NULL without error when the file has none. */
static const float *rope_divisors(struct model *m, int64_t n_pairs, struct error *err)
{
    const struct tensor *t = gguf_tensor(&m->gguf, "rope_freqs.weight");
    if (!t)
        return NULL;
    const struct quant_traits *q = quant_traits(t->type);
    if ((int64_t)t->ne[0] != n_pairs || tensor_rows(t) != 1 || !q->dequantize) {
        fail(err, ERR_FILE, "rope_freqs.weight: %llu %s, expected %lld F32",
             (unsigned long long)t->ne[0], q->name ? q->name : "of unknown type",
             (long long)n_pairs);
        return NULL;
    }
    float *divisors = arena_alloc(&m->arena, (size_t)n_pairs, sizeof *divisors, err);
    if (divisors)
        q->dequantize(t->data, divisors, n_pairs);
    return divisors;
}

/* Does the table of this architecture know rope_freqs? Elsewhere the tensor is ignored. */
static bool knows_rope_freqs(const struct arch *arch)
{
    for (int i = 0; i < arch->n_tensors; i++) {
        if (strcmp(arch->tensors[i].name, "rope_freqs.weight") == 0)
            return true;
    }
    return false;
}

bool gqa_solve(struct model *m, struct error *err)
{
    const struct keys *k = &m->keys;
    struct params *p = &m->params;
    if (k->key_length < 0 && k->embedding_length % k->n_heads)
        return fail(err, ERR_FILE, "%s.attention.head_count: %lld does not divide the embedding "
                    "length %lld, and attention.key_length is missing", m->arch->name,
                    (long long)k->n_heads, (long long)k->embedding_length);
    int64_t head_dim = k->key_length < 0 ? k->embedding_length / k->n_heads : k->key_length;
    int64_t value_dim = k->value_length < 0 ? head_dim : k->value_length;
    int64_t n_rot = k->rope_dim < 0 ? head_dim : k->rope_dim;
    if (value_dim != head_dim)
        return fail(err, ERR_FILE, "%s.attention.value_length: %lld, expected %lld as the keys",
                    m->arch->name, (long long)value_dim, (long long)head_dim);
    if (n_rot != head_dim)
        return fail(err, ERR_FILE, "%s.rope.dimension_count: %lld, expected the head size %lld",
                    m->arch->name, (long long)n_rot, (long long)head_dim);
    p->head_dim = p->value_dim = (int)head_dim;
    p->attention_scale = (float)(1 / sqrt((double)head_dim));

    const float *divisors = NULL;
    if (knows_rope_freqs(m->arch)) {
        struct error why = { 0 };
        divisors = rope_divisors(m, n_rot / 2, &why);
        if (why.code) {
            *err = why;
            return false;
        }
    }
    double magnitude = 1;
    if (k->rope_scaling == ROPE_SCALING_YARN)
        magnitude = (1 + 0.1 * log(k->rope_factor)) * k->rope_attn_factor;
    double fast = k->yarn_beta_fast < 0 ? 32 : k->yarn_beta_fast;
    double slow = k->yarn_beta_slow < 0 ? 1 : k->yarn_beta_slow;
    return rope_solve(&p->rope, k, m->arch->pairing, n_rot, fast, slow, magnitude, divisors, err);
}

/* A bias has one row of n values: the part that belongs to rows first .. first + n - 1. */
static struct weight bias_part(const struct weight *w, int64_t first, int64_t n)
{
    struct weight part = *w;
    part.data = (const float *)w->data + first;
    part.cols = n;
    return part;
}

bool gqa_assemble(struct model *m, int layer, struct error *err)
{
    (void)err;
    const struct params *p = &m->params;
    struct layer *l = &m->layers[layer];
    int64_t q = params_dim(p, DIM_Q), k = params_dim(p, DIM_KV), v = params_dim(p, DIM_V);
    if (l->qkv.data) {
        l->q = weight_rows(&l->qkv, 0, q);
        l->k = weight_rows(&l->qkv, q, k);
        l->v = weight_rows(&l->qkv, q + k, v);
    }
    if (l->qkv_bias.data && l->qkv_bias.type == TYPE_F32) { /* decoded: addresses are final */
        l->q_bias = bias_part(&l->qkv_bias, 0, q);
        l->k_bias = bias_part(&l->qkv_bias, q, k);
        l->v_bias = bias_part(&l->qkv_bias, q + k, v);
    }
    return true;
}

void gqa_attention(struct device *d, const struct params *p, const struct layer *l, int layer,
                   const struct step *s, struct activations *a)
{
    matmul(d, a->q, &l->q, a->normed, if_present(&l->q_bias));
    matmul(d, a->k, &l->k, a->normed, if_present(&l->k_bias));
    matmul(d, a->v, &l->v, a->normed, if_present(&l->v_bias));
    if (l->q_norm.data) /* Qwen3: every head on its own */
        rmsnorm(d, a->q, a->q, &l->q_norm, p->n_heads, p->rms_eps);
    if (l->k_norm.data)
        rmsnorm(d, a->k, a->k, &l->k_norm, p->n_kv_heads, p->rms_eps);

    rope(d, a->q, &p->rope, p->n_heads, p->head_dim, 0);
    rope(d, a->k, &p->rope, p->n_kv_heads, p->head_dim, 0);
    cache_gqa(d, s->cache, layer, a->k, a->v);
    attention_gqa(d, a->attn, a->q, s->cache, layer, p->n_heads, p->n_kv_heads, p->head_dim,
                  p->attention_scale);
    matmul(d, a->out, &l->attn_output, a->attn, if_present(&l->attn_output_bias));
}
