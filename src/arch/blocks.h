/* Blocks that architectures share, each with the rows of its tensors and buffers.
 *
 * A forward pass is a sequence of blocks on the residual stream:
 *     hidden += attention(rmsnorm(hidden));   hidden += ffn(rmsnorm(hidden))                       */
#ifndef TANDEM_ARCH_BLOCKS_H
#define TANDEM_ARCH_BLOCKS_H

#include <stddef.h>

#include "src/base/util.h"
#include "src/model/arch.h"

/* ---- tensor rows ---- */

#define W(field) offsetof(struct layer, field)
#define M(field) offsetof(struct model, field)

/* Embedding, head, norms. */
#define SKELETON_TENSORS                                                                          \
    { "token_embd.weight", M(token_embd), { DIM_HIDDEN, DIM_VOCAB }, ROLE_EMBED, ONCE,            \
      .need = REQUIRED, .by_rows = true },                                                        \
    { "output.weight", M(output), { DIM_HIDDEN, DIM_VOCAB }, ROLE_HEAD, ONCE,                     \
      .need = OPTIONAL },                                                                         \
    { "output_norm.weight", M(output_norm), { DIM_HIDDEN }, ROLE_TRUNK, ONCE, .is_f32 = true },   \
    { "blk.%d.attn_norm.weight", W(attn_norm), { DIM_HIDDEN }, ROLE_TRUNK, EVERY_LAYER,           \
      .is_f32 = true },                                                                           \
    { "blk.%d.ffn_norm.weight", W(ffn_norm), { DIM_HIDDEN }, ROLE_TRUNK, EVERY_LAYER,             \
      .is_f32 = true }

/* Grouped-query attention: separate or fused projections. */
#define GQA_TENSORS                                                                               \
    { "blk.%d.attn_qkv.weight", W(qkv), { DIM_HIDDEN, DIM_QKV }, ROLE_TRUNK, EVERY_LAYER,         \
      .need = OPTIONAL, .by_rows = true },                                                                         \
    { "blk.%d.attn_q.weight", W(q), { DIM_HIDDEN, DIM_Q }, ROLE_TRUNK, EVERY_LAYER,               \
      .instead = "blk.%d.attn_qkv.weight" },                                                      \
    { "blk.%d.attn_k.weight", W(k), { DIM_HIDDEN, DIM_KV }, ROLE_TRUNK, EVERY_LAYER,              \
      .instead = "blk.%d.attn_qkv.weight" },                                                      \
    { "blk.%d.attn_v.weight", W(v), { DIM_HIDDEN, DIM_V }, ROLE_TRUNK, EVERY_LAYER,               \
      .instead = "blk.%d.attn_qkv.weight" },                                                      \
    { "blk.%d.attn_output.weight", W(attn_output), { DIM_ATTN_OUT, DIM_HIDDEN }, ROLE_TRUNK,      \
      EVERY_LAYER, .need = REQUIRED }

/* Biases of the projections; `need_` is that of q, k and v when they are not fused. */
#define GQA_BIASES(need_)                                                                         \
    { "blk.%d.attn_qkv.bias", W(qkv_bias), { DIM_QKV }, ROLE_TRUNK, EVERY_LAYER,                  \
      .need = OPTIONAL, .is_f32 = true },                                                         \
    { "blk.%d.attn_q.bias", W(q_bias), { DIM_Q }, ROLE_TRUNK, EVERY_LAYER, .need = need_,         \
      .is_f32 = true, .instead = "blk.%d.attn_qkv.bias" },                                        \
    { "blk.%d.attn_k.bias", W(k_bias), { DIM_KV }, ROLE_TRUNK, EVERY_LAYER, .need = need_,        \
      .is_f32 = true, .instead = "blk.%d.attn_qkv.bias" },                                        \
    { "blk.%d.attn_v.bias", W(v_bias), { DIM_V }, ROLE_TRUNK, EVERY_LAYER, .need = need_,         \
      .is_f32 = true, .instead = "blk.%d.attn_qkv.bias" },                                        \
    { "blk.%d.attn_output.bias", W(attn_output_bias), { DIM_HIDDEN }, ROLE_TRUNK, EVERY_LAYER,    \
      .need = OPTIONAL, .is_f32 = true }

/* Divisors of the rotary frequencies (Llama 3). */
#define ROPE_FREQS_TENSOR                                                                         \
    { "rope_freqs.weight", M(rope_freqs), { DIM_ROPE_PAIRS }, ROLE_TRUNK, ONCE,                   \
      .need = OPTIONAL, .is_f32 = true }

