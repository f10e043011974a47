/* V3.2 and V4 checkpoints that the test builds itself: FP4 experts taken over code by code, FP8 with
 * power-of-two scales, tables of experts, hyper-connections, compressors, indexers; and what damaged
 * ones must say. Dimensions are the smallest that fill a block of FP4. */
#include "src/format/gguf.h"
#include "src/model/model.h"
#include "tests/checkpoint.h"

#define N_VOCAB CHECKPOINT_VOCAB
enum {
    HIDDEN = 64, HEADS = 4, HEAD = 32, ROTARY = 8, Q_LORA = 32, GROUPS = 2, OUT_LORA = 16,
    EXPERTS = 4, TOP_K = 2, EXPERT = 32, INDEX_HEADS = 2, INDEX = 16, LAYERS = 4,
};
static const int ratios[LAYERS] = { 0, 4, 128, 4 };

static const char v4_config[] =
    "{\"architectures\":[\"DeepseekV4ForCausalLM\"],\"num_hidden_layers\":4,"
    "\"num_nextn_predict_layers\":1,\"hidden_size\":64,\"vocab_size\":264,"
    "\"max_position_embeddings\":4096,\"num_attention_heads\":4,\"num_key_value_heads\":1,"
    "\"head_dim\":32,\"qk_rope_head_dim\":8,\"q_lora_rank\":32,\"o_groups\":2,\"o_lora_rank\":16,"
    "\"n_routed_experts\":4,\"num_experts_per_tok\":2,\"n_shared_experts\":1,"
    "\"moe_intermediate_size\":32,\"routed_scaling_factor\":1.5,\"norm_topk_prob\":true,"
    "\"scoring_func\":\"sqrtsoftplus\",\"topk_method\":\"noaux_tc\",\"num_hash_layers\":1,"
    "\"hc_mult\":4,\"hc_sinkhorn_iters\":20,\"hc_eps\":1e-6,\"swiglu_limit\":10.0,"
    "\"index_n_heads\":2,\"index_head_dim\":16,\"index_topk\":8,\"sliding_window\":16,"
    "\"compress_ratios\":[0,4,128,4,0],\"compress_rope_theta\":160000,\"rope_theta\":10000,"
    "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":16,\"original_max_position_embeddings\":64,"
    "\"beta_fast\":32,\"beta_slow\":1},\"rms_norm_eps\":1e-6,\"quantization_config\":{"
    "\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,128]}}";

static struct st st;

/* ---- stored forms ---- */

static int fp4_code(const char *name, int64_t i)
{
    return ((int)(fabsf(value_of(name, i)) * 64) + (int)(i / 3)) & 15;
}

static uint8_t exponent(const char *name, int64_t i)
{
    return (uint8_t)(110 + (int)(fabsf(value_of(name, i)) * 8) % 16);
}

static float fp4_value(int code)
{
    static const float values[8] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6 };
    return code & 8 ? -values[code & 7] : values[code & 7];
}

/* NAME.weight becomes NAME.scale. */
static const char *beside(const char *name)
{
    static char text[120];
    snprintf(text, sizeof text, "%.*s.scale", (int)(strlen(name) - strlen(".weight")), name);
    return text;
}

static void add_fp4(const char *name, int rows, int cols)
{
    uint8_t codes[HIDDEN * HIDDEN / 2], scales[HIDDEN * 2];
    for (int i = 0; i < rows * cols / 2; i++)
        codes[i] = (uint8_t)(fp4_code(name, 2 * i) | fp4_code(name, 2 * i + 1) << 4);
    for (int i = 0; i < rows * cols / 32; i++)
        scales[i] = exponent(name, i);
    st_add(&st, name, "I8", rows, cols / 2, codes, (size_t)(rows * cols / 2));
    st_add(&st, beside(name), "F8_E8M0", rows, cols / 32, scales, (size_t)(rows * cols / 32));
}

static void add_e8m0(const char *name, int rows, int cols)
{
    static uint8_t codes[1 << 16];
    uint8_t scale = exponent(name, 0);
    for (int i = 0; i < rows * cols; i++)
        codes[i] = fp8_code(name, i);
    st_add(&st, name, "F8_E4M3", rows, cols, codes, (size_t)(rows * cols));
    st_add(&st, beside(name), "F8_E8M0", 1, 1, &scale, 1);
}

static int64_t expert_of(int token, int k)
{
    return (token * 7 + k * 3) % EXPERTS;
}

