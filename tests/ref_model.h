/* A second opinion on whole models: the papers' formulas in double precision, token by token, with
 * everything read from the file by name. It shares the GGUF reader and the decoding of blocks with
 * the program and nothing else; latent attention is computed the long way, from expanded keys and
 * values. Slow, for models of a few MB.
 *
 *     logits[t] = W_out rmsnorm(x),  x += attention(rmsnorm(x)),  x += ffn(rmsnorm(x))              */
#ifndef TANDEM_TESTS_REF_MODEL_H
#define TANDEM_TESTS_REF_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/format/gguf.h"
#include "src/format/quant.h"

#define REF_MAX 4096  /* widest vector */
#define REF_LAYERS 8
#define REF_TOKENS 64

struct ref {
    struct gguf g;
    char arch[32];
    bool like_llamacpp;
    int pos;
    double *k[REF_LAYERS][REF_TOKENS], *v[REF_LAYERS][REF_TOKENS]; /* of each past token, expanded */
};

/* ---- the file ---- */

static inline double ref_number(const struct ref *r, const char *suffix, double fallback)
{
    char key[128];
    struct error err = { 0 };
    uint64_t u = 0;
    double f = fallback;
    snprintf(key, sizeof key, "%s.%s", r->arch, suffix);
    if (!gguf_has(&r->g, key))
        return fallback;
    if (gguf_get_f64(&r->g, key, &f, &err))
        return f;
    return gguf_get_u64(&r->g, key, &u, NULL) ? (double)u : fallback;
}

static inline int ref_int(const struct ref *r, const char *suffix, int fallback)
{
    return (int)ref_number(r, suffix, fallback);
}

static inline const struct tensor *ref_tensor(const struct ref *r, const char *format, int layer)
{
    char name[128];
    const char *mark = strstr(format, "%d");
    if (mark)
        snprintf(name, sizeof name, "%.*s%d%s", (int)(mark - format), format, layer, mark + 2);
    else
        snprintf(name, sizeof name, "%s", format);
    return gguf_tensor(&r->g, name);
}

/* Row `row` of a tensor, all matrices counted through. */
static inline void ref_row(const struct tensor *t, uint64_t row, double *out)
{
    float values[REF_MAX];
    const char *data = t->data;
    size_t row_bytes = quant_row_bytes(t->type, (int64_t)t->ne[0]);
    quant_traits(t->type)->dequantize(data + row * row_bytes, values, (int64_t)t->ne[0]);
    for (uint64_t i = 0; i < t->ne[0]; i++)
        out[i] = (double)values[i];
}

/* out = W x, for rows first .. first + n - 1. */
static inline void ref_rows(const struct tensor *t, uint64_t first, uint64_t n, const double *x,
                            double *out)
{
    double row[REF_MAX];
    for (uint64_t i = 0; i < n; i++) {
        ref_row(t, first + i, row);
        out[i] = 0;
        for (uint64_t c = 0; c < t->ne[0]; c++)
            out[i] += row[c] * x[c];
    }
}

/* out = W x + b, the bias where the file has one. Returns the number of rows. */
static inline int ref_linear(const struct ref *r, const char *weight, const char *bias, int layer,
                             const double *x, double *out)
{
    const struct tensor *w = ref_tensor(r, weight, layer);
    const struct tensor *b = bias ? ref_tensor(r, bias, layer) : NULL;
    double values[REF_MAX];
    ref_rows(w, 0, w->ne[1], x, out);
    if (b)
        ref_row(b, 0, values);
    for (uint64_t i = 0; b && i < w->ne[1]; i++)
        out[i] += values[i];
    return (int)w->ne[1];
}

static inline void ref_rmsnorm(const struct ref *r, const char *weight, int layer, const double *x,
                               int n, double *out)
{
    double g[REF_MAX], sum = 0;
    double eps = ref_number(r, "attention.layer_norm_rms_epsilon", 0);
    ref_row(ref_tensor(r, weight, layer), 0, g);
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (int i = 0; i < n; i++)
        out[i] = x[i] / sqrt(sum / n + eps) * g[i];
}

/* ---- rope ---- */

