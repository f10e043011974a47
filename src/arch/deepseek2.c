/* `deepseek2`: V2, V2-Lite, V2.5, V3, R1, V3.1, Kimi-K2. Latent attention (mla.c) and a mixture of
 * experts (moe.c); what distinguishes the models is in their files. */
#include "src/arch/blocks.h"
#include "src/arch/registry.h"

static const struct tensor_spec tensors[] = {
    SKELETON_TENSORS, MLA_TENSORS, DENSE_TENSORS, MOE_TENSORS, MTP_TENSORS,
};

static const struct buffer_spec buffers[] = { SKELETON_BUFFERS, MLA_BUFFERS, MOE_BUFFERS };

static bool solve(struct model *m, struct error *err)
{
    return moe_solve(m, true, err) && dense_solve(m, err) && mla_solve(m, err);
}

static bool assemble(struct model *m, int layer, struct error *err)
{
    return mla_assemble(m, layer, err) && moe_assemble(m, layer, err);
}

static bool forward(const struct model *m, struct device *d, const struct step *s,
                    struct activations *work, struct error *err)
{
    return decoder_forward(m, d, s, work, mla_attention, err);
}

static bool draft(const struct model *m, struct device *d, const struct step *s,
                  struct rows states, struct rows pairs, struct activations *work,
                  struct error *err)
{
    return mtp_draft(m, d, s, states, pairs, work, mla_attention, err);
}

const struct arch arch_deepseek2 = {
    .name = "deepseek2",
    .tensors = tensors, .n_tensors = ARRAY_LEN(tensors),
    .pairing = ROPE_NORM, .has_latent_cache = true,
    .solve = solve, .assemble = assemble, .derive = mla_derive,
    .derived_bytes = mla_derived_bytes, .forward = forward,
    .draft = draft,
    .buffers = buffers, .n_buffers = ARRAY_LEN(buffers),
};
