/* One set of weights in every way that files have held it must give the same logits, bit for bit:
 * unsplit and split key-value matrices with two and three dimensions, with and without keys for
 * groups and ramps, with a draft block, as per-layer arrays, fused, and cut into several files. */
#include <glob.h>

#include "src/engine/engine.h"
#include "tests/tiny_model.h"

#define N_TOKENS 40
#define N_VOCAB 320

static bool keep_rows(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    (void)err;
    memcpy((float *)ctx + first * N_VOCAB, rows, (size_t)n_rows * N_VOCAB * sizeof *rows);
    return true;
}

/* Logits of a fixed text; false after a failed check. */
static bool run_file(const char *path, enum numerics numerics, bool act_f32, int n_mtp, float *rows)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    struct engine_options eo = { .n_threads = 2, .numerics = numerics, .act_f32 = act_f32 };
    struct session_options so = { .n_ctx = N_TOKENS };
    int32_t tokens[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++)
        tokens[i] = (i * 37 + 11) % N_VOCAB;
    bool ok = engine_open(&e, path, &eo, &err) && session_open(&s, e, &so, &err) &&
              session_eval(s, tokens, N_TOKENS, 16, keep_rows, rows, &err);
    CHECK_MSG(ok, "%s", err.text);
    if (e)
        CHECK_INT(engine_model(e)->params.n_mtp, n_mtp);
    session_close(s);
    engine_close(e);
    return ok;
}

/* Remove a file, or all files of a split set. */
static void remove_model(const char *path)
{
    char pattern[300];
    glob_t found;
    snprintf(pattern, sizeof pattern, "%.*s-000*.gguf", (int)(strlen(path) - 5), path);
    if (glob(pattern, 0, NULL, &found) == 0) {
        for (size_t i = 0; i < found.gl_pathc; i++)
            unlink(found.gl_pathv[i]);
        globfree(&found);
    }
    unlink(path);
}

static bool run_tiny(const char *options, bool split, enum numerics numerics, bool act_f32,
                     int n_mtp, float *rows)
{
    char path[256], first[300];
    tiny_path(path, "generation");
    snprintf(first, sizeof first, "%.*s-00001-of-00003.gguf", (int)(strlen(path) - 5), path);
    bool ok = tiny_write(path, options) &&
              run_file(split ? first : path, numerics, act_f32, n_mtp, rows);
    remove_model(path);
    return ok;
}

static float wanted[N_TOKENS * N_VOCAB], found[N_TOKENS * N_VOCAB];

static bool equal(void)
{
    return memcmp(wanted, found, sizeof wanted) == 0;
}

/* All generations of one shape against the newest. The sort of numbers is exact in both: F32, or F16
 * whose transposed copy is F16 again. */
static void test_shape(const char *like, const char *type, bool act_f32)
{
    static const struct {
        const char *options;
        bool split;
        int n_mtp;
    } ways[] = {
        { "--generation a", false, 0 },     { "--generation a-ik", false, 0 },
        { "--generation b", false, 0 },     { "--generation b+", false, 0 },
        { "--generation b-mtp", false, 1 }, { "--generation arrays", false, 0 },
        { "--generation fused", false, 0 }, { "--split 3", true, 0 },
        { "--generation a --split 3", true, 0 },
    };
    bool latent = strstr(like, "v2") || strstr(like, "v3") || strstr(like, "kimi");
    char options[256];
    check_case("%s in %s, newest generation", like, type);
    snprintf(options, sizeof options, "--like %s --type %s", like, type);
    if (!run_tiny(options, false, NUMERICS_OFFICIAL, act_f32, 0, wanted))
        return;
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        check_case("%s in %s, %s", like, type, ways[i].options);
        snprintf(options, sizeof options, "--like %s --type %s %s", like, type, ways[i].options);
        if (run_tiny(options, ways[i].split, NUMERICS_OFFICIAL, act_f32,
                     latent ? ways[i].n_mtp : 0, found))
            CHECK(equal());
    }
}

/* The comparisons above would pass if nothing depended on anything. */
static void test_differences(void)
{
    check_case("another seed gives other logits");
    if (run_tiny("--like tiny-v3", false, NUMERICS_OFFICIAL, true, 0, wanted) &&
        run_tiny("--like tiny-v3 --seed 2", false, NUMERICS_OFFICIAL, true, 0, found))
        CHECK(!equal());
    check_case("V3 without keys of groups: 8 groups, as llama.cpp none");
    if (run_tiny("--like tiny-v3 --generation b", false, NUMERICS_LLAMACPP, true, 0, found))
        CHECK(!equal());
    if (run_tiny("--like tiny-v3 --generation b", false, NUMERICS_GGUF, true, 0, found))
        CHECK(equal());
    check_case("V2's groups are scored by their best expert, as llama.cpp by two");
    if (run_tiny("--like tiny-v2", false, NUMERICS_OFFICIAL, true, 0, wanted) &&
        run_tiny("--like tiny-v2", false, NUMERICS_LLAMACPP, true, 0, found))
        CHECK(!equal());
    check_case("Kimi-K2 has a ramp of one turn even unsaid, as llama.cpp 32");
    if (run_tiny("--like tiny-kimi", false, NUMERICS_OFFICIAL, true, 0, wanted) &&
        run_tiny("--like tiny-kimi", false, NUMERICS_LLAMACPP, true, 0, found))
        CHECK(!equal());
}

int main(void)
{
    test_shape("tiny-v3", "f32", true);
    test_shape("tiny-v2", "f32", true);
    test_shape("tiny-v2-lite", "f16", false);
    test_shape("tiny-kimi", "f32", true);
    test_shape("tiny-deepseek", "f32", true);
    test_shape("tiny-deepseek", "q8_0", false);
    test_shape("tiny-llama", "f16", false);
    test_shape("tiny-qwen2", "f32", true);
    test_shape("tiny-qwen3", "q8_0", false);
    test_differences();
    return check_finish();
}