/* Angle per position of pair i, scaling included. */
static inline double ref_frequency(const struct ref *r, int i, int n_rot, bool latent)
{
    char key[128];
    struct str type = str_of("linear");
    const struct tensor *divisors = gguf_tensor(&r->g, "rope_freqs.weight");
    double base = ref_number(r, "rope.freq_base", 10000), d[REF_MAX];
    double factor = ref_number(r, "rope.scaling.factor", 1), f = pow(base, -2.0 * i / n_rot);
    snprintf(key, sizeof key, "%s.rope.scaling.type", r->arch);
    gguf_get_str(&r->g, key, &type, NULL);
    if (divisors) {
        ref_row(divisors, 0, d);
        f /= d[i];
    }
    if (str_is(type, "none"))
        return f;
    if (str_is(type, "linear"))
        return f / factor;
    bool kimi = ref_int(r, "expert_count", 0) == 384 && base == 50000;
    double fast = ref_number(r, "rope.scaling.yarn_beta_fast", kimi ? 1 : 32), slow = 1;
    if (latent && r->like_llamacpp)
        fast = 32;
    double original = ref_number(r, "rope.scaling.original_context_length", 0);
    double turn = 2 * 3.14159265358979323846;
    double low = floor(n_rot * log(original / (turn * fast)) / (2 * log(base)));
    double high = ceil(n_rot * log(original / (turn * slow)) / (2 * log(base)));
    low = low < 0 ? 0 : low;
    high = high > n_rot - 1 ? n_rot - 1 : high;
    double ramp = (i - low) / (high - low > 0.001 ? high - low : 0.001);
    ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
    return f * (1 - ramp) + f / factor * ramp;
}

static inline bool ref_is_yarn(const struct ref *r)
{
    char key[128];
    struct str type = { 0 };
    snprintf(key, sizeof key, "%s.rope.scaling.type", r->arch);
    return gguf_get_str(&r->g, key, &type, NULL) && str_is(type, "yarn");
}

static inline void ref_rope(const struct ref *r, double *x, int n_rot, bool neox, bool latent,
                            double magnitude)
{
    for (int i = 0; i < n_rot / 2; i++) {
        double angle = r->pos * ref_frequency(r, i, n_rot, latent);
        double *a = neox ? x + i : x + 2 * i, *b = neox ? x + i + n_rot / 2 : x + 2 * i + 1;
        double u = *a, w = *b;
        *a = (u * cos(angle) - w * sin(angle)) * magnitude;
        *b = (u * sin(angle) + w * cos(angle)) * magnitude;
    }
}

/* ---- attention ---- */

/* One head over all past positions: keys at k + key_at, values at v + value_at. */
static inline void ref_head(const struct ref *r, int layer, const double *q, int key_at, int key_n,
                            int value_at, int value_n, double scale, double *out)
{
    double p[REF_TOKENS], top = -INFINITY, sum = 0;
    for (int t = 0; t <= r->pos; t++) {
        p[t] = 0;
        for (int i = 0; i < key_n; i++)
            p[t] += q[i] * r->k[layer][t][key_at + i];
        p[t] *= scale;
        top = p[t] > top ? p[t] : top;
    }
    for (int t = 0; t <= r->pos; t++)
        sum += p[t] = exp(p[t] - top);
    for (int i = 0; i < value_n; i++) {
        out[i] = 0;
        for (int t = 0; t <= r->pos; t++)
            out[i] += p[t] / sum * r->v[layer][t][value_at + i];
    }
}