static void add_table(const char *name, bool wide)
{
    static int64_t ids[N_VOCAB * TOP_K];
    static int32_t narrow[N_VOCAB * TOP_K];
    for (int i = 0; i < N_VOCAB * TOP_K; i++)
        narrow[i] = (int32_t)(ids[i] = expert_of(i / TOP_K, i % TOP_K));
    if (wide)
        st_add(&st, name, "I64", N_VOCAB, TOP_K, ids, sizeof ids);
    else
        st_add(&st, name, "I32", N_VOCAB, TOP_K, narrow, sizeof narrow);
}

/* ---- V4 ---- */

static const char *part(const char *prefix, const char *rest)
{
    static char ring[8][120];
    static int next;
    char *name = ring[next++ % 8];
    snprintf(name, sizeof ring[0], "%s%s", prefix, rest);
    return name;
}

static void add_streams(const char *p)
{
    add_f32(&st, part(p, "hc_attn_fn"), 24, 4 * HIDDEN);
    add_f32(&st, part(p, "hc_attn_base"), 0, 24);
    add_f32(&st, part(p, "hc_attn_scale"), 0, 3);
    add_f32(&st, part(p, "hc_ffn_fn"), 24, 4 * HIDDEN);
    add_f32(&st, part(p, "hc_ffn_base"), 0, 24);
    add_f32(&st, part(p, "hc_ffn_scale"), 0, 3);
}

static void add_attention(const char *p, int ratio)
{
    int width = ratio == 4 ? 2 : 1;
    add_bf16(&st, part(p, "attn_norm.weight"), 0, HIDDEN);
    add_e8m0(part(p, "attn.wq_a.weight"), Q_LORA, HIDDEN);
    add_bf16(&st, part(p, "attn.q_norm.weight"), 0, Q_LORA);
    add_e8m0(part(p, "attn.wq_b.weight"), HEADS * HEAD, Q_LORA);
    add_e8m0(part(p, "attn.wkv.weight"), HEAD, HIDDEN);
    add_bf16(&st, part(p, "attn.kv_norm.weight"), 0, HEAD);
    add_e8m0(part(p, "attn.wo_a.weight"), GROUPS * OUT_LORA, HEADS / GROUPS * HEAD);
    add_e8m0(part(p, "attn.wo_b.weight"), HIDDEN, GROUPS * OUT_LORA);
    add_f32(&st, part(p, "attn.attn_sink"), 0, HEADS);
    if (!ratio)
        return;
    add_bf16(&st, part(p, "attn.compressor.wkv.weight"), width * HEAD, HIDDEN);
    add_bf16(&st, part(p, "attn.compressor.wgate.weight"), width * HEAD, HIDDEN);
    add_f32(&st, part(p, "attn.compressor.ape"), ratio, width * HEAD);
    add_bf16(&st, part(p, "attn.compressor.norm.weight"), 0, HEAD);
    if (ratio != 4)
        return;
    add_e8m0(part(p, "attn.indexer.wq_b.weight"), INDEX_HEADS * INDEX, Q_LORA);
    add_bf16(&st, part(p, "attn.indexer.weights_proj.weight"), INDEX_HEADS, HIDDEN);
    add_bf16(&st, part(p, "attn.indexer.compressor.wkv.weight"), 2 * INDEX, HIDDEN);
    add_bf16(&st, part(p, "attn.indexer.compressor.wgate.weight"), 2 * INDEX, HIDDEN);
    add_f32(&st, part(p, "attn.indexer.compressor.ape"), 4, 2 * INDEX);
    add_bf16(&st, part(p, "attn.indexer.compressor.norm.weight"), 0, INDEX);
}

static void add_experts(const char *p, bool hashed, bool wide)
{
    add_bf16(&st, part(p, "ffn_norm.weight"), 0, HIDDEN);
    add_bf16(&st, part(p, "ffn.gate.weight"), EXPERTS, HIDDEN);
    if (hashed)
        add_table(part(p, "ffn.gate.tid2eid"), wide);
    else
        add_f32(&st, part(p, "ffn.gate.bias"), 0, EXPERTS);
    for (int e = 0; e < EXPERTS; e++) {
        char name[64];
        snprintf(name, sizeof name, "ffn.experts.%d.w1.weight", e);
        add_fp4(part(p, name), EXPERT, HIDDEN);
        snprintf(name, sizeof name, "ffn.experts.%d.w2.weight", e);
        add_fp4(part(p, name), HIDDEN, EXPERT);
        snprintf(name, sizeof name, "ffn.experts.%d.w3.weight", e);
        add_fp4(part(p, name), EXPERT, HIDDEN);
    }
    add_e8m0(part(p, "ffn.shared_experts.w1.weight"), EXPERT, HIDDEN);
    add_e8m0(part(p, "ffn.shared_experts.w2.weight"), HIDDEN, EXPERT);
    add_e8m0(part(p, "ffn.shared_experts.w3.weight"), EXPERT, HIDDEN);
}

