/* Opening and loading: what a file says is believed only within its ranges, tensors must have their
 * exact shapes, and every refusal names the key or tensor, what was found and what was expected. */
#include <math.h>

#include "src/base/mem.h"
#include "src/format/gguf_write.h"
#include "src/model/arch.h"
#include "src/model/memory.h"
#include "tests/tiny_model.h"

/* ---- solved numbers, against values worked out by hand (V2-Lite, V3, Kimi-K2, Llama 3) ---- */

static struct keys yarn_keys(double base, double factor, int64_t original)
{
    return (struct keys){ .rope_base = base, .rope_factor = factor,
                          .rope_scaling = ROPE_SCALING_YARN, .rope_original_context = original };
}

static void check_frequency(const struct rope *r, int pair, double wanted)
{
    double found = r->frequency[pair];
    CHECK_MSG(fabs(found - wanted) <= 1e-6 * wanted, "frequency %d is %.7g, wanted %.7g", pair,
              found, wanted);
}

static void test_rope(void)
{
    static struct rope r;
    struct error err = { 0 };
    struct keys k = yarn_keys(10000, 40, 4096);
    check_case("YaRN frequencies of V3");
    CHECK(rope_solve(&r, &k, ROPE_NORM, 64, 32, 1, 1, NULL, &err));
    check_frequency(&r, 0, 1);
    check_frequency(&r, 10, 5.623413e-2);
    check_frequency(&r, 11, 3.900693e-2);
    check_frequency(&r, 16, 5.5e-3);
    check_frequency(&r, 22, 1.778279e-4);
    check_frequency(&r, 23, 3.333804e-5);
    check_frequency(&r, 31, 3.333804e-6);

    check_case("YaRN frequencies of Kimi-K2: a step between pairs 19 and 20");
    k = yarn_keys(50000, 32, 4096);
    CHECK(rope_solve(&r, &k, ROPE_NORM, 64, 1, 1, 1, NULL, &err));
    check_frequency(&r, 19, pow(50000, -2.0 * 19 / 64));
    check_frequency(&r, 20, pow(50000, -2.0 * 20 / 64) / 32);

    check_case("linear scaling and divisors");
    k = (struct keys){ .rope_base = 100000, .rope_factor = 4, .rope_scaling = ROPE_SCALING_LINEAR };
    const float divisors[4] = { 1, 2, 4, 8 };
    CHECK(rope_solve(&r, &k, ROPE_NORM, 8, 32, 1, 1, divisors, &err));
    check_frequency(&r, 0, 0.25);
    check_frequency(&r, 3, pow(100000, -0.75) / 8 / 4);

    check_case("divisors must be positive numbers");
    const float bad[4] = { 1, NAN, 4, 8 };
    CHECK(!rope_solve(&r, &k, ROPE_NORM, 8, 32, 1, 1, bad, &err));
    CHECK_INT(err.code, ERR_FILE);
}

/* The factor on scores is (1 + y ln s)^2, where the file's y is used as it is. */
static void test_scale(void)
{
    static const struct {
        const char *like;
        double m;
    } rows[] = {
        { "tiny-v3", 1.368887945 },      /* y 0.1, s 40 */
        { "tiny-v2-lite", 1.260803777 }, /* y 0.0707 */
        { "tiny-kimi", 1.346573590 },    /* y 0.1, s 32 */
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char path[256], options[64];
        struct model m;
        struct error err = { 0 };
        check_case("score scale of %s", rows[i].like);
        tiny_path(path, "scale");
        snprintf(options, sizeof options, "--like %s --layers 2", rows[i].like);
        if (tiny_write(path, options) &&
            CHECK_MSG(model_open(&m, path, NUMERICS_OFFICIAL, &err), "%s", err.text)) {
            double wanted = rows[i].m * rows[i].m / sqrt(48);
            CHECK_MSG(fabs((double)m.params.attention_scale - wanted) < 1e-6, "scale %.8f, wanted "
                      "%.8f", (double)m.params.attention_scale, wanted);
            CHECK(m.params.rope.magnitude == 1);
            model_close(&m);
        }
        unlink(path);
    }
}

/* ---- hyper-parameters out of range ---- */

