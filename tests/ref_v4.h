/* A second opinion on V4, as ref_model.h gives it on the others: its formulas in double precision,
 * token by token. Nothing is carried from token to token but the whole past: the row of every
 * position, and the values and scores of every position that a block may sum up. */
#ifndef TANDEM_TESTS_REF_V4_H
#define TANDEM_TESTS_REF_V4_H

#include "tests/ref_model.h"

#define REF_V4_TOKENS 320
#define REF_STREAMS 4

struct ref_past {
    double *row, *value, *score, *index_value, *index_score;
};

struct ref_v4 {
    struct ref r;
    struct ref_past past[REF_LAYERS][REF_V4_TOKENS];
    double streams[REF_STREAMS][REF_MAX];
};

static inline double ref_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

/* Value `layer` of a key that holds one per layer. */
static inline double ref_of_layer(const struct ref *r, const char *suffix, int layer)
{
    char key[128];
    struct error err = { 0 };
    snprintf(key, sizeof key, "%s.%s", r->arch, suffix);
    const struct gguf_kv *kv = gguf_array(&r->g, key, GGUF_KIND_INT, &err);
    return (double)gguf_int_at(kv, (uint64_t)layer);
}

/* ---- hyper-connections ---- */

/* pre, post and C of the streams; at the end only pre. */
static inline void ref_gates(const struct ref_v4 *v, const char *fn, const char *scale_name,
                             const char *base_name, int layer, int d, double *pre, double *post,
                             double c[REF_STREAMS][REF_STREAMS])
{
    const struct ref *r = &v->r;
    double flat[REF_MAX], mix[32], scale[4], base[32], sum = 0;
    double eps = ref_number(r, "hyper_connection.epsilon", 0);
    for (int i = 0; i < REF_STREAMS; i++)
        memcpy(flat + i * d, v->streams[i], (size_t)d * sizeof *flat);
    for (int i = 0; i < REF_STREAMS * d; i++)
        sum += flat[i] * flat[i];
    double inverse = 1 / sqrt(sum / (REF_STREAMS * d) +
                              ref_number(r, "attention.layer_norm_rms_epsilon", 0));
    int n = ref_linear(r, fn, NULL, layer, flat, mix);
    ref_row(ref_tensor(r, scale_name, layer), 0, scale);
    ref_row(ref_tensor(r, base_name, layer), 0, base);
    for (int i = 0; i < n; i++)
        mix[i] = mix[i] * inverse * scale[i < 4 ? 0 : i < 8 ? 1 : 2] + base[i];
    for (int i = 0; i < REF_STREAMS; i++)
        pre[i] = ref_sigmoid(mix[i]) + eps;
    if (n == REF_STREAMS)
        return;
    for (int j = 0; j < REF_STREAMS; j++) {
        double all = 0;
        post[j] = 2 * ref_sigmoid(mix[4 + j]);
        for (int k = 0; k < REF_STREAMS; k++)
            all += c[j][k] = exp(mix[8 + 4 * j + k]);
        for (int k = 0; k < REF_STREAMS; k++)
            c[j][k] = c[j][k] / all + eps;
    }
    for (int pass = 0; pass < ref_int(r, "hyper_connection.sinkhorn_iterations", 0); pass++) {
        for (int j = 0; j < REF_STREAMS && pass > 0; j++) {
            double all = c[j][0] + c[j][1] + c[j][2] + c[j][3] + eps;
            for (int k = 0; k < REF_STREAMS; k++)
                c[j][k] /= all;
        }
        for (int k = 0; k < REF_STREAMS; k++) {
            double all = c[0][k] + c[1][k] + c[2][k] + c[3][k] + eps;
            for (int j = 0; j < REF_STREAMS; j++)
                c[j][k] /= all;
        }
    }
}

static inline void ref_join(struct ref_v4 *v, int d, const double *post,
                            double c[REF_STREAMS][REF_STREAMS], const double *out)
{
    for (int i = 0; i < d; i++) {
        double before[REF_STREAMS];
        for (int s = 0; s < REF_STREAMS; s++)
            before[s] = v->streams[s][i];
        for (int k = 0; k < REF_STREAMS; k++) {
            v->streams[k][i] = post[k] * out[i];
            for (int j = 0; j < REF_STREAMS; j++)
                v->streams[k][i] += c[j][k] * before[j];
        }
    }
}