/* The block for multi-token prediction: no compression, experts by scores. */
static void add_mtp(bool wide)
{
    const char *p = "mtp.0.";
    add_streams(p);
    add_attention(p, 0);
    add_experts(p, false, wide);
    add_e8m0("mtp.0.e_proj.weight", HIDDEN, HIDDEN);
    add_e8m0("mtp.0.h_proj.weight", HIDDEN, HIDDEN);
    add_bf16(&st, "mtp.0.enorm.weight", 0, HIDDEN);
    add_bf16(&st, "mtp.0.hnorm.weight", 0, HIDDEN);
    add_bf16(&st, "mtp.0.norm.weight", 0, HIDDEN);
    add_f32(&st, "mtp.0.hc_head_fn", 4, 4 * HIDDEN);
    add_f32(&st, "mtp.0.hc_head_base", 0, 4);
    add_f32(&st, "mtp.0.hc_head_scale", 0, 1);
}

static void build_v4(bool wide)
{
    clean_folder();
    st_start(&st);
    add_bf16(&st, "embed.weight", N_VOCAB, HIDDEN);
    add_bf16(&st, "head.weight", N_VOCAB, HIDDEN);
    add_bf16(&st, "norm.weight", 0, HIDDEN);
    add_f32(&st, "hc_head_fn", 4, 4 * HIDDEN);
    add_f32(&st, "hc_head_base", 0, 4);
    add_f32(&st, "hc_head_scale", 0, 1);
    for (int i = 0; i < LAYERS; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "layers.%d.", i);
        add_streams(prefix);
        add_attention(prefix, ratios[i]);
        add_experts(prefix, i < 1, wide);
    }
    add_mtp(wide);
    write_text("config.json", v4_config);
    write_tokenizer(V3_REGEX);
}

/* ---- comparing ---- */

static const struct tensor *find(const struct gguf *g, const char *name, enum tensor_type type,
                                 uint64_t n)
{
    const struct tensor *t = gguf_tensor(g, name);
    if (!CHECK_MSG(t != NULL, "%s is missing", name) ||
        !CHECK_MSG(t->type == type, "%s is %s", name, quant_traits(t->type)->name) ||
        !CHECK_MSG(t->ne[0] * t->ne[1] * t->ne[2] == n, "%s has another size", name))
        return NULL;
    return t;
}

static void check_plain(const struct gguf *g, const char *name, const char *source, int n)
{
    const struct tensor *t = find(g, name, TYPE_F32, (uint64_t)n);
    const float *v = t ? t->data : NULL;
    int wrong = 0;
    for (int i = 0; v && i < n; i++)
        wrong += v[i] != value_of(source, i);
    CHECK_MSG(wrong == 0, "%s: %d of %d", name, wrong, n);
}

static void check_e8m0(const struct gguf *g, const char *name, const char *source, int n)
{
    const struct tensor *t = find(g, name, TYPE_F32, (uint64_t)n);
    const float *v = t ? t->data : NULL;
    int wrong = 0;
    for (int i = 0; v && i < n; i++)
        wrong += v[i] != ldexpf(fp8_value(fp8_code(source, i)), exponent(source, 0) - 127);
    CHECK_MSG(wrong == 0, "%s: %d of %d", name, wrong, n);
}

static const char *expert_name(int layer, int e, const char *matrix)
{
    static char name[80];
    snprintf(name, sizeof name, "layers.%d.ffn.experts.%d.%s.weight", layer, e, matrix);
    return name;
}

/* Every code and every scale where the block format has it, nothing else. */
static void check_codes(const struct gguf *g, const char *name, int layer, const char *matrix)
{
    const struct tensor *t = find(g, name, TYPE_MXFP4, (uint64_t)EXPERTS * EXPERT * HIDDEN);
    const uint8_t *block = t ? t->data : NULL;
    int wrong = 0;
    for (int e = 0; block && e < EXPERTS; e++) {
        const char *source = expert_name(layer, e, matrix);
        for (int b = 0; b < EXPERT * HIDDEN / 32; b++, block += 17) {
            wrong += block[0] != exponent(source, b);
            for (int i = 0; i < 32; i++)
                wrong += (block[1 + i % 16] >> (i < 16 ? 0 : 4) & 15) !=
                         fp4_code(source, b * 32 + i);
        }
    }
    CHECK_MSG(wrong == 0, "%s: %d codes or scales differ", name, wrong);
}