/* SwiGLU of the dense layers. */
#define DENSE_TENSORS                                                                             \
    { "blk.%d.ffn_gate.weight", W(gate), { DIM_HIDDEN, DIM_FFN }, ROLE_TRUNK, DENSE_LAYER,        \
      .need = REQUIRED },                                                                         \
    { "blk.%d.ffn_up.weight", W(up), { DIM_HIDDEN, DIM_FFN }, ROLE_TRUNK, DENSE_LAYER,            \
      .need = REQUIRED },                                                                         \
    { "blk.%d.ffn_down.weight", W(down), { DIM_FFN, DIM_HIDDEN }, ROLE_TRUNK, DENSE_LAYER,        \
      .need = REQUIRED }
#define DENSE_BIASES                                                                              \
    { "blk.%d.ffn_gate.bias", W(gate_bias), { DIM_FFN }, ROLE_TRUNK, DENSE_LAYER,                 \
      .need = OPTIONAL, .is_f32 = true },                                                         \
    { "blk.%d.ffn_up.bias", W(up_bias), { DIM_FFN }, ROLE_TRUNK, DENSE_LAYER, .need = OPTIONAL,   \
      .is_f32 = true },                                                                           \
    { "blk.%d.ffn_down.bias", W(down_bias), { DIM_HIDDEN }, ROLE_TRUNK, DENSE_LAYER,              \
      .need = OPTIONAL, .is_f32 = true }

/* Latent attention. k_b and v_b together, or kv_b from which both follow (mla.c). */
#define MLA_TENSORS                                                                               \
    { "blk.%d.attn_q_a.weight", W(q_a), { DIM_HIDDEN, DIM_Q_LORA }, ROLE_TRUNK, EVERY_LAYER,      \
      .need = REQUIRED },                                                                         \
    { "blk.%d.attn_q_a_norm.weight", W(q_a_norm), { DIM_Q_LORA }, ROLE_TRUNK, EVERY_LAYER,        \
      .is_f32 = true },                                                                           \
    { "blk.%d.attn_q_b.weight", W(q_b), { DIM_Q_LORA, DIM_Q }, ROLE_TRUNK, EVERY_LAYER,           \
      .need = REQUIRED },                                                                         \
    { "blk.%d.attn_q.weight", W(q), { DIM_HIDDEN, DIM_Q }, ROLE_TRUNK, EVERY_LAYER,               \
      .instead = "blk.%d.attn_q_a.weight" },                                                      \
    { "blk.%d.attn_kv_a_mqa.weight", W(kv_a_mqa), { DIM_HIDDEN, DIM_KV_A }, ROLE_TRUNK,           \
      EVERY_LAYER, .need = REQUIRED },                                                            \
    { "blk.%d.attn_kv_a_norm.weight", W(kv_a_norm), { DIM_KV_LORA }, ROLE_TRUNK, EVERY_LAYER,     \
      .is_f32 = true },                                                                           \
    { "blk.%d.attn_k_b.weight", W(k_b), { DIM_NOPE, DIM_KV_LORA, DIM_HEADS }, ROLE_TRUNK,         \
      EVERY_LAYER, .need = OPTIONAL, .by_rows = true, .may_fold = true },                                         \
    { "blk.%d.attn_v_b.weight", W(v_b), { DIM_KV_LORA, DIM_VALUE, DIM_HEADS }, ROLE_TRUNK,        \
      EVERY_LAYER, .need = OPTIONAL, .by_rows = true, .may_fold = true },                                         \
    { "blk.%d.attn_kv_b.weight", W(kv_b), { DIM_KV_LORA, DIM_KV_B }, ROLE_TRUNK, EVERY_LAYER,     \
      .by_rows = true, .instead = "blk.%d.attn_k_b.weight" },                                     \
    { "blk.%d.attn_output.weight", W(attn_output), { DIM_ATTN_OUT, DIM_HIDDEN }, ROLE_TRUNK,      \
      EVERY_LAYER, .need = REQUIRED }

/* The indexer of V3.2. Blocks for multi-token prediction attend without it, but checkpoints have one
 * there and llama.cpp wants to see it. */
#define INDEXER_ROWS(when_, need_)                                                                \
    { "blk.%d.indexer.attn_q_b.weight", W(indexer_q_b), { DIM_Q_LORA, DIM_INDEX_Q }, ROLE_TRUNK,  \
      when_, .need = need_ },                                                                     \
    { "blk.%d.indexer.attn_k.weight", W(indexer_k), { DIM_HIDDEN, DIM_INDEX }, ROLE_TRUNK,        \
      when_, .need = need_ },                                                                     \
    { "blk.%d.indexer.k_norm.weight", W(indexer_k_norm), { DIM_INDEX }, ROLE_TRUNK, when_,        \
      .need = need_, .is_f32 = true },                                                            \
    { "blk.%d.indexer.k_norm.bias", W(indexer_k_norm_bias), { DIM_INDEX }, ROLE_TRUNK, when_,     \
      .need = need_, .is_f32 = true },                                                            \
    { "blk.%d.indexer.proj.weight", W(indexer_proj), { DIM_HIDDEN, DIM_INDEX_HEADS }, ROLE_TRUNK, \
      when_, .need = need_ }
