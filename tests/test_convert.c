/* Conversion of checkpoints that the test builds itself: a small V3 with FP8 in two files, rotary
 * rows of llama, a tied head, every stored form. What the file must hold is computed here from the
 * same numbers, with its own idea of FP8, and compared bit for bit. Damage: test_convert_faults.c. */
#include "src/format/gguf.h"
#include "src/model/model.h"
#include "src/text/tokenizer.h"
#include "tests/checkpoint_v3.h"

static void add_mtp(struct st *s)
{
    add_layer(s, 2, true);
    add_bf16(s, "model.layers.2.eh_proj.weight", HIDDEN, 2 * HIDDEN);
    add_bf16(s, "model.layers.2.enorm.weight", 0, HIDDEN);
    add_bf16(s, "model.layers.2.hnorm.weight", 0, HIDDEN);
    add_bf16(s, "model.layers.2.shared_head.norm.weight", 0, HIDDEN);
}

/* ---- comparing ---- */

static const float *floats(const struct gguf *g, const char *name, uint64_t n)
{
    const struct tensor *t = gguf_tensor(g, name);
    if (!CHECK_MSG(t && t->type == TYPE_F32, "%s is missing or not F32", name) ||
        !CHECK_MSG(t->ne[0] * t->ne[1] * t->ne[2] == n, "%s has another size", name))
        return NULL;
    return t->data;
}

static void check_fp8(const struct gguf *g, const char *name, const char *source, int expert,
                      int rows,
                      int cols)
{
    const float *v = floats(g, name, (uint64_t)rows * (uint64_t)cols * (expert >= 0 ? 4 : 1));
    v = v && expert > 0 ? v + expert * rows * cols : v;
    for (int i = 0; v && i < rows * cols; i++)
        if (!CHECK_MSG(v[i] == fp8_wanted(source, i / cols, i % cols, cols),
                       "%s[%d] is %.9g, wanted %.9g",
                       name, i, (double)v[i], (double)fp8_wanted(source, i / cols, i % cols, cols)))
            return;
}

static void check_plain(const struct gguf *g, const char *name, const char *source, int n)
{
    const float *v = floats(g, name, (uint64_t)n);
    for (int i = 0; v && i < n; i++)
        if (!CHECK_MSG(v[i] == value_of(source, i), "%s[%d]", name, i))
            return;
}

static void check_kv_b(const struct gguf *g, int layer)
{
    char k_name[64], v_name[64];
    const char *source = layer_name(layer, "self_attn.kv_b_proj.weight");
    snprintf(k_name, sizeof k_name, "blk.%d.attn_k_b.weight", layer);
    snprintf(v_name, sizeof v_name, "blk.%d.attn_v_b.weight", layer);
    const float *k = floats(g, k_name, 2 * RANK * NOPE), *v = floats(g, v_name, 2 * RANK * VALUE);
    int wrong = 0;
    for (int h = 0; k && v && h < 2; h++)
        for (int r = 0; r < RANK; r++)
            for (int i = 0; i < NOPE; i++) {
                int key = h * (NOPE + VALUE) + i;
                wrong += k[(h * RANK + r) * NOPE + i] != fp8_wanted(source, key, r, RANK);
                wrong += v[(h * VALUE + i) * RANK + r] != fp8_wanted(source, key + NOPE, r, RANK);
            }
    CHECK_INT(wrong, 0);
}

static void check_v3_tensors(const struct gguf *g, bool mtp)
{
    check_plain(g, "output_norm.weight", "model.norm.weight", HIDDEN);
    check_plain(g, "token_embd.weight", "model.embed_tokens.weight", N_VOCAB * HIDDEN);
    check_plain(g, "output.weight", "lm_head.weight", N_VOCAB * HIDDEN);
    check_fp8(g, "blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight", -1, 160, HIDDEN);
    check_fp8(g, "blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight", -1, HIDDEN, 160);
    check_plain(g, "blk.1.exp_probs_b.bias", "model.layers.1.mlp.gate.e_score_correction_bias", 4);
    check_plain(g, "blk.1.ffn_gate_inp.weight", "model.layers.1.mlp.gate.weight", 4 * HIDDEN);
    for (int layer = 0; layer < (mtp ? 3 : 2); layer++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.attn_kv_a_mqa.weight", layer);
        check_fp8(g, name, layer_name(layer, "self_attn.kv_a_proj_with_mqa.weight"), -1, RANK + 8,
                  HIDDEN);
        check_kv_b(g, layer);
        for (int e = 0; layer > 0 && e < 4; e++) {
            char rest[64];
            snprintf(rest, sizeof rest, "mlp.experts.%d.down_proj.weight", e);
            snprintf(name, sizeof name, "blk.%d.ffn_down_exps.weight", layer);
            check_fp8(g, name, layer_name(layer, rest), e, HIDDEN, 32);
        }
    }
    if (mtp)
        check_plain(g, "blk.2.nextn.eh_proj.weight", "model.layers.2.eh_proj.weight",
                    2 * HIDDEN * HIDDEN);
}