static const char *base_path(void)
{
    static char path[256];
    if (!path[0])
        tiny_path(path, "base");
    return path;
}

static uint32_t float_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* Open the base file with one key's value replaced. */
static bool opens_with(const char *key, uint32_t value, struct error *err)
{
    char full[128];
    uint32_t before, ignored;
    struct model m;
    *err = (struct error){ 0 };
    snprintf(full, sizeof full, "deepseek2.%s", key);
    long offset = tiny_value_offset(base_path(), full);
    if (!CHECK_MSG(tiny_patch(base_path(), offset, &value, &before, 4), "patching %s", key))
        return false;
    bool ok = model_open(&m, base_path(), NUMERICS_OFFICIAL, err);
    if (ok)
        model_close(&m);
    CHECK(tiny_patch(base_path(), offset, &before, &ignored, 4));
    return ok;
}

static void check_refused(const char *key, uint32_t value, const char *shown)
{
    struct error err;
    CHECK_MSG(!opens_with(key, value, &err), "%s = %s is accepted", key, shown);
    CHECK_MSG(err.code == ERR_FILE, "%s = %s: code %d", key, shown, (int)err.code);
}

static void test_integers(void)
{
    static const struct {
        const char *key;
        uint32_t bad[6]; /* ended by 0 behind the first */
    } rows[] = {
        { "block_count", { 0, 513, 4, 0x80000000, UINT32_MAX } },
        { "context_length", { 0, (1 << 24) + 1, UINT32_MAX } },
        { "embedding_length", { 0, 7, 65537, 63, 0x80000000 } },
        { "feed_forward_length", { 0, (1 << 20) + 1, 129 } },
        { "vocab_size", { 0, (1 << 20) + 1 } },
        { "attention.head_count", { 0, 1025, 3, 5, UINT32_MAX } },
        { "attention.head_count_kv", { 0, 3, 1025 } },
        { "attention.key_length", { 0, 8193 } },
        { "attention.value_length", { 0, 8193 } },
        { "attention.kv_lora_rank", { 0, 65537 } },
        { "attention.q_lora_rank", { 65537, UINT32_MAX } },
        { "rope.dimension_count", { 0, 8193 } },
        { "rope.scaling.original_context_length", { 0, (1 << 24) + 1 } },
        { "expert_count", { 63, 65, 1025, UINT32_MAX } },
        { "expert_used_count", { 0, 65, UINT32_MAX } },
        { "expert_shared_count", { 65, 3, UINT32_MAX } },
        { "expert_feed_forward_length", { 0, 31, (1 << 20) + 1 } },
        { "leading_dense_block_count", { 4, 513 } },
        { "expert_gating_func", { 3, 4, 5, UINT32_MAX } },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        check_case("%s out of range or against the tensors", rows[i].key);
        for (int j = 0; j < 6 && (j == 0 || rows[i].bad[j]); j++) {
            char shown[16];
            snprintf(shown, sizeof shown, "%u", rows[i].bad[j]);
            check_refused(rows[i].key, rows[i].bad[j], shown);
        }
    }
}

static void test_floats(void)
{
    static const struct {
        const char *key;
        float bad[3];
    } rows[] = {
        { "attention.layer_norm_rms_epsilon", { 0, 0.2f, 1e-13f } },
        { "rope.freq_base", { 0, 0.5f, 1e13f } },
        { "rope.scaling.factor", { 0, 0.5f, 1e5f } },
        { "rope.scaling.yarn_log_multiplier", { 1e7f, -1e7f, 3e38f } },
        { "expert_weights_scale", { 1e7f, -1e7f, 3e38f } },
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        check_case("%s out of range", rows[i].key);
        for (int j = 0; j < 3; j++) {
            char shown[32];
            snprintf(shown, sizeof shown, "%g", (double)rows[i].bad[j]);
            check_refused(rows[i].key, float_bits(rows[i].bad[j]), shown);
        }
        check_refused(rows[i].key, float_bits(NAN), "nan");
        check_refused(rows[i].key, float_bits(INFINITY), "inf");
        check_refused(rows[i].key, float_bits(-INFINITY), "-inf");
    }
    check_case("epsilon: a denormal is refused");
    check_refused("attention.layer_norm_rms_epsilon", 1, "denormal");
}

