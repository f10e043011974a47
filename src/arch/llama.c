/* `llama`: DeepSeek LLM, DeepSeek-Coder v1, R1-Distill-Llama. Dense, grouped-query attention. */
#include "src/arch/blocks.h"
#include "src/arch/registry.h"

static const struct tensor_spec tensors[] = {
    SKELETON_TENSORS, ROPE_FREQS_TENSOR, GQA_TENSORS, GQA_BIASES(OPTIONAL),
    DENSE_TENSORS,    DENSE_BIASES,
};

static const struct buffer_spec buffers[] = { SKELETON_BUFFERS, GQA_BUFFERS, DENSE_BUFFERS };

static bool solve(struct model *m, struct error *err)
{
    if (m->keys.n_routed > 0)
        return fail(err, ERR_FILE, "llama.expert_count: %lld: mixtures of this architecture "
                    "(Mixtral) are not supported", (long long)m->keys.n_routed);
    return dense_solve(m, err) && gqa_solve(m, err);
}

static bool forward(const struct model *m, struct device *d, const struct step *s,
                    struct activations *work, struct error *err)
{
    return decoder_forward(m, d, s, work, gqa_attention, err);
}

const struct arch arch_llama = {
    .name = "llama",
    .tensors = tensors, .n_tensors = ARRAY_LEN(tensors),
    .pairing = ROPE_NORM, .permuted_qk = true,
    .solve = solve, .assemble = gqa_assemble, .forward = forward,
    .buffers = buffers, .n_buffers = ARRAY_LEN(buffers),
};