#define INDEXER_TENSORS INDEXER_ROWS(MAIN_LAYER, REQUIRED), INDEXER_ROWS(MTP_LAYER, OPTIONAL)

/* Mixture of experts: router, routed experts (separate or fused gate and up), shared experts. */
#define MOE_TENSORS                                                                               \
    { "blk.%d.ffn_gate_inp.weight", W(router), { DIM_HIDDEN, DIM_ROUTED }, ROLE_TRUNK,            \
      MOE_LAYER, .is_f32 = true },                                                                \
    { "blk.%d.exp_probs_b.bias", W(router_bias), { DIM_ROUTED }, ROLE_TRUNK, MOE_LAYER,           \
      .need = OPTIONAL, .is_f32 = true, .alias = "blk.%d.exp_probs_b" },                          \
    { "blk.%d.ffn_gate_up_exps.weight", W(gate_up_routed), { DIM_HIDDEN, DIM_EXPERT2,             \
      DIM_ROUTED }, ROLE_ROUTED, MOE_LAYER, .need = OPTIONAL },                                   \
    { "blk.%d.ffn_gate_exps.weight", W(gate_routed), { DIM_HIDDEN, DIM_EXPERT, DIM_ROUTED },      \
      ROLE_ROUTED, MOE_LAYER, .instead = "blk.%d.ffn_gate_up_exps.weight" },                      \
    { "blk.%d.ffn_up_exps.weight", W(up_routed), { DIM_HIDDEN, DIM_EXPERT, DIM_ROUTED },          \
      ROLE_ROUTED, MOE_LAYER, .instead = "blk.%d.ffn_gate_up_exps.weight" },                      \
    { "blk.%d.ffn_down_exps.weight", W(down_routed), { DIM_EXPERT, DIM_HIDDEN, DIM_ROUTED },      \
      ROLE_ROUTED, MOE_LAYER, .need = REQUIRED },                                                 \
    { "blk.%d.ffn_gate_shexp.weight", W(gate), { DIM_HIDDEN, DIM_SHARED }, ROLE_TRUNK,            \
      MOE_LAYER, .need = REQUIRED },                                                              \
    { "blk.%d.ffn_up_shexp.weight", W(up), { DIM_HIDDEN, DIM_SHARED }, ROLE_TRUNK, MOE_LAYER,     \
      .need = REQUIRED },                                                                         \
    { "blk.%d.ffn_down_shexp.weight", W(down), { DIM_SHARED, DIM_HIDDEN }, ROLE_TRUNK,            \
      MOE_LAYER, .need = REQUIRED }

/* What a multi-token-prediction block has beside a whole mixture layer. */
#define MTP_TENSORS                                                                               \
    { "blk.%d.nextn.eh_proj.weight", W(nextn_eh_proj), { DIM_HIDDEN2, DIM_HIDDEN }, ROLE_MTP,     \
      MTP_LAYER, .instead = "blk.%d.nextn.e_proj.weight" },                                       \
    { "blk.%d.nextn.enorm.weight", W(nextn_enorm), { DIM_HIDDEN }, ROLE_MTP, MTP_LAYER,           \
      .is_f32 = true },                                                                           \
    { "blk.%d.nextn.hnorm.weight", W(nextn_hnorm), { DIM_HIDDEN }, ROLE_MTP, MTP_LAYER,           \
      .is_f32 = true },                                                                           \
    { "blk.%d.nextn.shared_head_norm.weight", W(nextn_head_norm), { DIM_HIDDEN }, ROLE_MTP,       \
      MTP_LAYER, .need = OPTIONAL, .is_f32 = true, .alone = "output_norm.weight" },               \
    { "blk.%d.nextn.shared_head_head.weight", W(nextn_head), { DIM_HIDDEN, DIM_VOCAB },           \
      ROLE_MTP, MTP_LAYER, .need = OPTIONAL },                                                    \
    { "blk.%d.nextn.embed_tokens.weight", W(nextn_embed), { DIM_HIDDEN, DIM_VOCAB }, ROLE_MTP,    \
      MTP_LAYER, .need = OPTIONAL }

/* ---- buffer rows ---- */

#define A(field) #field, offsetof(struct activations, field)

#define SKELETON_BUFFERS                                                                          \
    { A(hidden), { DIM_HIDDEN }, ALIVE_ALWAYS }, { A(normed), { DIM_HIDDEN }, ALIVE_ALWAYS },     \
    { A(out), { DIM_HIDDEN }, ALIVE_ALWAYS }