/* The type stands in the four bytes before the value; U32, I32 and F32 are equally long. */
static bool opens_as(const char *key, uint32_t type, struct error *err)
{
    char full[128];
    uint32_t before, ignored;
    struct model m;
    *err = (struct error){ 0 };
    snprintf(full, sizeof full, "deepseek2.%s", key);
    long offset = tiny_value_offset(base_path(), full) - 4;
    if (!CHECK(tiny_patch(base_path(), offset, &type, &before, 4)))
        return false;
    bool ok = model_open(&m, base_path(), NUMERICS_OFFICIAL, err);
    if (ok)
        model_close(&m);
    CHECK(tiny_patch(base_path(), offset, &before, &ignored, 4));
    return ok;
}

static void test_types(void)
{
    static const char *const integers[] = {
        "block_count", "context_length", "embedding_length", "feed_forward_length", "vocab_size",
        "attention.head_count", "attention.head_count_kv", "attention.key_length",
        "attention.kv_lora_rank", "rope.dimension_count", "expert_count", "expert_used_count",
        "expert_gating_func", "leading_dense_block_count",
    };
    static const char *const floats[] = { "rope.freq_base", "rope.scaling.factor",
                                          "attention.layer_norm_rms_epsilon" };
    struct error err;
    check_case("integers may be signed, never floats");
    for (size_t i = 0; i < ARRAY_LEN(integers); i++) {
        CHECK_MSG(opens_as(integers[i], GGUF_I32, &err), "%s: %s", integers[i], err.text);
        CHECK_MSG(!opens_as(integers[i], GGUF_F32, &err) && err.code == ERR_FILE,
                  "%s as a float: %s", integers[i], err.text);
    }
    check_case("floats are never integers");
    for (size_t i = 0; i < ARRAY_LEN(floats); i++)
        CHECK_MSG(!opens_as(floats[i], GGUF_U32, &err) && err.code == ERR_FILE, "%s as u32: %s",
                  floats[i], err.text);
}

static void test_inside(void)
{
    struct error err;
    check_case("values at the edges of their ranges are accepted");
    CHECK(opens_with("context_length", 1, &err));
    CHECK(opens_with("context_length", 1 << 24, &err));
    CHECK(opens_with("expert_used_count", 64, &err));
    CHECK(opens_with("expert_used_count", 1, &err));
    CHECK(opens_with("attention.head_count_kv", 4, &err));
    CHECK(opens_with("attention.key_length", 8192, &err)); /* informative in this architecture */
    CHECK(opens_with("rope.scaling.factor", float_bits(1), &err));
    CHECK(opens_with("rope.freq_base", float_bits(1e12f), &err));
    CHECK(opens_with("expert_weights_scale", 0, &err)); /* means 1 */

    check_case("a shape against a key names tensor, found and expected");
    CHECK(!opens_with("expert_feed_forward_length", 48, &err));
    CHECK_MSG(strstr(err.text, "blk.1.ffn_gate_exps.weight: shape 64x32x64, expected 64x48x64"),
              "%s", err.text);
}

/* ---- files rewritten with other keys or tensors ---- */

struct change {
    const char *drop;               /* tensor left out */
    const char *retype;             /* tensor given another type, its bytes left alone */
    enum tensor_type type;
    const char *reshape;            /* tensor whose first two dimensions are exchanged */
    const char *add;                /* extra tensor of 8 floats */
    const char *remove_key;
    const char *architecture;
    const char *scaling;            /* rope.scaling.type */
    int n_layer_heads;              /* head_count as an array of this many */
    int32_t layer_heads[4];
    bool groups;
    uint32_t group_count, groups_used;
};