/* ---- rotation ---- */

/* The last n_rot of n elements, as at `position`; layers with blocks have a base of their own, and
 * YaRN. */
static inline void ref_turn(const struct ref *r, double *x, int n, bool blocks, double position)
{
    int n_rot = ref_int(r, "rope.dimension_count", 64);
    double base = ref_number(r, blocks ? "attention.compress_rope_freq_base" : "rope.freq_base", 0);
    double factor = blocks ? ref_number(r, "rope.scaling.factor", 1) : 1;
    double original = ref_number(r, "rope.scaling.original_context_length", 1);
    double turn = 2 * 3.14159265358979323846;
    double low = floor(n_rot * log(original / (turn * 32)) / (2 * log(base)));
    double high = ceil(n_rot * log(original / turn) / (2 * log(base)));
    low = low < 0 ? 0 : low;
    high = high > n_rot - 1 ? n_rot - 1 : high;
    for (int i = 0; i < n_rot / 2; i++) {
        double ramp = (i - low) / (high - low > 0.001 ? high - low : 0.001);
        ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
        double f = pow(base, -2.0 * i / n_rot), angle = position * (f * (1 - ramp) + f / factor * ramp);
        double *p = x + n - n_rot + 2 * i, a = p[0], b = p[1];
        p[0] = a * cos(angle) - b * sin(angle);
        p[1] = a * sin(angle) + b * cos(angle);
    }
}

/* ---- blocks ---- */

/* What the compressor `name` makes of x at this position. */
static inline void ref_entry(const struct ref *r, const char *name, int layer, int ratio,
                             const double *x, double **value, double **score)
{
    char tensor[96];
    double ape[REF_MAX];
    *value = calloc(REF_MAX, sizeof **value);
    *score = calloc(REF_MAX, sizeof **score);
    snprintf(tensor, sizeof tensor, "blk.%%d.%s_kv.weight", name);
    ref_linear(r, tensor, NULL, layer, x, *value);
    snprintf(tensor, sizeof tensor, "blk.%%d.%s_gate.weight", name);
    int n = ref_linear(r, tensor, NULL, layer, x, *score);
    snprintf(tensor, sizeof tensor, "blk.%%d.%s_ape.weight", name);
    ref_row(ref_tensor(r, tensor, layer), (uint64_t)(r->pos % ratio), ape);
    for (int i = 0; i < n; i++)
        (*score)[i] += ape[i];
}

/* The row of block b: dim elements. */
static inline void ref_block(const struct ref_v4 *v, const char *name, int layer, int ratio, int b,
                             int dim, bool index, double *row)
{
    char norm[96];
    const struct ref_past *past = v->past[layer];
    for (int k = 0; k < dim; k++) {
        double sum = 0, mean = 0;
        for (int p = ratio == 4 && b > 0 ? (b - 1) * ratio : b * ratio; p < (b + 1) * ratio; p++) {
            int at = ratio == 4 && p >= b * ratio ? k + dim : k;
            double e = exp(index ? past[p].index_score[at] : past[p].score[at]);
            sum += e;
            mean += e * (index ? past[p].index_value[at] : past[p].value[at]);
        }
        row[k] = mean / sum;
    }
    snprintf(norm, sizeof norm, "blk.%%d.%s_norm.weight", name);
    ref_rmsnorm(&v->r, norm, layer, row, dim, row);
    ref_turn(&v->r, row, dim, true, b * ratio);
}

