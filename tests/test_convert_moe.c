/* DeepSeek V1 (llama attention, mixture of experts) and Qwen3 checkpoints built here: stacking of
 * experts, rotary rows, per-head norms, then a model that loads and answers. */
#include "src/model/arch.h"
#include "tests/checkpoint.h"
#include "tests/command.h"

#define HIDDEN 64
#define EXPERTS 4
#define EXPERT 32
#define N_VOCAB CHECKPOINT_VOCAB

static struct st st;

static const char v1_config[] =
    "{\"architectures\":[\"DeepseekForCausalLM\"],\"num_hidden_layers\":2,\"hidden_size\":64,"
    "\"vocab_size\":264,\"max_position_embeddings\":512,\"intermediate_size\":96,"
    "\"moe_intermediate_size\":32,\"n_routed_experts\":4,\"n_shared_experts\":2,"
    "\"num_experts_per_tok\":2,\"first_k_dense_replace\":1,\"moe_layer_freq\":1,"
    "\"norm_topk_prob\":false,\"scoring_func\":\"softmax\",\"num_attention_heads\":4,"
    "\"num_key_value_heads\":4,\"rms_norm_eps\":1e-6,\"rope_theta\":10000,\"hidden_act\":\"silu\"}";

static const char qwen3_config[] =
    "{\"architectures\":[\"Qwen3ForCausalLM\"],\"num_hidden_layers\":1,\"hidden_size\":64,"
    "\"vocab_size\":264,\"max_position_embeddings\":512,\"intermediate_size\":96,"
    "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"head_dim\":32,\"rms_norm_eps\":1e-6,"
    "\"rope_theta\":1000000,\"hidden_act\":\"silu\",\"tie_word_embeddings\":true}";

static void add_ffn(const char *prefix, int width)
{
    static const char *const parts[] = { "gate_proj", "up_proj", "down_proj" };
    for (int i = 0; i < 3; i++) {
        char name[120];
        snprintf(name, sizeof name, "%s%s.weight", prefix, parts[i]);
        add_bf16(&st, name, i < 2 ? width : HIDDEN, i < 2 ? HIDDEN : width);
    }
}

static void add_ends(bool head)
{
    st_start(&st);
    add_bf16(&st, "model.embed_tokens.weight", N_VOCAB, HIDDEN);
    add_bf16(&st, "model.norm.weight", 0, HIDDEN);
    if (head)
        add_bf16(&st, "lm_head.weight", N_VOCAB, HIDDEN);
}

static void add_attention(int layer, int q, int kv)
{
    add_bf16(&st, layer_name(layer, "input_layernorm.weight"), 0, HIDDEN);
    add_bf16(&st, layer_name(layer, "post_attention_layernorm.weight"), 0, HIDDEN);
    add_bf16(&st, layer_name(layer, "self_attn.q_proj.weight"), q, HIDDEN);
    add_bf16(&st, layer_name(layer, "self_attn.k_proj.weight"), kv, HIDDEN);
    add_bf16(&st, layer_name(layer, "self_attn.v_proj.weight"), kv, HIDDEN);
    add_bf16(&st, layer_name(layer, "self_attn.o_proj.weight"), HIDDEN, q);
}

static void build_v1(void)
{
    clean_folder();
    add_ends(true);
    for (int layer = 0; layer < 2; layer++)
        add_attention(layer, HIDDEN, HIDDEN);
    add_ffn("model.layers.0.mlp.", 96);
    add_ffn("model.layers.1.mlp.shared_experts.", 2 * EXPERT);
    add_bf16(&st, "model.layers.1.mlp.gate.weight", EXPERTS, HIDDEN);
    for (int e = 0; e < EXPERTS; e++) {
        char prefix[80];
        snprintf(prefix, sizeof prefix, "model.layers.1.mlp.experts.%d.", e);
        add_ffn(prefix, EXPERT);
    }
    st_write(&st, "model.safetensors");
    write_text("config.json", v1_config);
    write_tokenizer(V3_REGEX);
}

static void build_qwen3(void)
{
    clean_folder();
    add_ends(false);
    add_attention(0, 128, 64);
    add_bf16(&st, "model.layers.0.self_attn.q_norm.weight", 0, 32);
    add_bf16(&st, "model.layers.0.self_attn.k_norm.weight", 0, 32);
    add_ffn("model.layers.0.mlp.", 96);
    st_write(&st, "model.safetensors");
    write_text("config.json", qwen3_config);
    write_tokenizer(V3_REGEX);
}

static const float *floats(const struct gguf *g, const char *name, uint64_t n)
{
    const struct tensor *t = gguf_tensor(g, name);
    bool ok = CHECK_MSG(t && t->type == TYPE_F32 && t->ne[0] * t->ne[1] * t->ne[2] == n,
                        "%s is missing or another one", name);
    return ok ? t->data : NULL;
}

/* n values of the file from `at` on are those of a tensor of the checkpoint. */
static void check_values(const float *found, const char *source, int n)
{
    int wrong = 0;
    for (int i = 0; found && i < n; i++)
        wrong += found[i] != value_of(source, i);
    CHECK_MSG(wrong == 0, "%s: %d of %d", source, wrong, n);
}