static bool add_keys(struct gguf_writer *w, const struct gguf *g, const struct change *c,
                     struct error *err)
{
    bool ok = gguf_writer_copy_all_kv(w, g, err);
    if (c->remove_key)
        gguf_writer_remove(w, c->remove_key);
    if (c->architecture)
        ok = ok && gguf_writer_add_str(w, "general.architecture", c->architecture, err);
    if (c->scaling)
        ok = ok && gguf_writer_add_str(w, "deepseek2.rope.scaling.type", c->scaling, err);
    if (c->n_layer_heads)
        ok = ok && gguf_writer_add_array(w, "deepseek2.attention.head_count", GGUF_I32,
                                         c->layer_heads, (size_t)c->n_layer_heads, err);
    if (c->groups)
        ok = ok && gguf_writer_add_u32(w, "deepseek2.expert_group_count", c->group_count, err) &&
             gguf_writer_add_u32(w, "deepseek2.expert_group_used_count", c->groups_used, err);
    return ok;
}

static bool is(const char *a, const char *b)
{
    return b && strcmp(a, b) == 0;
}

/* Write the base file, changed; only the header and zeros, for model_open alone. */
static bool rewrite(const char *path, const struct change *c, struct error *err)
{
    struct gguf g;
    struct gguf_writer w = { 0 };
    static const char zeros[4096];
    if (!gguf_open(&g, base_path(), err))
        return false;
    bool ok = add_keys(&w, &g, c, err);
    uint64_t left = 0;
    for (uint64_t i = 0; ok && i < g.n_tensors; i++) {
        const struct tensor *t = &g.tensors[i];
        uint64_t ne[4];
        memcpy(ne, t->ne, sizeof ne);
        if (is(t->name, c->drop))
            continue;
        if (is(t->name, c->reshape))
            ne[0] = t->ne[1], ne[1] = t->ne[0];
        enum tensor_type type = is(t->name, c->retype) ? c->type : t->type;
        ok = gguf_writer_add_tensor(&w, t->name, type, t->n_dims, ne, err);
    }
    if (ok && c->add)
        ok = gguf_writer_add_tensor(&w, c->add, TYPE_F32, 1, (uint64_t[]){ 8 }, err);
    ok = ok && gguf_writer_begin(&w, path, err);
    for (uint64_t i = 0; ok && i <= g.n_tensors; i++) { /* as many zeros as were announced */
        const struct tensor *t = i < g.n_tensors ? &g.tensors[i] : NULL;
        if (t && is(t->name, c->drop))
            continue;
        left = t ? t->bytes : c->add ? 32 : 0;
        if (t && is(t->name, c->retype))
            left = t->bytes / 4 / 32 * 34; /* F32 to Q8_0 */
        for (; ok && left; left -= min_of(left, sizeof zeros))
            ok = gguf_writer_data(&w, zeros, (size_t)min_of(left, sizeof zeros), err);
    }
    ok = ok && gguf_writer_finish(&w, err);
    gguf_writer_release(&w);
    gguf_close(&g);
    return ok;
}

/* Open the changed file; `wanted` is part of the message, NULL when it should open. */
static void check_change(const struct change *c, const char *wanted)
{
    char path[256];
    struct model m;
    struct error err = { 0 };
    tiny_path(path, "changed");
    if (!CHECK_MSG(rewrite(path, c, &err), "%s", err.text))
        return;
    bool ok = model_open(&m, path, NUMERICS_OFFICIAL, &err);
    CHECK_MSG(ok == !wanted, "%s: %s", ok ? "accepted" : "refused", ok ? "" : err.text);
    if (wanted && !ok) {
        CHECK_INT(err.code, ERR_FILE);
        CHECK_MSG(strstr(err.text, wanted), "\"%s\" does not hold \"%s\"", err.text, wanted);
    }
    if (ok)
        model_close(&m);
    unlink(path);
}