/* Marks the blocks that the indexer selects among n. */
static inline void ref_select(const struct ref_v4 *v, int layer, const double *x, const double *low,
                              int n, bool *selected)
{
    const struct ref *r = &v->r;
    int heads = ref_int(r, "attention.indexer.head_count", 0);
    int dim = ref_int(r, "attention.indexer.key_length", 0);
    int top_k = ref_int(r, "attention.indexer.top_k", 0);
    double q[REF_MAX], w[64], key[REF_MAX], score[REF_V4_TOKENS];
    ref_linear(r, "blk.%d.indexer.attn_q_b.weight", NULL, layer, low, q);
    ref_linear(r, "blk.%d.indexer.proj.weight", NULL, layer, x, w);
    for (int h = 0; h < heads; h++)
        ref_turn(r, q + h * dim, dim, true, r->pos);
    for (int b = 0; b < n; b++) {
        ref_block(v, "indexer_compressor", layer, 4, b, dim, true, key);
        score[b] = 0;
        for (int h = 0; h < heads; h++) {
            double product = 0;
            for (int i = 0; i < dim; i++)
                product += q[h * dim + i] * key[i];
            score[b] += w[h] * (product > 0 ? product : 0);
        }
    }
    for (int picks = 0; picks < top_k && picks < n; picks++) {
        int best = ref_best(score, n); /* the first of the largest */
        selected[best] = true;
        score[best] = -INFINITY;
    }
}

/* ---- attention ---- */

/* out += the head's attention over n rows, with a sink. */
static inline void ref_sink_head(double *const *rows, int n, const double *q, int dim, double sink,
                                 double *out)
{
    double p[2 * REF_V4_TOKENS], sum = exp(sink);
    for (int s = 0; s < n; s++) {
        p[s] = 0;
        for (int i = 0; i < dim; i++)
            p[s] += q[i] * rows[s][i];
        sum += p[s] = exp(p[s] / sqrt(dim));
    }
    for (int i = 0; i < dim; i++) {
        out[i] = 0;
        for (int s = 0; s < n; s++)
            out[i] += p[s] / sum * rows[s][i];
    }
}

static inline void ref_v4_attention(struct ref_v4 *v, int layer, const double *x, double *out)
{
    struct ref *r = &v->r;
    struct ref_past *past = &v->past[layer][r->pos];
    int n_heads = ref_int(r, "attention.head_count", 1), n = 0, n_blocks = 0;
    int dim = ref_int(r, "attention.key_length", 0);
    int window = ref_int(r, "attention.sliding_window", 0);
    int ratio = (int)ref_of_layer(r, "attention.compress_ratios", layer);
    double low[REF_MAX], q[REF_MAX], o[REF_MAX], mid[REF_MAX], sinks[64];
    double eps = ref_number(r, "attention.layer_norm_rms_epsilon", 0);
    double *rows[2 * REF_V4_TOKENS], *blocks[REF_V4_TOKENS];
    bool selected[REF_V4_TOKENS] = { false };

    int n_low = ref_linear(r, "blk.%d.attn_q_a.weight", NULL, layer, x, low);
    ref_rmsnorm(r, "blk.%d.attn_q_a_norm.weight", layer, low, n_low, low);
    ref_linear(r, "blk.%d.attn_q_b.weight", NULL, layer, low, q);
    past->row = calloc(REF_MAX, sizeof *past->row);
    ref_linear(r, "blk.%d.attn_kv.weight", NULL, layer, x, past->row);
    ref_rmsnorm(r, "blk.%d.attn_kv_a_norm.weight", layer, past->row, dim, past->row);
    ref_turn(r, past->row, dim, ratio > 0, r->pos);
    for (int p = r->pos - window + 1 > 0 ? r->pos - window + 1 : 0; p <= r->pos; p++)
        if (v->past[layer][p].row) /* a block that drafts has none for position 0 */
            rows[n++] = v->past[layer][p].row;

    if (ratio) {
        ref_entry(r, "attn_compressor", layer, ratio, x, &past->value, &past->score);
        n_blocks = (r->pos + 1) / ratio;
    }
    if (ratio == 4) {
        ref_entry(r, "indexer_compressor", layer, ratio, x, &past->index_value, &past->index_score);
        ref_select(v, layer, x, low, n_blocks, selected);
    }
    for (int b = 0; b < n_blocks; b++) {
        blocks[b] = calloc(REF_MAX, sizeof *blocks[b]);
        if (ratio != 4 || selected[b])
            ref_block(v, "attn_compressor", layer, ratio, b, dim, false, rows[n++] = blocks[b]);
    }

    ref_row(ref_tensor(r, "blk.%d.attn_sinks.weight", layer), 0, sinks);
    for (int h = 0; h < n_heads; h++) {
        double *head = q + h * dim, sum = 0;
        for (int i = 0; i < dim; i++)
            sum += head[i] * head[i];
        for (int i = 0; i < dim; i++)
            head[i] /= sqrt(sum / dim + eps);
        ref_turn(r, head, dim, ratio > 0, r->pos);
        ref_sink_head(rows, n, head, dim, sinks[h], o + h * dim);
        ref_turn(r, o + h * dim, dim, ratio > 0, -r->pos);
    }
    for (int b = 0; b < n_blocks; b++)
        free(blocks[b]);

    const struct tensor *a = ref_tensor(r, "blk.%d.attn_output_a.weight", layer);
    uint64_t groups = (uint64_t)ref_int(r, "attention.output_group_count", 1), rank = a->ne[1] / groups;
    for (uint64_t g = 0; g < groups; g++)
        ref_rows(a, g * rank, rank, o + g * a->ne[0], mid + g * rank);
    ref_linear(r, "blk.%d.attn_output_b.weight", NULL, layer, mid, out);
}