static void check_floats(const struct gguf *g, const char *name, int layer, const char *matrix)
{
    const struct tensor *t = find(g, name, TYPE_F32, (uint64_t)EXPERTS * EXPERT * HIDDEN);
    const float *v = t ? t->data : NULL;
    int wrong = 0;
    for (int e = 0; v && e < EXPERTS; e++) {
        const char *source = expert_name(layer, e, matrix);
        for (int i = 0; i < EXPERT * HIDDEN; i++, v++)
            wrong += *v != ldexpf(fp4_value(fp4_code(source, i)), exponent(source, i / 32) - 127);
    }
    CHECK_MSG(wrong == 0, "%s: %d values differ", name, wrong);
}

static void check_keys(const struct gguf *g)
{
    static const struct { const char *name; uint64_t value; } keys[] = {
        { "block_count", 5 }, { "nextn_predict_layers", 1 }, { "embedding_length", 64 }, { "embedding_length_out", 256 },
        { "attention.head_count", 4 }, { "attention.head_count_kv", 1 },
        { "attention.key_length", 32 }, { "attention.value_length", 32 },
        { "attention.q_lora_rank", 32 }, { "attention.sliding_window", 16 },
        { "attention.output_group_count", 2 }, { "attention.output_lora_rank", 16 },
        { "attention.indexer.head_count", 2 }, { "attention.indexer.key_length", 16 },
        { "attention.indexer.top_k", 8 }, { "hyper_connection.count", 4 },
        { "hyper_connection.sinkhorn_iterations", 20 }, { "hash_layer_count", 1 },
        { "expert_count", 4 }, { "expert_used_count", 2 }, { "expert_shared_count", 1 },
        { "expert_feed_forward_length", 32 }, { "expert_gating_func", 4 },
        { "rope.dimension_count", 8 }, { "rope.scaling.original_context_length", 64 },
    };
    struct error err = { 0 };
    for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
        char name[80];
        uint64_t value = 0;
        snprintf(name, sizeof name, "deepseek4.%s", keys[i].name);
        CHECK_MSG(gguf_get_u64(g, name, &value, &err) && value == keys[i].value, "%s is %llu", name,
                  (unsigned long long)value);
    }
    double base = 0;
    CHECK(gguf_get_f64(g, "deepseek4.attention.compress_rope_freq_base", &base, &err) &&
          base == 160000);
    const struct gguf_kv *kv = gguf_array(g, "deepseek4.attention.compress_ratios", GGUF_KIND_INT,
                                          &err);
    CHECK(kv && kv->count == 5 && gguf_int_at(kv, 2) == 128);
    kv = gguf_array(g, "deepseek4.swiglu_clamp_exp", GGUF_KIND_FLOAT, &err);
    CHECK(kv && kv->count == 5 && gguf_float_at(kv, 4) == 10);
    CHECK(!gguf_has(g, "deepseek4.feed_forward_length"));
}

static void check_table(const struct gguf *g)
{
    const struct tensor *t = find(g, "blk.0.ffn_gate_tid2eid.weight", TYPE_I32, N_VOCAB * TOP_K);
    const int32_t *ids = t ? t->data : NULL;
    int wrong = 0;
    for (int i = 0; ids && i < N_VOCAB * TOP_K; i++)
        wrong += ids[i] != expert_of(i / TOP_K, i % TOP_K);
    CHECK_INT(wrong, 0);
    CHECK(t && t->ne[0] == TOP_K && t->ne[1] == N_VOCAB);
}

static bool run(const char *options, const char *name, struct gguf *g)
{
    char said[2000], all[900];
    struct error err = { 0 };
    snprintf(all, sizeof all, "-o %s --force %s", in_folder(name), options);
    int code = convert(all, said);
    return CHECK_MSG(code == 0, "exit %d: %s", code, said) &&
           CHECK_MSG(gguf_open(g, in_folder(name), &err), "%s", err.text);
}

