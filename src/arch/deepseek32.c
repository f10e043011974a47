/* `deepseek32`: V3.2. Latent attention and mixture of V3, and in every layer an indexer that picks
 * the positions to attend to (DeepSeek-V3.2 report, section 2.1): 64 narrow query heads against one
 * narrow key per position, of which the cache keeps another row beside the latent.
 *
 * Tables, sizes and cache only: there is no forward pass yet. */
#include "src/arch/blocks.h"
#include "src/arch/registry.h"

static const struct tensor_spec tensors[] = {
    SKELETON_TENSORS, MLA_TENSORS, INDEXER_TENSORS, DENSE_TENSORS, MOE_TENSORS, MTP_TENSORS,
};

static const struct buffer_spec buffers[] = { SKELETON_BUFFERS, MLA_BUFFERS, MOE_BUFFERS };

static bool solve(struct model *m, struct error *err)
{
    return moe_solve(m, true, err) && dense_solve(m, err) && mla_solve(m, err) &&
           indexer_solve(m, err);
}

static bool assemble(struct model *m, int layer, struct error *err)
{
    return mla_assemble(m, layer, err) && moe_assemble(m, layer, err);
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
    parts[1] = (struct cache_part){
        .name = "index", .layer = layer, .kind = CACHE_ROWS, .n_rows = n_ctx, .span = 1,
        .row_bytes = (size_t)p->index_dim * element,
    };
    return 2;
}

const struct arch arch_deepseek32 = {
    .name = "deepseek32",
    .tensors = tensors, .n_tensors = ARRAY_LEN(tensors),
    .pairing = ROPE_NORM, .has_latent_cache = true,
    .solve = solve, .assemble = assemble, .derive = mla_derive,
    .derived_bytes = mla_derived_bytes, .cache_parts = cache_parts,
    .buffers = buffers, .n_buffers = ARRAY_LEN(buffers),
};
