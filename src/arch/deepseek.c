/* `deepseek`: DeepSeekMoE 16B (Dai et al. 2024). Attention of llama, mixture of fine-grained and
 * shared experts; the released weights of the chosen experts are not renormalised. */
#include "src/arch/blocks.h"
#include "src/arch/registry.h"

static const struct tensor_spec tensors[] = {
    SKELETON_TENSORS, ROPE_FREQS_TENSOR, GQA_TENSORS, GQA_BIASES(OPTIONAL),
    DENSE_TENSORS,    MOE_TENSORS,
};

static const struct buffer_spec buffers[] = { SKELETON_BUFFERS, GQA_BUFFERS, MOE_BUFFERS };

static bool solve(struct model *m, struct error *err)
{
    return moe_solve(m, false, err) && dense_solve(m, err) && gqa_solve(m, err);
}

static bool assemble(struct model *m, int layer, struct error *err)
{
    return gqa_assemble(m, layer, err) && moe_assemble(m, layer, err);
}

static bool forward(const struct model *m, struct device *d, const struct step *s,
                    struct activations *work, struct error *err)
{
    return decoder_forward(m, d, s, work, gqa_attention, err);
}

const struct arch arch_deepseek = {
    .name = "deepseek",
    .tensors = tensors, .n_tensors = ARRAY_LEN(tensors),
    .pairing = ROPE_NORM, .permuted_qk = true,
    .solve = solve, .assemble = assemble, .forward = forward,
    .buffers = buffers, .n_buffers = ARRAY_LEN(buffers),
};
