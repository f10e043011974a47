/* The decoder skeleton (DeepSeek LLM report, section 2; the same in all architectures here). */
#include "src/arch/blocks.h"

bool decoder_cancelled(const struct step *s, struct error *err)
{
    if (!s->cancel || !atomic_load_explicit(s->cancel, memory_order_relaxed))
        return false;
    fail(err, ERR_INTERRUPTED, "interrupted");
    return true;
}

bool decoder_forward(const struct model *m, struct device *d, const struct step *s,
                     struct activations *a, attention_block *attention, struct error *err)
{
    const struct params *p = &m->params;
    embed(d, a->hidden, &m->token_embd);
    for (int i = 0; i < p->n_layers; i++) {
        const struct layer *l = &m->layers[i];

        rmsnorm(d, a->normed, a->hidden, &l->attn_norm, 1, p->rms_eps);
        attention(d, p, l, i, s, a);
        add(d, a->hidden, a->hidden, a->out);
        phase_done(a->clock, PHASE_ATTENTION);
        if (decoder_cancelled(s, err))
            return false;

        rmsnorm(d, a->normed, a->hidden, &l->ffn_norm, 1, p->rms_eps);
        if (l->is_moe)
            moe_ffn(d, p, l, a);
        else
            dense_ffn(d, p, l, a);
        if (decoder_cancelled(s, err))
            return false;
    }
    if (s->n_logits > 0 || a->states.data)
        rmsnorm(d, a->normed, a->hidden, &m->output_norm, 1, p->rms_eps);
    if (a->states.data)
        d->ops->copy(d, a->states, a->normed);
    if (s->n_logits > 0)
        logits(d, &m->output, a->normed);
    phase_done(a->clock, PHASE_HEAD);
    return !decoder_cancelled(s, err);
}

bool dense_solve(const struct model *m, struct error *err)
{
    const struct params *p = &m->params;
    if (p->ffn_size == 0 && (p->n_routed == 0 || p->n_dense_lead > 0))
        return fail(err, ERR_FILE, "%s.feed_forward_length: missing", m->arch->name);
    return true;
}

void dense_ffn(struct device *d, const struct params *p, const struct layer *l,
               struct activations *a)
{
    struct rows gate = columns(a->gate, 0, p->ffn_size), up = columns(a->up, 0, p->ffn_size);
    matmul(d, gate, &l->gate, a->normed, if_present(&l->gate_bias));
    matmul(d, up, &l->up, a->normed, if_present(&l->up_bias));
    swiglu(d, gate, gate, up);
    matmul(d, a->out, &l->down, gate, if_present(&l->down_bias));
    add(d, a->hidden, a->hidden, a->out);
    phase_done(a->clock, PHASE_DENSE);
}