static void check_tokenizer(const struct gguf *g)
{
    struct tokenizer *t = NULL;
    struct tokens ids = { 0 };
    struct error err = { 0 };
    CHECK_MSG(tokenizer_open(&t, g, &err), "%s", err.text);
    if (t && CHECK(tokenizer_encode(t, str_of("the <|end|>"), true, &ids, &err)) &&
        CHECK(ids.n == 3)) {
        CHECK_INT(ids.ids[0], 257);
        CHECK_INT(ids.ids[1], 32);
        CHECK_INT(ids.ids[2], 259);
    }
    CHECK_STR(t ? tokenizer_pre(t).data : "", "deepseek-v3");
    CHECK_INT(t ? tokenizer_bos(t) : -1, 258);
    CHECK_INT(t ? tokenizer_eos(t) : -1, 259);
    CHECK(t && tokenizer_add_bos(t));
    CHECK_INT(t ? tokenizer_n_tokens(t) : -1, N_VOCAB);
    tokens_release(&ids);
    tokenizer_close(t);
}

/* ---- cases ---- */

static void test_v3(void)
{
    char said[2000];
    struct model m = { 0 };
    struct error err = { 0 };
    size_t n1 = 0, n2 = 0;

    check_case("V3: FP8 with partial blocks, two files, prediction block");
    build_v3();
    add_mtp(&shards[1]);
    write_shards("");
    char out[700], options[900];
    snprintf(out, sizeof out, "%s", in_folder("v3.gguf"));
    snprintf(options, sizeof options, "-o %s --type f32 --name small -t 2", out);
    int code = convert(options, said);
    if (CHECK_MSG(code == 0, "exit %d: %s", code, said) &&
        CHECK_MSG(model_open(&m, out, NUMERICS_OFFICIAL, &err), "%s", err.text)) {
        CHECK_INT(m.params.n_mtp, 1);
        CHECK_INT(m.params.n_layers, 2);
        CHECK_INT(m.params.kv_lora_rank, RANK);
        CHECK(fabs(m.keys.yarn_log_multiplier - 0.1) < 1e-6);
        CHECK_INT(m.keys.n_groups, 2);
        CHECK_INT(m.keys.gating, 2);
        CHECK(m.keys.weights_norm);
        check_v3_tensors(&m.gguf, true);
        check_tokenizer(&m.gguf);
    }
    model_close(&m);

    check_case("the same bytes with another number of threads, nothing but them left behind");
    snprintf(options, sizeof options, "-o %s --type f32 --name small -t 1",
             in_folder("again.gguf"));
    CHECK_INT(convert(options, said), 0);
    char *one = check_read_file(out, &n1), *two = check_read_file(in_folder("again.gguf"), &n2);
    CHECK(one && two && n1 == n2 && memcmp(one, two, n1) == 0);
    CHECK(one && !memmem(one, n1, folder, strlen(folder)));
    CHECK(access(in_folder(".v3.gguf.part"), F_OK) != 0);
    free(one);
    free(two);

    check_case("an output that exists, that is an input");
    snprintf(options, sizeof options, "-o %s", out);
    CHECK_INT(convert(options, said), 2);
    CHECK(strstr(said, "--force"));
    snprintf(options, sizeof options, "-o %s --force", in_folder(shard_names[1]));
    CHECK_INT(convert(options, said), 2);

    check_case("--no-mtp leaves the block out, native types, several files");
    snprintf(options, sizeof options, "-o %s --no-mtp --split-max-size 150K",
             in_folder("cut.gguf"));
    CHECK_INT(convert(options, said), 0);
    char *first = realpath(in_folder("cut-00001-of-00002.gguf"), NULL);
    if (CHECK_MSG(first && model_open(&m, first, NUMERICS_OFFICIAL, &err), "%s %s", said,
                  err.text)) {
        CHECK_INT(m.params.n_mtp, 0);
        const struct tensor *t = gguf_tensor(&m.gguf, "blk.1.ffn_gate_exps.weight");
        CHECK(t && t->type == TYPE_Q8_0);
        t = gguf_tensor(&m.gguf, "token_embd.weight");
        CHECK(t && t->type == TYPE_BF16);
    }
    model_close(&m);
    free(first);
}