#define GQA_BUFFERS                                                                               \
    { A(q), { DIM_Q }, ALIVE_ATTENTION }, { A(k), { DIM_KV }, ALIVE_ATTENTION },                  \
    { A(v), { DIM_V }, ALIVE_ATTENTION }, { A(attn), { DIM_ATTN_OUT }, ALIVE_ATTENTION }
#define MLA_BUFFERS                                                                               \
    { A(q_latent), { DIM_Q_LORA }, ALIVE_ATTENTION }, { A(q), { DIM_Q }, ALIVE_ATTENTION },       \
    { A(kv_a), { DIM_KV_A }, ALIVE_ATTENTION }, { A(attn), { DIM_ATTN_OUT }, ALIVE_ATTENTION }
#define DENSE_BUFFERS                                                                             \
    { A(gate), { DIM_FFN }, ALIVE_FFN }, { A(up), { DIM_FFN }, ALIVE_FFN }
#define MOE_BUFFERS                                                                               \
    { A(gate), { DIM_FFN, DIM_SHARED }, ALIVE_FFN }, { A(up), { DIM_FFN, DIM_SHARED }, ALIVE_FFN }, \
    { A(scores), { DIM_ROUTED }, ALIVE_FFN }, { A(routed), { DIM_HIDDEN }, ALIVE_FFN }

/* ---- views ---- */

static inline struct rows columns(struct rows r, int64_t first, int64_t width)
{
    return (struct rows){ r.data + first, width, r.stride };
}

/* NULL instead of a weight the model does not have. */
static inline const struct weight *if_present(const struct weight *w)
{
    return w->data ? w : NULL;
}

/* ---- solve and assemble ---- */

/* Head sizes, score scale and rope of grouped-query attention. */
bool gqa_solve(struct model *m, struct error *err);
/* Cut fused projections. */
bool gqa_assemble(struct model *m, int layer, struct error *err);

/* Latent dimensions from tensor shapes, score scale and rope. */
bool mla_solve(struct model *m, struct error *err);
/* v_b from kv_b where needed, struct mla. */
bool mla_assemble(struct model *m, int layer, struct error *err);
/* k_b of layer from kv_b. */
bool mla_derive(struct model *m, int layer, bool act_f32, struct error *err);
uint64_t mla_derived_bytes(const struct model *m, int layer, bool act_f32);

/* Heads, width and picks of the indexer. */
bool indexer_solve(struct model *m, struct error *err);
/* Keys of n_rows rows of `span` positions each: floats, or bytes and their scales. Returns how many
 * parts of the cache that takes. */
int indexer_cache_parts(const struct params *p, enum tensor_type type, int64_t n_rows, int span,
                        int layer, struct cache_part *parts);

/* Expert counts and the router. may_group: groups of experts exist in this architecture. */
bool moe_solve(struct model *m, bool may_group, struct error *err);
bool moe_assemble(struct model *m, int layer, struct error *err);

/* A dense layer needs its width. */
bool dense_solve(const struct model *m, struct error *err);

/* ---- forward ---- */

/* out = attention of normed. */
void gqa_attention(struct device *d, const struct params *p, const struct layer *l, int layer,
                   const struct step *s, struct activations *a);
void mla_attention(struct device *d, const struct params *p, const struct layer *l, int layer,
                   const struct step *s, struct activations *a);

/* The two halves of mla_attention: q (and q_latent) from normed, latents into the cache; then the rest,
 * as m says. */
void mla_project(struct device *d, const struct params *p, const struct layer *l, int layer,
                 const struct step *s, struct activations *a);
void mla_attend(struct device *d, const struct layer *l, int layer, const struct mla *m,
                const struct step *s, struct activations *a);

/* hidden += FFN of normed. */
void dense_ffn(struct device *d, const struct params *p, const struct layer *l,
               struct activations *a);
void moe_ffn(struct device *d, const struct params *p, const struct layer *l,
             struct activations *a);
/* routed, out = routed and shared experts (if there are any) of normed. */
void moe_mix(struct device *d, const struct params *p, const struct layer *l,
             struct activations *a);

/* The decoder that all of these share: embedding, layers of attention and FFN, final norm, logits
 * of the last n_logits tokens. ERR_INTERRUPTED when the step was cancelled. */
typedef void attention_block(struct device *d, const struct params *p, const struct layer *l,
                             int layer, const struct step *s, struct activations *a);
bool decoder_forward(const struct model *m, struct device *d, const struct step *s,
                     struct activations *a, attention_block *attention, struct error *err);
bool decoder_cancelled(const struct step *s, struct error *err);

/* arch->draft of decoders with `attention`. */
bool mtp_draft(const struct model *m, struct device *d, const struct step *s, struct rows states,
               struct rows pairs, struct activations *a, attention_block *attention,
               struct error *err);

#endif