static void test_changes(void)
{
    check_case("an unchanged copy opens");
    check_change(&(struct change){ 0 }, NULL);
    check_case("an unknown architecture lists the known ones");
    check_change(&(struct change){ .architecture = "mamba" },
                 "architecture \"mamba\" is not supported; known are: llama, qwen2, qwen3, "
                 "deepseek, deepseek2");
    check_case("missing tensors");
    check_change(&(struct change){ .drop = "blk.1.attn_output.weight" },
                 "blk.1.attn_output.weight: missing");
    check_change(&(struct change){ .drop = "blk.0.attn_kv_a_norm.weight" },
                 "blk.0.attn_kv_a_norm.weight: missing");
    check_change(&(struct change){ .drop = "blk.2.attn_v_b.weight" },
                 "blk.2.attn_v_b.weight: missing");
    check_change(&(struct change){ .drop = "blk.2.attn_k_b.weight" },
                 "blk.2.attn_kv_b.weight: missing");
    check_change(&(struct change){ .drop = "blk.1.ffn_up_exps.weight" },
                 "blk.1.ffn_up_exps.weight: missing");
    check_change(&(struct change){ .drop = "token_embd.weight" }, "token_embd.weight: missing");
    check_case("without output.weight the embedding is the head");
    check_change(&(struct change){ .drop = "output.weight" }, NULL);
    check_case("missing keys");
    check_change(&(struct change){ .remove_key = "deepseek2.block_count" },
                 "deepseek2.block_count: missing");
    check_change(&(struct change){ .remove_key = "deepseek2.feed_forward_length" },
                 "deepseek2.feed_forward_length: missing");
    check_change(&(struct change){ .remove_key = "deepseek2.expert_feed_forward_length" },
                 "deepseek2.expert_feed_forward_length: missing");
    check_change(&(struct change){ .remove_key = "deepseek2.expert_gating_func" }, NULL);
    check_case("norms and routers must be floats");
    check_change(&(struct change){ .retype = "blk.1.ffn_gate_inp.weight", .type = TYPE_Q8_0 },
                 "blk.1.ffn_gate_inp.weight: type Q8_0, expected F32, F16 or BF16");
    check_change(&(struct change){ .retype = "output_norm.weight", .type = TYPE_Q8_0 },
                 "output_norm.weight: type Q8_0, expected F32, F16 or BF16");
    check_case("exchanged dimensions");
    check_change(&(struct change){ .reshape = "blk.0.ffn_down.weight" },
                 "blk.0.ffn_down.weight: shape 64x128, expected 128x64");
    check_case("tensors nobody asked for are ignored");
    check_change(&(struct change){ .add = "blk.0.attn_rot_embd" }, NULL);
    check_case("an unknown way of scaling");
    check_change(&(struct change){ .scaling = "longrope" },
                 "deepseek2.rope.scaling.type: \"longrope\", expected none, linear or yarn");
    check_case("per-layer arrays");
    check_change(&(struct change){ .n_layer_heads = 3, .layer_heads = { 4, 4, 4 } }, NULL);
    check_change(&(struct change){ .n_layer_heads = 4, .layer_heads = { 4, 4, 4, 9 } }, NULL);
    check_change(&(struct change){ .n_layer_heads = 2, .layer_heads = { 4, 4 } },
                 "2 values for 3 layers");
    check_change(&(struct change){ .n_layer_heads = 3, .layer_heads = { 4, 2, 4 } },
                 "layer 1 has 2, others 4");
    check_change(&(struct change){ .n_layer_heads = 3, .layer_heads = { 4, -4, 4 } },
                 "expected 1 to 1024");
    check_case("expert groups");
    check_change(&(struct change){ .groups = true, .group_count = 8, .groups_used = 3 }, NULL);
    check_change(&(struct change){ .groups = true, .group_count = 7, .groups_used = 3 },
                 "7 does not divide 64 experts");
    check_change(&(struct change){ .groups = true, .group_count = 8, .groups_used = 9 },
                 "expected 1 to 8");
    check_change(&(struct change){ .groups = true, .group_count = 8, .groups_used = 0 },
                 "expected 1 to 8");
    check_change(&(struct change){ .groups = true, .group_count = 32, .groups_used = 2 },
                 "2 groups hold only 4 experts");
}

/* ---- counts and loading ---- */

static void test_counts(void)
{
    struct model m;
    struct error err = { 0 };
    char text[128];
    check_case("counts of parameters and bytes");
    if (!CHECK_MSG(model_open(&m, base_path(), NUMERICS_OFFICIAL, &err), "%s", err.text))
        return;
    uint64_t routed = 2ull * 3 * 64 * 32 * 64, embed = 320 * 64;
    CHECK_INT(m.routed_bytes, routed * 4);
    CHECK_INT(m.weight_bytes, m.n_elements * 4);
    CHECK_INT(m.n_elements - m.n_elements_active, routed / 64 * (64 - 6));
    CHECK_INT(m.bytes_per_token, (m.n_elements_active - embed + 64) * 4);
    model_describe(&m, text, sizeof text);
    CHECK_STR(text, "Random tiny-v2-lite 1.0 M, 0.3 M active");
    model_close(&m);
}