/* ---- experts ---- */

static inline void ref_v4_ffn(const struct ref *r, int layer, int32_t token, const double *u,
                              double *out)
{
    double s[1024], choose[1024], bias[1024] = { 0 }, sum = 0;
    int n = ref_linear(r, "blk.%d.ffn_gate_inp.weight", NULL, layer, u, s);
    int k = ref_int(r, "expert_used_count", 1), picks[64];
    const struct tensor *table = ref_tensor(r, "blk.%d.ffn_gate_tid2eid.weight", layer);
    const struct tensor *b = ref_tensor(r, "blk.%d.exp_probs_b.bias", layer);
    if (b)
        ref_row(b, 0, bias);
    for (int i = 0; i < n; i++) {
        s[i] = sqrt(log1p(exp(s[i])));
        choose[i] = s[i] + bias[i];
    }
    for (int i = 0; i < k; i++) {
        picks[i] = table ? ((const int32_t *)table->data)[token * k + i] : ref_best(choose, n);
        choose[picks[i]] = -INFINITY;
        sum += s[picks[i]];
    }
    memset(out, 0, (size_t)ref_int(r, "embedding_length", 0) * sizeof *out);
    double scale = ref_number(r, "expert_weights_scale", 1) / (sum > 6.103515625e-5 ? sum : 6.103515625e-5);
    for (int i = 0; i < k; i++)
        ref_swiglu(r, "blk.%d.ffn_gate_exps.weight", "blk.%d.ffn_up_exps.weight",
                   "blk.%d.ffn_down_exps.weight", layer, picks[i], u, scale * s[picks[i]], out);
    ref_swiglu(r, "blk.%d.ffn_gate_shexp.weight", "blk.%d.ffn_up_shexp.weight",
               "blk.%d.ffn_down_shexp.weight", layer, 0, u, 1, out);
}

/* ---- the model ---- */

/* y = the streams' mixture, normalised. */
static inline void ref_enter(const struct ref_v4 *v, const char *fn, const char *scale,
                             const char *base, const char *norm, int layer, int d, double *post,
                             double c[REF_STREAMS][REF_STREAMS], double *y)
{
    double pre[REF_STREAMS];
    ref_gates(v, fn, scale, base, layer, d, pre, post, c);
    for (int i = 0; i < d; i++) {
        y[i] = 0;
        for (int s = 0; s < REF_STREAMS; s++)
            y[i] += pre[s] * v->streams[s][i];
    }
    ref_rmsnorm(&v->r, norm, layer, y, d, y);
}

/* The streams through one layer. */
static inline void ref_v4_layer(struct ref_v4 *v, int layer, int32_t token)
{
    int d = ref_int(&v->r, "embedding_length", 0);
    double y[REF_MAX], out[REF_MAX], post[REF_STREAMS] = { 0 }, c[REF_STREAMS][REF_STREAMS];
    ref_enter(v, "blk.%d.hc_attn_fn.weight", "blk.%d.hc_attn_scale.weight",
              "blk.%d.hc_attn_base.weight", "blk.%d.attn_norm.weight", layer, d, post, c, y);
    ref_v4_attention(v, layer, y, out);
    ref_join(v, d, post, c, out);
    ref_enter(v, "blk.%d.hc_ffn_fn.weight", "blk.%d.hc_ffn_scale.weight",
              "blk.%d.hc_ffn_base.weight", "blk.%d.ffn_norm.weight", layer, d, post, c, y);
    ref_v4_ffn(&v->r, layer, token, y, out);
    ref_join(v, d, post, c, out);
}

