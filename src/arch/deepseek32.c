/* `deepseek32`: V3.2. Latent attention and mixture of V3, and in every layer an indexer that picks
 * the positions to attend to (DeepSeek-V3.2 report, section 2.1).
 *
 * Per token at position t, with u the normalised hidden state and c_q the normalised query latent:
 *     q_h = rotated W_qb c_q          64 narrow heads      k = rotated LayerNorm(W_k u)   one key, cached
 *     w   = W_w u                     a weight per head
 *     I[s] = sum over h of w_h max(0, q_h . k_s)           s <= t
 *     attention over the top_k positions of the largest I, over all while there are no more
 * The rotation is that of attention on the first dimensions instead of the last, in halves (i, i + n/2)
 * instead of neighbours. Published code then turns q and k by a Hadamard matrix to prepare them for
 * eight bits. So does the device where the cache is not F32 (struct indexer): 132 bytes a key. */
#include "src/arch/blocks.h"
#include "src/arch/registry.h"

static const struct tensor_spec tensors[] = {
    SKELETON_TENSORS, MLA_TENSORS, INDEXER_TENSORS, DENSE_TENSORS, MOE_TENSORS, MTP_TENSORS,
};

static const struct buffer_spec buffers[] = {
    SKELETON_BUFFERS, MLA_BUFFERS, MOE_BUFFERS,
    { A(index_q), { DIM_INDEX_Q }, ALIVE_ATTENTION }, { A(index_k), { DIM_INDEX }, ALIVE_ATTENTION },
    { A(index_weights), { DIM_INDEX_HEADS }, ALIVE_ATTENTION },
};

#define INDEX_NORM_EPS 1e-6f /* no key of the file tells it */

static bool solve(struct model *m, struct error *err)
{
    struct params *p = &m->params;
    if (!moe_solve(m, true, err) || !dense_solve(m, err) || !mla_solve(m, err) ||
        !indexer_solve(m, err))
        return false;
    if (p->q_lora_rank == 0)
        return fail(err, ERR_FILE, "deepseek32: attn_q_a.weight: missing; the indexer reads the "
                    "query latent");
    if (p->qk_rope_dim > p->index_dim)
        return fail(err, ERR_FILE, "deepseek32.attention.indexer.key_length: %d, expected at least "
                    "the %d rotated dimensions", p->index_dim, p->qk_rope_dim);
    p->rope_index = p->rope;
    p->rope_index.pairing = ROPE_NEOX;
    return true;
}

static bool assemble(struct model *m, int layer, struct error *err)
{
    const struct params *p = &m->params;
    struct layer *l = &m->layers[layer];
    if (!mla_assemble(m, layer, err) || !moe_assemble(m, layer, err))
        return false;
    l->indexer = (struct indexer){ .n_heads = p->index_heads, .dim = p->index_dim,
                                   .top_k = p->index_top_k, .ratio = 1,
                                   .heap_ties = p->numerics == NUMERICS_LLAMACPP };
    if (layer < p->n_layers) /* the block that drafts attends to everything */
        l->mla.n_selected = p->index_top_k;
    return true;
}

/* A latent with its rotary key, and an index key. */
static int cache_parts(const struct params *p, enum tensor_type type, int64_t n_ctx, int layer,
                       struct cache_part *parts)
{
    size_t element = type == TYPE_F32 ? 4 : 2;
    parts[0] = (struct cache_part){
        .name = "latent", .layer = layer, .kind = CACHE_ROWS, .n_rows = n_ctx, .span = 1,
        .row_bytes = (size_t)params_dim(p, DIM_KV_A) * element,
    };
    return 1 + indexer_cache_parts(p, type, n_ctx, 1, layer, parts + 1);
}

/* ---- forward ---- */

/* Keys of all tokens into the cache, then the choice for each. */
static void select_positions(struct device *d, const struct params *p, const struct layer *l,
                             int layer, const struct step *s, struct activations *a)
{
    matmul(d, a->index_k, &l->indexer_k, a->normed, NULL);
    layernorm(d, a->index_k, a->index_k, &l->indexer_k_norm, &l->indexer_k_norm_bias,
              INDEX_NORM_EPS);
    rope(d, a->index_k, &p->rope_index, 1, 0, 0);
    cache_index(d, s->cache, layer, a->index_k);

    matmul(d, a->index_q, &l->indexer_q_b, a->q_latent, NULL);
    rope(d, a->index_q, &p->rope_index, p->index_heads, p->index_dim, 0);
    matmul(d, a->index_weights, &l->indexer_proj, a->normed, NULL);
    indexer_topk(d, a->index_q, a->index_weights, s->cache, layer, &l->indexer);
}

static void attention(struct device *d, const struct params *p, const struct layer *l, int layer,
                      const struct step *s, struct activations *a)
{
    mla_project(d, p, l, layer, s, a);
    select_positions(d, p, l, layer, s, a);
    mla_attend(d, l, layer, &l->mla, s, a);
}

static bool forward(const struct model *m, struct device *d, const struct step *s,
                    struct activations *work, struct error *err)
{
    return decoder_forward(m, d, s, work, attention, err);
}

static bool draft(const struct model *m, struct device *d, const struct step *s,
                  struct rows states, struct rows pairs, struct activations *work,
                  struct error *err)
{
    return mtp_draft(m, d, s, states, pairs, work, mla_attention, err);
}

const struct arch arch_deepseek32 = {
    .name = "deepseek32",
    .tensors = tensors, .n_tensors = ARRAY_LEN(tensors),
    .pairing = ROPE_NORM, .has_latent_cache = true,
    .solve = solve, .assemble = assemble, .derive = mla_derive,
    .derived_bytes = mla_derived_bytes, .cache_parts = cache_parts, .forward = forward,
    .draft = draft,
    .buffers = buffers, .n_buffers = ARRAY_LEN(buffers),
};
