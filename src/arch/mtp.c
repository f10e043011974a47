/* Multi-token prediction (DeepSeek-V3 report, section 2.2): one more decoder block that guesses the
 * token after the next. For position i, with the state h_i behind the final norm and the token that
 * follows it:
 *     u_i    = block( W [ rmsnorm(embed(token_{i+1})) ; rmsnorm(h_i) ] )
 *     logits = head( rmsnorm(u_i) )                               of token_{i+2}
 * The report writes the two halves the other way round; released matrices expect the embedding
 * first. The block attends to its own cache, in which row i belongs to that pair.
 *
 * To guess further, the block reads its own output: rmsnorm(u_i) stands in for the state h_{i+1} that
 * the main model has not computed yet. It waits in the left half of `pairs`, so the right half of the
 * next pair is made first. */
#include "src/arch/blocks.h"

bool mtp_draft(const struct model *m, struct device *d, const struct step *s, struct rows states,
               struct rows pairs, struct activations *a, attention_block *attention,
               struct error *err)
{
    const struct params *p = &m->params;
    const struct layer *l = &m->layers[p->n_layers];
    int64_t width = p->hidden_size;

    rmsnorm(d, columns(pairs, width, width), states, &l->nextn_hnorm, 1, p->rms_eps);
    embed(d, a->normed, l->nextn_embed.data ? &l->nextn_embed : &m->token_embd);
    rmsnorm(d, columns(pairs, 0, width), a->normed, &l->nextn_enorm, 1, p->rms_eps);
    matmul(d, a->hidden, &l->nextn_eh_proj, pairs, NULL);

    rmsnorm(d, a->normed, a->hidden, &l->attn_norm, 1, p->rms_eps);
    attention(d, p, l, 0, s, a);
    add(d, a->hidden, a->hidden, a->out);
    rmsnorm(d, a->normed, a->hidden, &l->ffn_norm, 1, p->rms_eps);
    moe_ffn(d, p, l, a);
    if (s->n_logits > 0) {
        const struct weight *norm = l->nextn_head_norm.data ? &l->nextn_head_norm : &m->output_norm;
        rmsnorm(d, a->normed, a->hidden, norm, 1, p->rms_eps);
        logits(d, l->nextn_head.data ? &l->nextn_head : &m->output, a->normed);
        rmsnorm(d, columns(pairs, 0, width), a->hidden, norm, 1, p->rms_eps);
    }
    return !decoder_cancelled(s, err);
}