/* The next token of the timeline: its logits. No limits of SwiGLU: the models tested here stay
 * below theirs. */
static inline void ref_v4_token(struct ref_v4 *v, int32_t token, double *logits)
{
    struct ref *r = &v->r;
    int d = ref_int(r, "embedding_length", 0);
    int n_layers = ref_int(r, "block_count", 0) - ref_int(r, "nextn_predict_layers", 0);
    double y[REF_MAX], post[REF_STREAMS], c[REF_STREAMS][REF_STREAMS];
    for (int s = 0; s < REF_STREAMS; s++)
        ref_row(gguf_tensor(&r->g, "token_embd.weight"), (uint64_t)token, v->streams[s]);
    for (int layer = 0; layer < n_layers; layer++)
        ref_v4_layer(v, layer, token);
    ref_enter(v, "output_hc_fn.weight", "output_hc_scale.weight", "output_hc_base.weight",
              "output_norm.weight", 0, d, post, c, y);
    ref_linear(r, "output.weight", NULL, 0, y, logits);
    r->pos++;
}

/* The streams are those behind the last layer (of the position before), or behind the block itself:
 * what the block makes of them with the token that follows, its streams and the logits of the token
 * after that. It works at the token's own position. Both halves of the input may be one matrix. */
static inline void ref_v4_draft(struct ref_v4 *v, int32_t token, double *logits)
{
    struct ref *r = &v->r;
    int d = ref_int(r, "embedding_length", 0), layer = ref_int(r, "block_count", 0) - 1;
    double pair[2 * REF_MAX], e[REF_MAX], x[REF_MAX], y[REF_MAX], post[REF_STREAMS] = { 0 };
    double c[REF_STREAMS][REF_STREAMS];
    bool halves = ref_tensor(r, "blk.%d.nextn.e_proj.weight", layer);
    const struct tensor *table = ref_tensor(r, "blk.%d.nextn.embed_tokens.weight", layer);
    ref_row(table ? table : gguf_tensor(&r->g, "token_embd.weight"), (uint64_t)token, pair);
    ref_rmsnorm(r, "blk.%d.nextn.enorm.weight", layer, pair, d, pair);
    for (int s = 0; s < REF_STREAMS; s++) {
        ref_rmsnorm(r, "blk.%d.nextn.hnorm.weight", layer, v->streams[s], d, pair + d);
        if (!halves) {
            ref_linear(r, "blk.%d.nextn.eh_proj.weight", NULL, layer, pair, v->streams[s]);
            continue;
        }
        ref_linear(r, "blk.%d.nextn.e_proj.weight", NULL, layer, pair, e);
        ref_linear(r, "blk.%d.nextn.h_proj.weight", NULL, layer, pair + d, x);
        for (int i = 0; i < d; i++)
            v->streams[s][i] = e[i] + x[i];
    }
    ref_v4_layer(v, layer, token);
    bool own = ref_tensor(r, "blk.%d.nextn.shared_head_norm.weight", layer);
    ref_enter(v, "blk.%d.nextn.hc_head_fn.weight", "blk.%d.nextn.hc_head_scale.weight",
              "blk.%d.nextn.hc_head_base.weight",
              own ? "blk.%d.nextn.shared_head_norm.weight" : "output_norm.weight", layer, d, post,
              c, y);
    bool head = ref_tensor(r, "blk.%d.nextn.shared_head_head.weight", layer);
    ref_linear(r, head ? "blk.%d.nextn.shared_head_head.weight" : "output.weight", NULL, layer, y,
               logits);
}

static inline void ref_v4_close(struct ref_v4 *v)
{
    for (int l = 0; l < REF_LAYERS; l++) {
        for (int t = 0; t < REF_V4_TOKENS; t++) {
            struct ref_past *p = &v->past[l][t];
            free(p->row);
            free(p->value);
            free(p->score);
            free(p->index_value);
            free(p->index_score);
        }
    }
    ref_close(&v->r);
}

#endif