/* Row r of a head in the file: the checkpoint keeps the halves of the pairs apart. */
static void check_rotary(const struct gguf *g, const char *name, const char *source, int heads,
                         int width)
{
    const float *v = floats(g, name, (uint64_t)(heads * width * HIDDEN));
    int wrong = 0;
    for (int r = 0; v && r < heads * width; r++) {
        int head = r / width, i = r % width, from = head * width + i % 2 * (width / 2) + i / 2;
        for (int c = 0; c < HIDDEN; c++)
            wrong += v[r * HIDDEN + c] != value_of(source, (int64_t)from * HIDDEN + c);
    }
    CHECK_MSG(wrong == 0, "%s: %d values", name, wrong);
}

static bool convert_to(const char *out, const char *type)
{
    char options[900], said[2000];
    snprintf(options, sizeof options, "-o %s --force --type %s", out, type);
    int code = convert(options, said);
    return CHECK_MSG(code == 0, "exit %d: %s", code, said);
}

/* It answers, and its canary is in order. */
static void check_answers(const char *out)
{
    char line[900], said[3000];
    snprintf(line, sizeof line, "inspect %s --verify", out);
    CHECK_MSG(run_tandem(line, said, sizeof said) == 0 && strstr(said, "canary answers"), "%s", said);
    snprintf(line, sizeof line, "run %s --raw -p th -n 3 --temp 0 -t 2", out);
    CHECK_MSG(run_tandem(line, said, sizeof said) == 0, "%s", said);
}

static void test_v1(void)
{
    struct model m = { 0 };
    struct error err = { 0 };
    char out[300];
    check_case("DeepSeek V1: names, rotary rows, experts side by side");
    snprintf(out, sizeof out, "%s", in_folder("v1.gguf"));
    build_v1();
    if (!convert_to(out, "f32") ||
        !CHECK_MSG(model_open(&m, out, NUMERICS_OFFICIAL, &err), "%s", err.text))
        return;
    CHECK_STR(m.arch->name, "deepseek");
    CHECK_INT(m.params.n_routed, EXPERTS);
    CHECK_INT(m.params.n_shared, 2);
    CHECK_INT(m.params.n_dense_lead, 1);
    check_rotary(&m.gguf, "blk.1.attn_q.weight", "model.layers.1.self_attn.q_proj.weight", 4, 16);
    check_rotary(&m.gguf, "blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", 4, 16);
    check_values(floats(&m.gguf, "blk.1.attn_v.weight", HIDDEN * HIDDEN),
                 "model.layers.1.self_attn.v_proj.weight", HIDDEN * HIDDEN);
    check_values(floats(&m.gguf, "blk.1.ffn_gate_inp.weight", EXPERTS * HIDDEN),
                 "model.layers.1.mlp.gate.weight", EXPERTS * HIDDEN);
    check_values(floats(&m.gguf, "blk.1.ffn_up_shexp.weight", 2 * EXPERT * HIDDEN),
                 "model.layers.1.mlp.shared_experts.up_proj.weight", 2 * EXPERT * HIDDEN);
    const float *down = floats(&m.gguf, "blk.1.ffn_down_exps.weight", EXPERTS * EXPERT * HIDDEN);
    for (int e = 0; e < EXPERTS; e++) {
        char source[100];
        snprintf(source, sizeof source, "model.layers.1.mlp.experts.%d.down_proj.weight", e);
        check_values(down ? down + e * EXPERT * HIDDEN : NULL, source, EXPERT * HIDDEN);
    }
    model_close(&m);
    check_answers(out);
    check_case("DeepSeek V1: quantized on the way");
    if (convert_to(out, "q8_0"))
        check_answers(out);
}

static void test_qwen3(void)
{
    struct model m = { 0 };
    struct error err = { 0 };
    char out[300];
    check_case("Qwen3: head size of its own, norms of heads, tied head");
    snprintf(out, sizeof out, "%s", in_folder("qwen3.gguf"));
    build_qwen3();
    if (!convert_to(out, "f32") ||
        !CHECK_MSG(model_open(&m, out, NUMERICS_OFFICIAL, &err), "%s", err.text))
        return;
    CHECK_STR(m.arch->name, "qwen3");
    CHECK_INT(m.params.head_dim, 32);
    CHECK(m.params.tied_output && !gguf_tensor(&m.gguf, "output.weight"));
    check_values(floats(&m.gguf, "blk.0.attn_q.weight", 128 * HIDDEN),
                 "model.layers.0.self_attn.q_proj.weight", 128 * HIDDEN);
    check_values(floats(&m.gguf, "blk.0.attn_q_norm.weight", 32),
                 "model.layers.0.self_attn.q_norm.weight", 32);
    model_close(&m);
    check_answers(out);
}

int main(void)
{
    if (!checkpoint_open("more checkpoints"))
        return check_finish();
    test_v1();
    test_qwen3();
    checkpoint_close();
    return check_finish();
}