/* hf half-split rows (i, i + half) become pairs (2i, 2i + 1) */
static void check_permuted(const struct gguf *g, const char *name, const char *source, int heads,
                           int head, int cols)
{
    const float *v = floats(g, name, (uint64_t)(heads * head * cols));
    int wrong = 0;
    for (int h = 0; v && h < heads; h++)
        for (int p = 0; p < head / 2; p++)
            for (int s = 0; s < 2; s++)
                for (int c = 0; c < cols; c++)
                    wrong += v[(h * head + 2 * p + s) * cols + c] !=
                             value_of(source, (int64_t)(h * head + s * (head / 2) + p) * cols + c);
    CHECK_INT(wrong, 0);
}

static void build_llama(void)
{
    struct st *s = &shards[0];
    clean_folder();
    st_start(s);
    add_bf16(s, "model.embed_tokens.weight", N_VOCAB, HIDDEN);
    add_bf16(s, "model.norm.weight", 0, HIDDEN);
    add_bf16(s, "model.layers.0.input_layernorm.weight", 0, HIDDEN);
    add_bf16(s, "model.layers.0.post_attention_layernorm.weight", 0, HIDDEN);
    add_bf16(s, "model.layers.0.self_attn.q_proj.weight", 64, HIDDEN);
    add_f32(s, "model.layers.0.self_attn.q_proj.bias", 0, 64);
    add_bf16(s, "model.layers.0.self_attn.k_proj.weight", 32, HIDDEN);
    add_bf16(s, "model.layers.0.self_attn.v_proj.weight", 32, HIDDEN);
    add_bf16(s, "model.layers.0.self_attn.o_proj.weight", HIDDEN, 64);
    add_bf16(s, "model.layers.0.mlp.gate_proj.weight", 96, HIDDEN);
    add_bf16(s, "model.layers.0.mlp.up_proj.weight", 96, HIDDEN);
    add_bf16(s, "model.layers.0.mlp.down_proj.weight", HIDDEN, 96);
    write_text("config.json", llama_config);
    write_tokenizer(V3_REGEX);
}

static void test_llama(void)
{
    char said[2000], out[700], options[900];
    struct model m = { 0 };
    struct error err = { 0 };
    check_case("llama: rotary rows, biases, rope_freqs, tied head");
    build_llama();
    st_write(&shards[0], "model.safetensors");
    snprintf(out, sizeof out, "%s", in_folder("llama.gguf"));
    snprintf(options, sizeof options, "-o %s --type f32", out);
    int code = convert(options, said);
    if (!CHECK_MSG(code == 0, "exit %d: %s", code, said) ||
        !CHECK_MSG(model_open(&m, out, NUMERICS_OFFICIAL, &err), "%s", err.text))
        return;
    check_permuted(&m.gguf, "blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight", 4, 16,
                   64);
    check_permuted(&m.gguf, "blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight", 2, 16,
                   64);
    check_permuted(&m.gguf, "blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias", 4, 16, 1);
    check_plain(&m.gguf, "blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight", 32 * 64);
    CHECK(!gguf_tensor(&m.gguf, "output.weight"));
    CHECK(m.params.tied_output);
    const float *f = floats(&m.gguf, "rope_freqs.weight", 8);
    CHECK(f && f[0] == 1 && f[7] == 8 && f[4] > 1 && f[4] < 8);
    model_close(&m);
}

/* ---- stored forms ---- */

static void add_f16(struct st *s, const char *name, int rows, int cols)
{
    static uint16_t v[1 << 15];
    for (int i = 0; i < rows * cols; i++)
        v[i] = f32_to_f16(value_of(name, i));
    st_add(s, name, "F16", rows, cols, v, (size_t)(rows * cols) * 2);
}

/* FP8 of one block, its scale 1.5 or 2^-5 in the type asked for. */
static void add_fp8_scaled(struct st *s, const char *name, int rows, int cols, const char *dtype)
{
    static uint8_t v[1 << 14];
    char scale_name[120];
    uint16_t half = f32_to_bf16(1.5f);
    uint8_t power = 122;
    bool e8m0 = strcmp(dtype, "F8_E8M0") == 0;
    for (int i = 0; i < rows * cols; i++)
        v[i] = fp8_code(name, i);
    st_add(s, name, "F8_E4M3", rows, cols, v, (size_t)(rows * cols));
    snprintf(scale_name, sizeof scale_name, "%s_scale_inv", name);
    st_add(s, scale_name, dtype, 1, 1, e8m0 ? (const void *)&power : &half, e8m0 ? 1 : 2);
}

static void check_scaled(const struct gguf *g, const char *name, const char *source, int n,
                         float scale)
{
    const float *v = floats(g, name, (uint64_t)n);
    int wrong = 0;
    for (int i = 0; v && i < n; i++)
        wrong += v[i] != fp8_value(fp8_code(source, i)) * scale;
    CHECK_MSG(wrong == 0, "%s: %d of %d", name, wrong, n);
}

