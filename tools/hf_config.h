/* config.json of a Hugging Face checkpoint: which architecture, which dimensions, which metadata.
 *
 * Understood are LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, DeepseekForCausalLM (the
 * first MoE), DeepseekV2ForCausalLM, DeepseekV3ForCausalLM (also R1, V3.1, Kimi-K2),
 * DeepseekV32ForCausalLM and DeepseekV4ForCausalLM. A value
 * that would make the model compute something else than this program does is an error, never
 * ignored.
 *
 * Names of the keys written: ggml-org/llama.cpp, gguf-py/gguf/constants.py. */
#ifndef TANDEM_TOOLS_HF_CONFIG_H
#define TANDEM_TOOLS_HF_CONFIG_H

#include "src/cli/json.h"
#include "src/format/gguf_write.h"
#include "src/model/arch.h"
#include "tools/hf_names.h"

/* The scaling rule of Llama 3: not metadata but the tensor rope_freqs. */
struct llama3_rope {
    bool present;
    double factor, low, high, original_context;
};

struct hf_config {
    const struct json *json;   /* borrowed */
    const struct arch *arch;
    enum spelling spelling;    /* of the tensors' names */
    struct params params;      /* what params_dim needs; n_mtp blocks are those announced */
    bool tied;                 /* the head is the embedding */
    bool has_head_dim;         /* said explicitly */
    const char *scoring;       /* of the router where the file does not say; NULL: no experts */
    bool fp8;                  /* weights may be FP8 with scales of 128 x 128 blocks */
    double rope_base;
    struct llama3_rope llama3;
};

/* ERR_FILE naming the field. */
bool hf_config_read(struct hf_config *c, const struct json *json, struct error *err);

/* Write the "<architecture>." keys. params.n_mtp is then what the file will hold. */
bool hf_config_write(const struct hf_config *c, struct gguf_writer *w, struct error *err);

/* For both halves of this module (hf_config.c, hf_keys.c): is it this architecture? rope_scaling of
 * older files, rope_parameters of newer ones, NULL when there is none; and its type. */
bool hf_is_arch(const struct hf_config *c, const char *name);
const struct json *hf_rope_fields(const struct hf_config *c);
struct str hf_rope_type(const struct hf_config *c);

/* Divisors of the rotary frequencies, [params.head_dim / 2], where llama3.present. */
void hf_config_rope_freqs(const struct hf_config *c, float *divisors);

#endif