static void test_v4(bool wide)
{
    struct gguf g = { 0 };
    struct model m = { 0 };
    struct error err = { 0 };
    check_case("V4, native types, table of %s", wide ? "I64" : "I32");
    build_v4(wide);
    st_write(&st, "model.safetensors");
    if (!run("", "v4.gguf", &g))
        return;
    check_codes(&g, "blk.1.ffn_gate_exps.weight", 1, "w1");
    check_codes(&g, "blk.3.ffn_down_exps.weight", 3, "w2");
    check_codes(&g, "blk.0.ffn_up_exps.weight", 0, "w3");
    check_table(&g);
    check_keys(&g);
    find(&g, "blk.0.attn_q_a.weight", TYPE_Q8_0, Q_LORA * HIDDEN);
    find(&g, "blk.1.attn_compressor_kv.weight", TYPE_BF16, 2 * HEAD * HIDDEN);
    CHECK(!gguf_tensor(&g, "blk.0.exp_probs_b.bias") && gguf_tensor(&g, "blk.1.exp_probs_b.bias"));
    find(&g, "blk.4.nextn.eh_proj.weight", TYPE_Q8_0, 2 * HIDDEN * HIDDEN);
    gguf_close(&g);
    if (CHECK_MSG(model_open(&m, in_folder("v4.gguf"), NUMERICS_OFFICIAL, &err), "%s", err.text))
        CHECK_INT(m.params.n_mtp, 1);
    model_close(&m);
}

static void rename_tensor(const char *old, const char *new_name)
{
    char *at = strstr(st.header, old);
    if (CHECK(at && strlen(old) == strlen(new_name)))
        memcpy(at, new_name, strlen(old));
}

/* Row r of the matrix: row r of e_proj, then row r of h_proj. */
static void check_beside(const struct gguf *g)
{
    static const char *const sources[] = { "mtp.0.e_proj.weight", "mtp.0.h_proj.weight" };
    const struct tensor *t = find(g, "blk.4.nextn.eh_proj.weight", TYPE_F32, 2 * HIDDEN * HIDDEN);
    const float *v = t ? t->data : NULL;
    int wrong = 0;
    for (int i = 0; v && i < 2 * HIDDEN * HIDDEN; i++) {
        const char *source = sources[i / HIDDEN % 2];
        int at = i / (2 * HIDDEN) * HIDDEN + i % HIDDEN;
        wrong += v[i] != ldexpf(fp8_value(fp8_code(source, at)), exponent(source, 0) - 127);
    }
    CHECK_INT(wrong, 0);
    CHECK(t && t->ne[0] == 2 * HIDDEN);
}

/* Without the block, by wish or because the checkpoint only announces it; more blocks than announced
 * (stages of another way to draft) are left alone. */
static void test_v4_mtp(void)
{
    struct gguf g = { 0 };
    check_case("V4 without its prediction block");
    if (run("--type f32 --no-mtp", "f32.gguf", &g))
        CHECK(!gguf_has(&g, "deepseek4.nextn_predict_layers") &&
              !gguf_tensor(&g, "blk.4.attn_norm.weight"));
    gguf_close(&g);
    build_v4(false);
    rename_tensor("mtp.0.e_proj.weight", "mtp.0.o_proj.weight");
    add_bf16(&st, "mtp.1.enorm.weight", 0, HIDDEN);
    st_write(&st, "model.safetensors");
    if (run("--type f32", "f32.gguf", &g))
        CHECK(!gguf_has(&g, "deepseek4.nextn_predict_layers"));
    gguf_close(&g);
    build_v4(false);
    add_bf16(&st, "mtp.1.enorm.weight", 0, HIDDEN);
    st_write(&st, "model.safetensors");
    if (run("--type f32", "f32.gguf", &g))
        CHECK(gguf_tensor(&g, "blk.4.nextn.enorm.weight") &&
              !gguf_tensor(&g, "blk.5.nextn.enorm.weight"));
    gguf_close(&g);
}

