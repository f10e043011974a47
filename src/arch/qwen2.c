/* `qwen2`: R1-Distill-Qwen. As llama, with biases on q, k and v and half-split rotation. */
#include "src/arch/blocks.h"
#include "src/arch/registry.h"

static const struct tensor_spec tensors[] = {
    SKELETON_TENSORS,
    GQA_TENSORS,
    GQA_BIASES(REQUIRED),
    DENSE_TENSORS,
    { "output.bias", M(output_bias), { DIM_VOCAB }, ROLE_HEAD, ONCE, .need = OPTIONAL, .is_f32 = true },
};

static const struct buffer_spec buffers[] = { SKELETON_BUFFERS, GQA_BUFFERS, DENSE_BUFFERS };

static bool solve(struct model *m, struct error *err)
{
    return dense_solve(m, err) && gqa_solve(m, err);
}

static bool forward(const struct model *m, struct device *d, const struct step *s,
                    struct activations *work, struct error *err)
{
    return decoder_forward(m, d, s, work, gqa_attention, err);
}

const struct arch arch_qwen2 = {
    .name = "qwen2",
    .tensors = tensors, .n_tensors = ARRAY_LEN(tensors),
    .pairing = ROPE_NEOX,
    .solve = solve, .assemble = gqa_assemble, .forward = forward,
    .buffers = buffers, .n_buffers = ARRAY_LEN(buffers),
};