static inline void ref_gqa(struct ref *r, int layer, const double *u, double *out)
{
    double q[REF_MAX], heads[REF_MAX];
    double *k = r->k[layer][r->pos] = calloc(REF_MAX, sizeof *k);
    double *v = r->v[layer][r->pos] = calloc(REF_MAX, sizeof *v);
    int n_heads = ref_int(r, "attention.head_count", 1);
    int n_kv = ref_int(r, "attention.head_count_kv", n_heads);
    int d = ref_linear(r, "blk.%d.attn_q.weight", "blk.%d.attn_q.bias", layer, u, q) / n_heads;
    bool neox = !strncmp(r->arch, "qwen", 4), norms = ref_tensor(r, "blk.%d.attn_q_norm.weight", 0);
    double magnitude = ref_is_yarn(r) ? 1 + 0.1 * log(ref_number(r, "rope.scaling.factor", 1)) : 1;
    ref_linear(r, "blk.%d.attn_k.weight", "blk.%d.attn_k.bias", layer, u, k);
    ref_linear(r, "blk.%d.attn_v.weight", "blk.%d.attn_v.bias", layer, u, v);
    for (int h = 0; h < n_heads; h++) {
        if (norms)
            ref_rmsnorm(r, "blk.%d.attn_q_norm.weight", layer, q + h * d, d, q + h * d);
        ref_rope(r, q + h * d, d, neox, false, magnitude);
    }
    for (int h = 0; h < n_kv; h++) {
        if (norms)
            ref_rmsnorm(r, "blk.%d.attn_k_norm.weight", layer, k + h * d, d, k + h * d);
        ref_rope(r, k + h * d, d, neox, false, magnitude);
    }
    for (int h = 0; h < n_heads; h++) {
        int kv = h / (n_heads / n_kv);
        ref_head(r, layer, q + h * d, kv * d, d, kv * d, d, 1 / sqrt(d), heads + h * d);
    }
    ref_linear(r, "blk.%d.attn_output.weight", "blk.%d.attn_output.bias", layer, heads, out);
}

/* Keys and values of all heads from the latent: by kv_b, or by the two matrices of newer files. */
static inline void ref_expand(const struct ref *r, int layer, const double *latent, int rank,
                              const double *k_rope, int n_heads, int nope, int rotary, int value,
                              double *k, double *v)
{
    const struct tensor *kv_b = ref_tensor(r, "blk.%d.attn_kv_b.weight", layer);
    const struct tensor *k_b = ref_tensor(r, "blk.%d.attn_k_b.weight", layer);
    const struct tensor *v_b = ref_tensor(r, "blk.%d.attn_v_b.weight", layer);
    for (int h = 0; h < n_heads; h++) {
        double *key = k + h * (nope + rotary);
        if (kv_b) {
            ref_rows(kv_b, (uint64_t)(h * (nope + value)), (uint64_t)nope, latent, key);
            ref_rows(kv_b, (uint64_t)(h * (nope + value) + nope), (uint64_t)value, latent,
                     v + h * value);
        } else {
            double row[REF_MAX];
            memset(key, 0, (size_t)nope * sizeof *key);
            for (int i = 0; i < rank; i++) { /* transposed */
                ref_row(k_b, (uint64_t)(h * rank + i), row);
                for (int j = 0; j < nope; j++)
                    key[j] += row[j] * latent[i];
            }
            ref_rows(v_b, (uint64_t)(h * value), (uint64_t)value, latent, v + h * value);
        }
        memcpy(key + nope, k_rope, (size_t)rotary * sizeof *key);
    }
}