static void test_v4_floats(void)
{
    struct gguf g = { 0 };
    check_case("V4 as F32: every number");
    if (!run("--type f32", "f32.gguf", &g))
        return;
    check_floats(&g, "blk.2.ffn_gate_exps.weight", 2, "w1");
    check_floats(&g, "blk.2.ffn_down_exps.weight", 2, "w2");
    check_e8m0(&g, "blk.1.attn_q_b.weight", "layers.1.attn.wq_b.weight", HEADS * HEAD * Q_LORA);
    check_e8m0(&g, "blk.1.attn_output_a.weight", "layers.1.attn.wo_a.weight", 32 * 64);
    check_e8m0(&g, "blk.3.indexer.attn_q_b.weight", "layers.3.attn.indexer.wq_b.weight", 32 * 32);
    check_plain(&g, "output_hc_fn.weight", "hc_head_fn", 16 * HIDDEN);
    check_plain(&g, "output_hc_scale.weight", "hc_head_scale", 1);
    check_plain(&g, "blk.2.hc_ffn_fn.weight", "layers.2.hc_ffn_fn", 96 * HIDDEN);
    check_plain(&g, "blk.2.attn_compressor_ape.weight", "layers.2.attn.compressor.ape", 128 * HEAD);
    check_plain(&g, "blk.1.indexer_compressor_ape.weight", "layers.1.attn.indexer.compressor.ape",
                4 * 2 * INDEX);
    check_plain(&g, "blk.3.attn_sinks.weight", "layers.3.attn.attn_sink", HEADS);
    check_plain(&g, "blk.3.ffn_gate_inp.weight", "layers.3.ffn.gate.weight", EXPERTS * HIDDEN);
    check_beside(&g);
    check_plain(&g, "blk.4.nextn.shared_head_norm.weight", "mtp.0.norm.weight", HIDDEN);
    check_plain(&g, "blk.4.nextn.hc_head_fn.weight", "mtp.0.hc_head_fn", 16 * HIDDEN);
    check_plain(&g, "blk.4.exp_probs_b.bias", "mtp.0.ffn.gate.bias", EXPERTS);
    gguf_close(&g);
}

/* Rounding what FP4 already rounded is asked for, never done by the way. */
static void test_v4_types(void)
{
    struct gguf g = { 0 };
    char said[2000], options[700];
    check_case("V4 as Q8_0: experts stay FP4 unless asked");
    snprintf(options, sizeof options, "-o %s --type q8_0", in_folder("q8.gguf"));
    CHECK_INT(convert(options, said), 2);
    CHECK_MSG(strstr(said, "--allow-requantize") != NULL, "%s", said);
    if (run("--type q8_0 --tensor-type _exps=mxfp4", "q8.gguf", &g)) {
        check_codes(&g, "blk.1.ffn_gate_exps.weight", 1, "w1");
        find(&g, "token_embd.weight", TYPE_Q8_0, N_VOCAB * HIDDEN);
        find(&g, "blk.0.hc_attn_fn.weight", TYPE_F32, 96 * HIDDEN);
    }
    gguf_close(&g);
    if (run("--type q8_0 --allow-requantize", "q8.gguf", &g))
        find(&g, "blk.1.ffn_gate_exps.weight", TYPE_Q8_0, (uint64_t)EXPERTS * EXPERT * HIDDEN);
    gguf_close(&g);
}

/* ---- damage ---- */

static void refuse(const char *what, const char *word)
{
    char said[2000], options[700];
    check_case("refused: %s", what);
    st_write(&st, "model.safetensors");
    snprintf(options, sizeof options, "-o %s", in_folder("bad.gguf"));
    int code = convert(options, said);
    CHECK_MSG(code == 3 && strstr(said, word), "exit %d, wanted 3 and \"%s\": %s", code, word, said);
    CHECK(access(in_folder("bad.gguf"), F_OK) != 0 &&
          access(in_folder(".bad.gguf.part"), F_OK) != 0 &&
          access(in_folder(".bad.gguf.journal"), F_OK) != 0);
}

static uint8_t *data_of(const char *name)
{
    char wanted[140];
    unsigned long long at = 0;
    snprintf(wanted, sizeof wanted, "\"%s\":", name);
    const char *entry = strstr(st.header, wanted);
    const char *offsets = entry ? strstr(entry, "data_offsets\":[") : NULL;
    bool found = offsets && sscanf(offsets, "data_offsets\":[%llu", &at) == 1;
    CHECK_MSG(found, "no %s", name);
    return st.data + at;
}

static void refuse_config(const char *what, const char *old, const char *new_text, const char *word)
{
    char text[sizeof v4_config + 100];
    const char *at = strstr(v4_config, old);
    build_v4(true);
    if (!CHECK_MSG(at != NULL, "%s", old))
        return;
    snprintf(text, sizeof text, "%.*s%s%s", (int)(at - v4_config), v4_config, new_text,
             at + strlen(old));
    write_text("config.json", text);
    refuse(what, word);
}