struct progress_log {
    uint64_t last, total;
    int calls, stop_at;
    bool backwards;
};

static bool log_progress(void *ctx, uint64_t done, uint64_t total)
{
    struct progress_log *l = ctx;
    l->backwards |= done < l->last;
    l->last = done;
    l->total = total;
    return ++l->calls != l->stop_at;
}

static const struct load_options mapped = { .mode = LOAD_MMAP, .act_f32 = true };

static void test_load(void)
{
    struct model m;
    for (int mode = LOAD_AUTO; mode <= LOAD_DIRECT; mode++) {
        struct error err = { 0 };
        struct progress_log log = { 0 };
        check_case("load mode %d", mode);
        if (!CHECK(model_open(&m, base_path(), NUMERICS_OFFICIAL, &err)))
            return;
        struct load_options o = { .mode = (enum load_mode)mode, .act_f32 = true,
                                  .progress = log_progress, .ctx = &log };
        CHECK_MSG(model_load(&m, &o, &err), "%s", err.text);
        CHECK(log.calls >= 2 && !log.backwards);
        CHECK_INT(log.last, log.total);
        CHECK_INT(m.copy != NULL, mode >= LOAD_COPY);
        CHECK_INT(m.derived_bytes, 0);
        const struct tensor *t = gguf_tensor(&m.gguf, "blk.1.ffn_down_exps.weight");
        CHECK(!memcmp(t->data, m.layers[1].experts.down.data, t->bytes));
        CHECK_INT(m.layers[1].experts.down.data == t->data, mode < LOAD_COPY);
        CHECK(m.layers[1].router.type == TYPE_F32);
        model_close(&m);
    }
    char path[256], command[600];
    struct error err = { 0 };
    struct progress_log log = { .stop_at = 1 };
    struct load_options o = { .mode = LOAD_MMAP, .progress = log_progress, .ctx = &log };
    check_case("loading can be interrupted");
    CHECK(model_open(&m, base_path(), NUMERICS_OFFICIAL, &err));
    CHECK(!model_load(&m, &o, &err));
    CHECK_INT(err.code, ERR_INTERRUPTED);
    model_close(&m);

    check_case("a file that shrinks is noticed");
    tiny_path(path, "shrunk");
    snprintf(command, sizeof command, "cp %s %s", base_path(), path);
    CHECK_INT(system(command), 0);
    err = (struct error){ 0 };
    if (CHECK(model_open(&m, path, NUMERICS_OFFICIAL, &err))) {
        CHECK_INT(truncate(path, 400000), 0);
        CHECK(!model_load(&m, &mapped, &err));
        CHECK_INT(err.code, ERR_RUN);
        CHECK_MSG(strstr(err.text, "model file changed or unreadable at offset"), "%s", err.text);
        model_close(&m);
    }
    unlink(path);
}

/* Every allocation of opening and loading fails once. */
static void test_allocations(void)
{
    check_case("failed allocations are reported and leak nothing");
    uint64_t n = 0;
    bool done = false;
    for (; !done && n < 10000; n++) {
        struct model m;
        struct error err = { 0 };
        mem_fail_after(n);
        bool ok = model_open(&m, base_path(), NUMERICS_OFFICIAL, &err) &&
                  model_load(&m, &mapped, &err);
        mem_fail_never();
        done = ok;
        if (!ok)
            CHECK_MSG(err.code == ERR_FIT, "allocation %llu: code %d, %s", (unsigned long long)n,
                      (int)err.code, err.text);
        model_close(&m);
    }
    CHECK(done && n > 1);
}

int main(void)
{
    test_rope();
    test_scale();
    check_case("the base file");
    if (tiny_write(base_path(), "--like tiny-v2-lite")) {
        test_integers();
        test_floats();
        test_types();
        test_inside();
        test_changes();
        test_counts();
        test_load();
        test_allocations();
    }
    check_case("memory that is left");
    CHECK(memory_available() > 1 << 20);
    unlink(base_path());
    return check_finish();
}