static inline void ref_mla(struct ref *r, int layer, const double *u, double *out)
{
    double q[REF_MAX], low[REF_MAX], kv[REF_MAX], heads[REF_MAX];
    double *k = r->k[layer][r->pos] = calloc(REF_MAX, sizeof *k);
    double *v = r->v[layer][r->pos] = calloc(REF_MAX, sizeof *v);
    int n_heads = ref_int(r, "attention.head_count", 1), n_q;
    int rank = (int)ref_tensor(r, "blk.%d.attn_kv_a_norm.weight", layer)->ne[0];
    if (ref_tensor(r, "blk.%d.attn_q_a.weight", layer)) {
        int n = ref_linear(r, "blk.%d.attn_q_a.weight", NULL, layer, u, low);
        ref_rmsnorm(r, "blk.%d.attn_q_a_norm.weight", layer, low, n, low);
        n_q = ref_linear(r, "blk.%d.attn_q_b.weight", NULL, layer, low, q);
    } else {
        n_q = ref_linear(r, "blk.%d.attn_q.weight", NULL, layer, u, q);
    }
    int rotary = ref_linear(r, "blk.%d.attn_kv_a_mqa.weight", NULL, layer, u, kv) - rank;
    int d = n_q / n_heads, nope = d - rotary;
    int value = (int)ref_tensor(r, "blk.%d.attn_output.weight", layer)->ne[0] / n_heads;

    double factor = ref_number(r, "rope.scaling.factor", 1), m = 1, magnitude = 1;
    double y = ref_number(r, "rope.scaling.yarn_log_multiplier", NAN);
    if (ref_is_yarn(r) && factor > 1 && !isnan(y))
        m = 1 + y * log(factor);
    else if (ref_is_yarn(r) && factor > 1)
        magnitude = 1 + 0.1 * log(factor), m = r->like_llamacpp ? magnitude : 1;

    ref_rmsnorm(r, "blk.%d.attn_kv_a_norm.weight", layer, kv, rank, kv);
    ref_rope(r, kv + rank, rotary, false, true, magnitude);
    ref_expand(r, layer, kv, rank, kv + rank, n_heads, nope, rotary, value, k, v);
    for (int h = 0; h < n_heads; h++) {
        ref_rope(r, q + h * d + nope, rotary, false, true, magnitude);
        ref_head(r, layer, q + h * d, h * d, d, h * value, value, m * m / sqrt(d),
                 heads + h * value);
    }
    ref_linear(r, "blk.%d.attn_output.weight", NULL, layer, heads, out);
}

/* ---- FFN ---- */

/* out += weight * down(silu(gate x) * (up x)) with matrix number e of each. */
static inline void ref_swiglu(const struct ref *r, const char *gate, const char *up,
                              const char *down, int layer, int e, const double *x, double weight,
                              double *out)
{
    const struct tensor *g = ref_tensor(r, gate, layer), *u = ref_tensor(r, up, layer);
    const struct tensor *w = ref_tensor(r, down, layer);
    double a[REF_MAX], b[REF_MAX], c[REF_MAX];
    ref_rows(g, (uint64_t)e * g->ne[1], g->ne[1], x, a);
    ref_rows(u, (uint64_t)e * u->ne[1], u->ne[1], x, b);
    for (uint64_t i = 0; i < g->ne[1]; i++)
        a[i] = a[i] / (1 + exp(-a[i])) * b[i];
    ref_rows(w, (uint64_t)e * w->ne[1], w->ne[1], a, c);
    for (uint64_t i = 0; i < w->ne[1]; i++)
        out[i] += weight * c[i];
}

