/* Whole models against the double-precision reference of ref_model.h: what no fixture covers. Qwen 3
 * with YaRN, the settings of Kimi-K2, the official routing of V2 and V3 in files with and without
 * keys of groups, and files that lack the YaRN multiplier. */
#include "src/engine/engine.h"
#include "tests/ref_model.h"
#include "tests/ref_v4.h"
#include "tests/tiny_model.h"

#define N_TOKENS 48
#define N_VOCAB 320
#define TOLERANCE 5e-4 /* F32 against double; the logits' deviation is 3, a wrong choice moves them by 1 */

static int32_t text[N_TOKENS];
static float found[N_TOKENS * N_VOCAB];

static bool keep_rows(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    float *to = ctx;
    (void)err;
    memcpy(to + first * N_VOCAB, rows, (size_t)n_rows * N_VOCAB * sizeof *rows);
    return true;
}

static bool run_tokens(const char *path, enum numerics numerics, const int32_t *tokens, int n,
                       float *logits_of)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    struct engine_options eo = { .n_threads = 2, .numerics = numerics, .act_f32 = true };
    struct session_options so = { .n_ctx = n };
    bool ok = engine_open(&e, path, &eo, &err) && session_open(&s, e, &so, &err) &&
              session_eval(s, tokens, n, 20, keep_rows, logits_of, &err);
    CHECK_MSG(ok, "%s", err.text);
    session_close(s);
    engine_close(e);
    return ok;
}

static bool run_engine(const char *path, enum numerics numerics)
{
    return run_tokens(path, numerics, text, N_TOKENS, found);
}

/* The largest difference of any logit; infinite when the reference cannot read the file. */
static double distance(const char *path, bool like_llamacpp)
{
    static struct ref r;
    double worst = 0, logits[N_VOCAB];
    if (!ref_open(&r, path, like_llamacpp))
        return INFINITY;
    for (int t = 0; t < N_TOKENS; t++) {
        ref_token(&r, text[t], logits);
        for (int i = 0; i < N_VOCAB; i++) {
            double d = fabs(logits[i] - (double)found[t * N_VOCAB + i]);
            if (!(d <= worst))
                worst = d;
        }
    }
    ref_close(&r);
    return worst;
}

static void check_file(const char *path, enum numerics numerics)
{
    if (!run_engine(path, numerics))
        return;
    double d = distance(path, numerics == NUMERICS_LLAMACPP);
    CHECK_MSG(d <= TOLERANCE, "largest difference %.3g, allowed %.3g", d, TOLERANCE);
}

static void test_models(void)
{
    static const struct {
        const char *options;
        enum numerics numerics;
    } rows[] = {
        { "--like tiny-llama", NUMERICS_OFFICIAL },
        { "--like tiny-qwen2", NUMERICS_OFFICIAL },
        { "--like tiny-qwen3", NUMERICS_OFFICIAL },
        { "--like tiny-deepseek", NUMERICS_OFFICIAL },
        { "--like tiny-v2-lite --generation a", NUMERICS_OFFICIAL },
        { "--like tiny-v2 --generation a", NUMERICS_OFFICIAL },
        { "--like tiny-v2 --generation b+", NUMERICS_OFFICIAL },
        { "--like tiny-v2 --generation b+", NUMERICS_LLAMACPP },
        { "--like tiny-v3 --generation a", NUMERICS_OFFICIAL },
        { "--like tiny-v3 --generation a", NUMERICS_LLAMACPP },
        { "--like tiny-v3 --generation b++", NUMERICS_OFFICIAL },
        { "--like tiny-kimi --generation b", NUMERICS_OFFICIAL },
        { "--like tiny-kimi --generation b++", NUMERICS_OFFICIAL },
        { "--like tiny-kimi --generation b++", NUMERICS_LLAMACPP },
        { "--like tiny-v3 --type q8_0", NUMERICS_OFFICIAL },
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char path[256];
        check_case("%s%s", rows[i].options,
                   rows[i].numerics == NUMERICS_LLAMACPP ? ", as llama.cpp" : "");
        tiny_path(path, "reference");
        if (tiny_write(path, rows[i].options))
            check_file(path, rows[i].numerics);
        unlink(path);
    }
}

/* The key's last letter is changed, so that it is another, unknown key. */
static void test_missing_multiplier(void)
{
    char path[256], before;
    tiny_path(path, "multiplier");
    check_case("YaRN without the multiplier: cos and sin take the temperature");
    if (!tiny_write(path, "--like tiny-v3"))
        return;
    long value = tiny_value_offset(path, "deepseek2.rope.scaling.yarn_log_multiplier");
    CHECK(tiny_patch(path, value - 5, "x", &before, 1));
    CHECK_INT(before, 'r');
    check_file(path, NUMERICS_OFFICIAL);
    check_case("as llama.cpp, also the scores");
    check_file(path, NUMERICS_LLAMACPP);
    unlink(path);
}

/* V4 sums up 4 and 128 positions: a text that is longer than both, read in steps that both cut. */
static void test_v4(void)
{
    enum { LONG = 150 };
    static struct ref_v4 ref;
    static float logits_of[LONG][N_VOCAB];
    int32_t tokens[LONG];
    char path[256];
    check_case("--like tiny-v4: hyper-connections, blocks of 4 and 128, experts by token");
    tiny_path(path, "reference");
    for (int i = 0; i < LONG; i++)
        tokens[i] = (i * 37 + i * i % 11) % N_VOCAB;
    if (tiny_write(path, "--like tiny-v4") &&
        run_tokens(path, NUMERICS_OFFICIAL, tokens, LONG, &logits_of[0][0]) &&
        CHECK(ref_open(&ref.r, path, false))) {
        double worst = 0, logits[N_VOCAB];
        for (int t = 0; t < LONG; t++) {
            ref_v4_token(&ref, tokens[t], logits);
            for (int i = 0; i < N_VOCAB; i++) {
                double d = fabs(logits[i] - (double)logits_of[t][i]);
                if (!(d <= worst))
                    worst = d;
            }
        }
        CHECK_MSG(worst <= TOLERANCE, "largest difference %.3g, allowed %.3g", worst, TOLERANCE);
        ref_v4_close(&ref);
    }
    unlink(path);
}

/* A reference that agreed with anything would be worth nothing. */
static void test_differences(void)
{
    char path[256];
    tiny_path(path, "differences");
    check_case("the reference tells the two ways of routing apart");
    if (tiny_write(path, "--like tiny-v3 --generation a") && run_engine(path, NUMERICS_OFFICIAL))
        CHECK(distance(path, true) > 0.1);
    unlink(path);
}

int main(void)
{
    for (int i = 0; i < N_TOKENS; i++)
        text[i] = (i * 41 + 3) % N_VOCAB;
    test_models();
    test_v4();
    test_missing_multiplier();
    test_differences();
    return check_finish();
}