static void test_damage(void)
{
    int64_t bad = EXPERTS;
    build_v4(true);
    memcpy(data_of("layers.0.ffn.gate.tid2eid") + 8 * 5, &bad, 8);
    refuse("an expert that does not exist", "row 2, column 1 is 4, expected 0 to 3");
    bad = -1;
    build_v4(true);
    memcpy(data_of("layers.0.ffn.gate.tid2eid"), &bad, 8);
    refuse("a negative expert", "is -1");
    build_v4(true);
    data_of("layers.1.ffn.experts.2.w1.scale")[3] = 255;
    refuse("an FP4 scale that is NaN", "experts.2.w1.scale: row 1, block 1");
    build_v4(true);
    data_of("layers.1.attn.wkv.scale")[0] = 255;
    refuse("an FP8 scale that is NaN", "layers.1.attn.wkv.scale");
    build_v4(true);
    data_of("layers.1.attn.wkv.weight")[65] = 0x7F;
    refuse("an FP8 code that is NaN", "layers.1.attn.wkv.weight: row 1, column 1");
    build_v4(true);
    rename_tensor("layers.1.ffn.experts.2.w1.scale", "layers.1.ffn.experts.2.w1.skale");
    refuse("FP4 without scales", "FP4 without layers.1.ffn.experts.2.w1.scale");
    build_v4(true);
    rename_tensor("layers.1.ffn.experts.2.w1.weight", "layers.1.ffn.experts.9.w1.weight");
    refuse("a missing expert", "layers.1.ffn.experts.2.w1.weight is missing");
    build_v4(true);
    rename_tensor("layers.2.hc_ffn_base", "layers.2.hc_ffn_bose");
    refuse("a missing hyper-connection", "layers.2.hc_ffn_base is missing");
    build_v4(true);
    rename_tensor("mtp.0.h_proj.weight", "mtp.0.o_proj.weight");
    refuse("half of a prediction block's input", "mtp.0.h_proj.weight is missing");
    refuse_config("another ratio", "[0,4,128,4,0]", "[0,4,64,4,0]", "compress_ratios");
    refuse_config("too few ratios", "[0,4,128,4,0]", "[0,4,128]", "compress_ratios");
    refuse_config("eight streams", "\"hc_mult\":4", "\"hc_mult\":8", "hc_mult");
    refuse_config("another scoring", "sqrtsoftplus", "sigmoid", "scoring_func");
    refuse_config("another ratio than the tensors have", "[0,4,128,4,0]", "[0,4,128,128,0]",
                  "config.json implies");
}

/* ---- V3.2 ---- */

static const char v32_config[] =
    "{\"architectures\":[\"DeepseekV32ForCausalLM\"],\"num_hidden_layers\":2,"
    "\"num_nextn_predict_layers\":1,\"hidden_size\":64,\"vocab_size\":264,"
    "\"max_position_embeddings\":512,\"intermediate_size\":160,\"num_attention_heads\":2,"
    "\"num_key_value_heads\":2,\"q_lora_rank\":32,\"kv_lora_rank\":32,\"qk_nope_head_dim\":16,"
    "\"qk_rope_head_dim\":8,\"v_head_dim\":16,\"n_routed_experts\":4,\"num_experts_per_tok\":2,"
    "\"n_shared_experts\":1,\"moe_intermediate_size\":32,\"first_k_dense_replace\":1,\"n_group\":2,"
    "\"topk_group\":1,\"routed_scaling_factor\":2.5,\"norm_topk_prob\":true,"
    "\"scoring_func\":\"sigmoid\",\"topk_method\":\"noaux_tc\",\"rms_norm_eps\":1e-6,"
    "\"index_n_heads\":2,\"index_head_dim\":16,\"index_topk\":8,\"rope_theta\":10000}";

