/* A small V3 as a checkpoint of two files, with FP8 matrices; and the configuration of a small
 * llama. */
#ifndef TANDEM_TESTS_CHECKPOINT_V3_H
#define TANDEM_TESTS_CHECKPOINT_V3_H

#include "tests/checkpoint.h"

#define N_VOCAB CHECKPOINT_VOCAB

/* Hidden 64, 2 layers + 1 prediction block, 2 heads of 16 + 8, values 16, ranks 24 and 136; dense
 * width 160; 4 experts of 32 in groups of 2. 136 and 160 leave partial FP8 blocks. */
#define HIDDEN 64
#define RANK 136
#define NOPE 16
#define VALUE 16
static const char v3_config[] =
    "{\"architectures\":[\"DeepseekV3ForCausalLM\"],\"num_hidden_layers\":2,\"num_nextn_predict_layers\":1,"
    "\"hidden_size\":64,\"vocab_size\":264,\"max_position_embeddings\":512,\"intermediate_size\":160,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":2,\"q_lora_rank\":24,\"kv_lora_rank\":136,"
    "\"qk_nope_head_dim\":16,\"qk_rope_head_dim\":8,\"v_head_dim\":16,\"n_routed_experts\":4,"
    "\"num_experts_per_tok\":2,\"n_shared_experts\":1,\"moe_intermediate_size\":32,"
    "\"first_k_dense_replace\":1,\"n_group\":2,\"topk_group\":1,\"routed_scaling_factor\":2.5,"
    "\"norm_topk_prob\":true,\"scoring_func\":\"sigmoid\",\"topk_method\":\"noaux_tc\",\"rms_norm_eps\":1e-6,"
    "\"rope_theta\":10000,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"mscale\":1.0,"
    "\"mscale_all_dim\":1.0,\"original_max_position_embeddings\":64,\"beta_fast\":32,\"beta_slow\":1},"
    "\"quantization_config\":{\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,128]}}";

static inline void add_layer(struct st *s, int layer, bool moe)
{
    add_bf16(s, layer_name(layer, "input_layernorm.weight"), 0, HIDDEN);
    add_bf16(s, layer_name(layer, "post_attention_layernorm.weight"), 0, HIDDEN);
    add_fp8(s, layer_name(layer, "self_attn.q_a_proj.weight"), 24, HIDDEN);
    add_bf16(s, layer_name(layer, "self_attn.q_a_layernorm.weight"), 0, 24);
    add_fp8(s, layer_name(layer, "self_attn.q_b_proj.weight"), 48, 24);
    add_fp8(s, layer_name(layer, "self_attn.kv_a_proj_with_mqa.weight"), RANK + 8, HIDDEN);
    add_bf16(s, layer_name(layer, "self_attn.kv_a_layernorm.weight"), 0, RANK);
    add_fp8(s, layer_name(layer, "self_attn.kv_b_proj.weight"), 2 * (NOPE + VALUE), RANK);
    add_fp8(s, layer_name(layer, "self_attn.o_proj.weight"), HIDDEN, 32);
    if (!moe) {
        add_fp8(s, layer_name(layer, "mlp.gate_proj.weight"), 160, HIDDEN);
        add_fp8(s, layer_name(layer, "mlp.up_proj.weight"), 160, HIDDEN);
        add_fp8(s, layer_name(layer, "mlp.down_proj.weight"), HIDDEN, 160);
        return;
    }
    add_bf16(s, layer_name(layer, "mlp.gate.weight"), 4, HIDDEN);
    add_f32(s, layer_name(layer, "mlp.gate.e_score_correction_bias"), 0, 4);
    for (int e = -1; e < 4; e++) {
        static const char *const parts[] = { "gate_proj", "up_proj", "down_proj" };
        char rest[64];
        for (int k = 0; k < 3; k++) {
            if (e < 0)
                snprintf(rest, sizeof rest, "mlp.shared_experts.%s.weight", parts[k]);
            else
                snprintf(rest, sizeof rest, "mlp.experts.%d.%s.weight", e, parts[k]);
            add_fp8(s, layer_name(layer, rest), k < 2 ? 32 : HIDDEN, k < 2 ? HIDDEN : 32);
        }
    }
}

static struct st shards[2];
static const char *const shard_names[] = { "model-00001-of-00002.safetensors",
                                           "model-00002-of-00002.safetensors" };

static inline void build_v3(void)
{
    clean_folder();
    st_start(&shards[0]);
    add_bf16(&shards[0], "model.embed_tokens.weight", N_VOCAB, HIDDEN);
    add_layer(&shards[0], 0, false);
    st_start(&shards[1]);
    add_layer(&shards[1], 1, true);
    add_bf16(&shards[1], "model.norm.weight", 0, HIDDEN);
    add_bf16(&shards[1], "lm_head.weight", N_VOCAB, HIDDEN);
    write_text("config.json", v3_config);
    write_tokenizer(V3_REGEX);
}

static inline void write_shards(const char *extra)
{
    st_write(&shards[0], shard_names[0]);
    st_write(&shards[1], shard_names[1]);
    write_index(shards, 2, shard_names, extra);
}

static const char llama_config[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"num_hidden_layers\":1,\"hidden_size\":64,"
    "\"vocab_size\":264,\"max_position_embeddings\":512,\"intermediate_size\":96,\"num_attention_heads\":4,"
    "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5,\"hidden_act\":\"silu\",\"tie_word_embeddings\":true,"
    "\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
    "\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}";


#endif
