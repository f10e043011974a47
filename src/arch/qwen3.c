/* `qwen3`: R1-0528-Qwen3-8B. No biases; every query and key head is normalised before rotation. */
#include "src/arch/blocks.h"
#include "src/arch/registry.h"

static const struct tensor_spec tensors[] = {
    SKELETON_TENSORS,
    GQA_TENSORS,
    { "blk.%d.attn_q_norm.weight", W(q_norm), { DIM_HEAD }, ROLE_TRUNK, EVERY_LAYER,
      .is_f32 = true },
    { "blk.%d.attn_k_norm.weight", W(k_norm), { DIM_HEAD }, ROLE_TRUNK, EVERY_LAYER,
      .is_f32 = true },
    DENSE_TENSORS,
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

const struct arch arch_qwen3 = {
    .name = "qwen3",
    .tensors = tensors, .n_tensors = ARRAY_LEN(tensors),
    .pairing = ROPE_NEOX,
    .solve = solve, .assemble = gqa_assemble, .forward = forward,
    .buffers = buffers, .n_buffers = ARRAY_LEN(buffers),
};