static void add_v32_layer(int i, bool moe)
{
    static const char *const parts[] = { "gate_proj", "up_proj", "down_proj" };
    add_bf16(&st, layer_name(i, "input_layernorm.weight"), 0, HIDDEN);
    add_bf16(&st, layer_name(i, "post_attention_layernorm.weight"), 0, HIDDEN);
    add_bf16(&st, layer_name(i, "self_attn.q_a_proj.weight"), 32, HIDDEN);
    add_bf16(&st, layer_name(i, "self_attn.q_a_layernorm.weight"), 0, 32);
    add_bf16(&st, layer_name(i, "self_attn.q_b_proj.weight"), 48, 32);
    add_bf16(&st, layer_name(i, "self_attn.kv_a_proj_with_mqa.weight"), 40, HIDDEN);
    add_bf16(&st, layer_name(i, "self_attn.kv_a_layernorm.weight"), 0, 32);
    add_bf16(&st, layer_name(i, "self_attn.kv_b_proj.weight"), 64, 32);
    add_bf16(&st, layer_name(i, "self_attn.o_proj.weight"), HIDDEN, 32);
    add_bf16(&st, layer_name(i, "self_attn.indexer.wq_b.weight"), 32, 32);
    add_bf16(&st, layer_name(i, "self_attn.indexer.wk.weight"), 16, HIDDEN);
    add_f32(&st, layer_name(i, "self_attn.indexer.k_norm.weight"), 0, 16);
    add_f32(&st, layer_name(i, "self_attn.indexer.k_norm.bias"), 0, 16);
    add_bf16(&st, layer_name(i, "self_attn.indexer.weights_proj.weight"), 2, HIDDEN);
    for (int k = 0; k < 3 && !moe; k++) {
        char rest[64];
        snprintf(rest, sizeof rest, "mlp.%s.weight", parts[k]);
        add_bf16(&st, layer_name(i, rest), k < 2 ? 160 : HIDDEN, k < 2 ? HIDDEN : 160);
    }
    if (!moe)
        return;
    add_bf16(&st, layer_name(i, "mlp.gate.weight"), 4, HIDDEN);
    add_f32(&st, layer_name(i, "mlp.gate.e_score_correction_bias"), 0, 4);
    for (int e = -1; e < 4; e++)
        for (int k = 0; k < 3; k++) {
            char rest[64], whose[32] = "shared_experts";
            if (e >= 0)
                snprintf(whose, sizeof whose, "experts.%d", e);
            snprintf(rest, sizeof rest, "mlp.%s.%s.weight", whose, parts[k]);
            add_bf16(&st, layer_name(i, rest), k < 2 ? 32 : HIDDEN, k < 2 ? HIDDEN : 32);
        }
}

static void build_v32(void)
{
    clean_folder();
    st_start(&st);
    add_bf16(&st, "model.embed_tokens.weight", N_VOCAB, HIDDEN);
    add_bf16(&st, "model.norm.weight", 0, HIDDEN);
    add_bf16(&st, "lm_head.weight", N_VOCAB, HIDDEN);
    for (int i = 0; i < 3; i++)
        add_v32_layer(i, i > 0);
    add_bf16(&st, "model.layers.2.eh_proj.weight", HIDDEN, 2 * HIDDEN);
    add_bf16(&st, "model.layers.2.enorm.weight", 0, HIDDEN);
    add_bf16(&st, "model.layers.2.hnorm.weight", 0, HIDDEN);
    add_bf16(&st, "model.layers.2.shared_head.norm.weight", 0, HIDDEN);
    write_text("config.json", v32_config);
    write_tokenizer(V3_REGEX);
}

static void test_v32(void)
{
    struct gguf g = { 0 };
    struct model m = { 0 };
    struct error err = { 0 };
    uint64_t value = 0;
    check_case("V3.2: indexer in every layer, also in the prediction block");
    build_v32();
    st_write(&st, "model.safetensors");
    if (!run("--type f32", "v32.gguf", &g))
        return;
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "blk.%d.indexer.attn_k.weight", i);
        check_plain(&g, name, layer_name(i, "self_attn.indexer.wk.weight"), 16 * HIDDEN);
        snprintf(name, sizeof name, "blk.%d.indexer.k_norm.bias", i);
        check_plain(&g, name, layer_name(i, "self_attn.indexer.k_norm.bias"), 16);
        snprintf(name, sizeof name, "blk.%d.indexer.proj.weight", i);
        check_plain(&g, name, layer_name(i, "self_attn.indexer.weights_proj.weight"), 2 * HIDDEN);
    }
    CHECK(gguf_get_u64(&g, "deepseek32.attention.indexer.top_k", &value, &err) && value == 8);
    CHECK(gguf_get_u64(&g, "deepseek32.attention.head_count_kv", &value, &err) && value == 1);
    CHECK(gguf_get_u64(&g, "deepseek32.expert_gating_func", &value, &err) && value == 2);
    gguf_close(&g);
    if (CHECK_MSG(model_open(&m, in_folder("v32.gguf"), NUMERICS_OFFICIAL, &err), "%s", err.text))
        CHECK_INT(m.params.n_mtp, 1);
    model_close(&m);
    rename_tensor("model.layers.1.self_attn.indexer.wk.weight",
                  "model.layers.1.self_attn.indexer.xk.weight");
    refuse("V3.2 with a hole in its indexer", "layers.1.self_attn.indexer.wk.weight is missing");
}

int main(void)
{
    if (!checkpoint_open("conversion of V3.2 and V4"))
        return check_finish();
    test_v4(true);
    test_v4_floats();
    test_v4_types();
    test_v4(false);
    test_v4_mtp();
    test_damage();
    test_v32();
    checkpoint_close();
    return check_finish();
}