static void test_forms(void)
{
    static const char config[] =
        "{\"architectures\":[\"Qwen2ForCausalLM\"],\"num_hidden_layers\":1,\"hidden_size\":64,"
        "\"vocab_size\":264,\"max_position_embeddings\":512,\"intermediate_size\":96,"
        "\"num_attention_heads\":4,\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5,"
        "\"tie_word_embeddings\":true,\"quantization_config\":{\"quant_method\":\"fp8\","
        "\"fmt\":\"e4m3\",\"weight_block_size\":[128,128]}}";
    char said[2000], out[700], options[900];
    struct gguf g = { 0 };
    struct error err = { 0 };
    struct st *s = &shards[0];
    check_case("F32, F16, BF16, FP8 with scales in F32, BF16 and E8M0");
    clean_folder();
    st_start(s);
    add_bf16(s, "model.embed_tokens.weight", N_VOCAB, HIDDEN);
    add_f16(s, layer_name(0, "self_attn.q_proj.weight"), 64, HIDDEN);
    add_f32(s, layer_name(0, "self_attn.k_proj.weight"), 32, HIDDEN);
    add_bf16(s, layer_name(0, "self_attn.v_proj.weight"), 32, HIDDEN);
    add_fp8(s, layer_name(0, "self_attn.o_proj.weight"), HIDDEN, 64);
    add_fp8_scaled(s, layer_name(0, "mlp.gate_proj.weight"), 96, HIDDEN, "BF16");
    add_fp8_scaled(s, layer_name(0, "mlp.up_proj.weight"), 96, HIDDEN, "F8_E8M0");
    add_f16(s, layer_name(0, "mlp.down_proj.weight"), HIDDEN, 96);
    add_bf16(s, "model.norm.weight", 0, HIDDEN);
    add_bf16(s, layer_name(0, "input_layernorm.weight"), 0, HIDDEN);
    add_bf16(s, layer_name(0, "post_attention_layernorm.weight"), 0, HIDDEN);
    for (int i = 0; i < 3; i++) {
        char name[40];
        snprintf(name, sizeof name, "self_attn.%c_proj.bias", "qkv"[i]);
        add_f32(s, layer_name(0, name), 0, i ? 32 : 64);
    }
    st_write(s, "model.safetensors");
    write_text("config.json", config);
    write_tokenizer(V3_REGEX);
    snprintf(out, sizeof out, "%s", in_folder("forms.gguf"));
    snprintf(options, sizeof options, "-o %s --type f32", out);
    int code = convert(options, said);
    if (CHECK_MSG(code == 0, "exit %d: %s", code, said) &&
        CHECK_MSG(gguf_open(&g, out, &err), "%s", err.text)) {
        check_plain(&g, "blk.0.attn_q.weight", layer_name(0, "self_attn.q_proj.weight"), 64 * 64);
        check_plain(&g, "blk.0.attn_k.weight", layer_name(0, "self_attn.k_proj.weight"), 32 * 64);
        check_plain(&g, "blk.0.attn_v.weight", layer_name(0, "self_attn.v_proj.weight"), 32 * 64);
        check_plain(&g, "blk.0.ffn_down.weight", layer_name(0, "mlp.down_proj.weight"), 64 * 96);
        check_fp8(&g, "blk.0.attn_output.weight", layer_name(0, "self_attn.o_proj.weight"), -1,
                  HIDDEN, 64);
        check_scaled(&g, "blk.0.ffn_gate.weight", layer_name(0, "mlp.gate_proj.weight"), 96 * 64,
                     1.5f);
        check_scaled(&g, "blk.0.ffn_up.weight", layer_name(0, "mlp.up_proj.weight"), 96 * 64,
                     1.0f / 32);
    }
    gguf_close(&g);

    check_case("native types of the same");
    snprintf(options, sizeof options, "-o %s --force", out);
    CHECK_INT(convert(options, said), 0);
    if (CHECK_MSG(gguf_open(&g, out, &err), "%s", err.text)) {
        static const struct { const char *name; enum tensor_type type; } wanted[] = {
            { "blk.0.attn_q.weight", TYPE_F16 }, { "blk.0.attn_k.weight", TYPE_F32 },
            { "blk.0.attn_v.weight", TYPE_BF16 }, { "blk.0.attn_output.weight", TYPE_Q8_0 },
            { "blk.0.ffn_up.weight", TYPE_Q8_0 }, { "blk.0.attn_norm.weight", TYPE_F32 },
        };
        for (size_t i = 0; i < ARRAY_LEN(wanted); i++) {
            const struct tensor *t = gguf_tensor(&g, wanted[i].name);
            CHECK_MSG(t && t->type == wanted[i].type, "%s", wanted[i].name);
        }
    }
    gguf_close(&g);
}

int main(void)
{
    if (!checkpoint_open("conversion"))
        return check_finish();
    test_v3();
    test_llama();
    test_forms();
    checkpoint_close();
    return check_finish();
}