static inline int ref_best(const double *x, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* Set the scores of experts outside the best groups to -inf. */
static inline void ref_groups(const struct ref *r, double *choose, int n, bool has_bias)
{
    int k = ref_int(r, "expert_used_count", 1), sigmoid = ref_int(r, "expert_gating_func", 1) == 2;
    int groups = ref_int(r, "expert_group_count", 0), used = ref_int(r, "expert_group_used_count", 0);
    if (!groups && !r->like_llamacpp && n == 256 && k == 8 && sigmoid)
        groups = 8, used = 4;
    if (!groups && !r->like_llamacpp && n == 160 && k == 6 && !sigmoid)
        groups = 8, used = 3;
    if (groups <= 1)
        return;
    double score[64];
    int size = n / groups;
    for (int g = 0; g < groups; g++) {
        double c[1024];
        memcpy(c, choose + g * size, (size_t)size * sizeof *c);
        int first = ref_best(c, size);
        score[g] = c[first];
        c[first] = -INFINITY;
        if (has_bias || r->like_llamacpp)
            score[g] += c[ref_best(c, size)];
    }
    bool kept[64] = { false };
    for (int i = 0; i < used; i++) {
        int g = ref_best(score, groups);
        kept[g] = true;
        score[g] = -INFINITY;
    }
    for (int i = 0; i < n; i++)
        choose[i] = kept[i / size] ? choose[i] : -INFINITY;
}

static inline void ref_moe(const struct ref *r, int layer, const double *x, double *out)
{
    double p[1024], choose[1024], bias[REF_MAX], sum = 0, weight[64];
    int n = ref_linear(r, "blk.%d.ffn_gate_inp.weight", NULL, layer, x, p), pick[64];
    int k = ref_int(r, "expert_used_count", 1);
    const struct tensor *b = ref_tensor(r, "blk.%d.exp_probs_b.bias", layer);
    if (ref_int(r, "expert_gating_func", 1) == 2) {
        for (int i = 0; i < n; i++)
            p[i] = 1 / (1 + exp(-p[i]));
    } else {
        double top = p[ref_best(p, n)];
        for (int i = 0; i < n; i++)
            sum += p[i] = exp(p[i] - top);
        for (int i = 0; i < n; i++)
            p[i] /= sum;
    }
    memcpy(choose, p, sizeof choose);
    if (b)
        ref_row(b, 0, bias);
    for (int i = 0; b && i < n; i++)
        choose[i] += bias[i];
    ref_groups(r, choose, n, b != NULL);
    sum = 0;
    for (int i = 0; i < k; i++) {
        pick[i] = ref_best(choose, n);
        choose[pick[i]] = -INFINITY;
        sum += weight[i] = p[pick[i]];
    }
    char key[128];
    bool normalize = false;
    snprintf(key, sizeof key, "%s.expert_weights_norm", r->arch);
    gguf_get_bool(&r->g, key, &normalize, NULL);
    double scale = ref_number(r, "expert_weights_scale", 1);
    for (int i = 0; i < k; i++) {
        weight[i] *= scale / (normalize ? sum : 1);
        ref_swiglu(r, "blk.%d.ffn_gate_exps.weight", "blk.%d.ffn_up_exps.weight",
                   "blk.%d.ffn_down_exps.weight", layer, pick[i], x, weight[i], out);
    }
    ref_swiglu(r, "blk.%d.ffn_gate_shexp.weight", "blk.%d.ffn_up_shexp.weight",
               "blk.%d.ffn_down_shexp.weight", layer, 0, x, 1, out);
}

/* ---- the model ---- */

static inline bool ref_open(struct ref *r, const char *path, bool like_llamacpp)
{
    struct str arch = { 0 };
    memset(r, 0, sizeof *r);
    r->like_llamacpp = like_llamacpp;
    if (!gguf_open(&r->g, path, NULL) || !gguf_get_str(&r->g, "general.architecture", &arch, NULL))
        return false;
    snprintf(r->arch, sizeof r->arch, "%.*s", (int)arch.len, arch.data);
    return true;
}

/* Logits behind one more token. */
static inline void ref_token(struct ref *r, int32_t token, double *logits)
{
    double x[REF_MAX], u[REF_MAX], y[REF_MAX];
    const struct tensor *embed = ref_tensor(r, "token_embd.weight", 0);
    const struct tensor *head = ref_tensor(r, "output.weight", 0);
    int n = (int)embed->ne[0], layers = ref_int(r, "block_count", 0);
    ref_row(embed, (uint64_t)token, x);
    for (int layer = 0; layer < layers; layer++) {
        ref_rmsnorm(r, "blk.%d.attn_norm.weight", layer, x, n, u);
        if (ref_tensor(r, "blk.%d.attn_kv_a_mqa.weight", layer))
            ref_mla(r, layer, u, y);
        else
            ref_gqa(r, layer, u, y);
        for (int i = 0; i < n; i++)
            x[i] += y[i];
        ref_rmsnorm(r, "blk.%d.ffn_norm.weight", layer, x, n, u);
        if (ref_tensor(r, "blk.%d.ffn_gate_inp.weight", layer))
            ref_moe(r, layer, u, x);
        else
            ref_swiglu(r, "blk.%d.ffn_gate.weight", "blk.%d.ffn_up.weight",
                       "blk.%d.ffn_down.weight", layer, 0, u, 1, x);
    }
    ref_rmsnorm(r, "output_norm.weight", 0, x, n, x);
    head = head ? head : embed;
    ref_rows(head, 0, head->ne[1], x, logits);
    r->pos++;
}

static inline void ref_close(struct ref *r)
{
    for (int layer = 0; layer < REF_LAYERS; layer++) {
        for (int t = 0; t < REF_TOKENS; t++) {
            free(r->k[layer][t]);
            free(r->v[layer][t]);
        }
    }
    gguf_close(&r->g);
}

#endif
