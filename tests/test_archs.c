/* Whole models against logits of a reference program (fixtures/README.md says how they were made):
 * every architecture at every batch size, both forms of latent attention, any number of threads,
 * every quantization with F32 activations, and the fast path within its looser bounds.
 *
 * With arguments, only the models and quantizations of these names. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/base/log.h"
#include "src/engine/engine.h"
#include "tests/check.h"

struct fixture {
    int32_t *tokens;
    int64_t n_tokens, n_vocab;
    float *logits; /* [n_tokens, n_vocab] */
    double tolerance;
};

static double number_behind(const char *json, const char *key)
{
    const char *at = strstr(json, key);
    at = at ? strchr(at, ':') : NULL;
    return at ? strtod(at + 1, NULL) : NAN;
}

static void fixture_free(struct fixture *f)
{
    free(f->tokens);
    free(f->logits);
    *f = (struct fixture){ 0 };
}

/* Tokens are ids in text; `wanted` is the file of logits. */
static bool fixture_load(struct fixture *f, const char *tokens, const char *json,
                         const char *wanted)
{
    *f = (struct fixture){ 0 };
    size_t size = 0;
    char *text = check_read_file(check_fixture(tokens), NULL);
    char *about = check_read_file(check_fixture(json), NULL);
    f->logits = (float *)(void *)check_read_file(check_fixture(wanted), &size);
    if (text && about && f->logits) {
        f->n_vocab = (int64_t)number_behind(about, "\"n_vocab\"");
        f->tolerance = number_behind(about, "\"suggested_max_abs_tolerance\"");
        f->tokens = calloc(strlen(text) / 2 + 1, sizeof *f->tokens);
        char *at = text, *end;
        for (long id = strtol(at, &end, 10); end != at; id = strtol(at, &end, 10)) {
            f->tokens[f->n_tokens++] = (int32_t)id;
            at = end;
        }
    }
    free(text);
    free(about);
    bool ok = f->n_tokens > 0 && f->n_vocab > 0 &&
              size == (size_t)(f->n_tokens * f->n_vocab) * sizeof(float);
    if (!ok)
        fixture_free(f);
    return CHECK_MSG(ok, "fixture %s cannot be read", wanted);
}

/* ---- running ---- */

struct setup {
    enum numerics numerics;
    bool act_f32;
    int n_threads;
    int n_batch; /* 0: all tokens at once */
    enum mla_form form;
    enum load_mode load;
};

static bool keep_rows(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    struct fixture *into = ctx;
    (void)err;
    memcpy(into->logits + first * into->n_vocab, rows,
           (size_t)(n_rows * into->n_vocab) * sizeof(float));
    return true;
}

/* Logits of all positions, malloc'ed; NULL after a failed check. */
static float *run_model(const char *path, const struct fixture *f, const struct setup *u)
{
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL;
    struct engine_options eo = {
        .n_threads = u->n_threads, .numerics = u->numerics, .act_f32 = u->act_f32,
        .n_batch = (int)f->n_tokens, .load = u->load,
    };
    struct session_options so = { .n_ctx = f->n_tokens, .mla_form = u->form };
    struct fixture into = { .n_vocab = f->n_vocab };
    into.logits = calloc((size_t)(f->n_tokens * f->n_vocab), sizeof(float));
    bool ok = engine_open(&e, path, &eo, &err) && session_open(&s, e, &so, &err) &&
              session_eval(s, f->tokens, f->n_tokens, u->n_batch, keep_rows, &into, &err);
    CHECK_MSG(ok, "%s", err.text);
    if (ok)
        CHECK_INT(engine_model(e)->params.n_vocab, f->n_vocab);
    session_close(s);
    engine_close(e);
    if (!ok) {
        free(into.logits);
        return NULL;
    }
    return into.logits;
}

static double largest_difference(const float *a, const float *b, int64_t n)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) /* NaN counts as worst */
            worst = d;
    }
    return worst;
}

static void check_run(const char *path, const struct fixture *f, const struct setup *u,
                      double tolerance)
{
    float *found = run_model(path, f, u);
    if (!found)
        return;
    double worst = largest_difference(found, f->logits, f->n_tokens * f->n_vocab);
    CHECK_MSG(worst <= tolerance, "largest logit difference %.3g, allowed %.3g", worst, tolerance);
    free(found);
}

/* ---- the reference models ---- */

static const char *const models[] = {
    "llama-gqa-linear", "llama-ropefreqs", "qwen2",          "deepseek-v1",
    "deepseek2-lite",   "deepseek2-lite27", "deepseek2-v2", "deepseek2-v3",
    "deepseek2-v3-yarn",
};

static void test_model(const char *name)
{
    static const int batches[] = { 0, 1, 7 };
    char model[128], tokens[128], json[128], logits[128];
    snprintf(model, sizeof model, "models/%s.gguf", name);
    snprintf(tokens, sizeof tokens, "models/%s.tokens", name);
    snprintf(json, sizeof json, "models/%s.json", name);
    snprintf(logits, sizeof logits, "models/%s.logits.f32", name);
    struct fixture f;
    check_case("%s: fixture", name);
    if (!fixture_load(&f, tokens, json, logits))
        return;
    for (size_t i = 0; i < sizeof batches / sizeof batches[0]; i++) {
        check_case("%s, F32 activations, batches of %d", name, batches[i]);
        check_run(check_fixture(model), &f,
                  &(struct setup){ NUMERICS_LLAMACPP, true, 1, batches[i], MLA_AUTO, LOAD_AUTO },
                  f.tolerance);
    }
    for (int form = MLA_ABSORBED; form <= MLA_DECOMPRESSED && strstr(name, "deepseek2"); form++) {
        check_case("%s, %s", name, form == MLA_ABSORBED ? "absorbed" : "decompressed");
        check_run(check_fixture(model), &f,
                  &(struct setup){ NUMERICS_LLAMACPP, true, 2, 33, form, LOAD_COPY },
                  f.tolerance);
    }
    fixture_free(&f);
}

/* ---- quantized models ---- */

static const char *const quants[] = { "IQ2_XXS", "IQ4_XS", "Q2_K",  "Q3_K_M",
                                      "Q4_K_M",  "Q5_K_M", "Q6_K", "Q8_0" };

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return values[n / 2];
}

static double cosine(const float *a, const float *b, int64_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

static int64_t best(const float *row, int64_t n)
{
    int64_t top = 0;
    for (int64_t i = 1; i < n; i++) {
        if (row[i] > row[top])
            top = i;
    }
    return top;
}

/* Bounds for quantized activations: fixtures/README.md. */
static void check_close(const float *found, const struct fixture *f)
{
    double *difference = malloc((size_t)f->n_tokens * sizeof *difference);
    double *cosines = malloc((size_t)f->n_tokens * sizeof *cosines);
    int64_t same = 0;
    for (int64_t t = 0; t < f->n_tokens; t++) {
        const float *a = found + t * f->n_vocab, *b = f->logits + t * f->n_vocab;
        difference[t] = largest_difference(a, b, f->n_vocab);
        cosines[t] = cosine(a, b, f->n_vocab);
        same += best(a, f->n_vocab) == best(b, f->n_vocab);
    }
    double d = median(difference, f->n_tokens), c = median(cosines, f->n_tokens);
    CHECK_MSG(d < 0.7, "median difference %.3g, allowed 0.7", d);
    CHECK_MSG(c > 0.998, "median cosine %.5f, wanted 0.998", c);
    CHECK_MSG(same * 100 >= f->n_tokens * 80, "same best token at %lld of %lld positions",
              (long long)same, (long long)f->n_tokens);
    free(difference);
    free(cosines);
}

static void test_quant(const char *type)
{
    char model[128], json[128], logits[128];
    snprintf(model, sizeof model, "quants/models/deepseek2-v3-%s.gguf", type);
    snprintf(json, sizeof json, "quants/models/deepseek2-v3-%s.json", type);
    snprintf(logits, sizeof logits, "quants/models/deepseek2-v3-%s.logits_f32w.f32", type);
    struct fixture f;
    check_case("%s: fixture", type);
    if (!fixture_load(&f, "quants/models/deepseek2-v3.tokens", json, logits))
        return;
    check_case("%s, F32 activations", type);
    check_run(check_fixture(model), &f,
              &(struct setup){ NUMERICS_LLAMACPP, true, 2, 0, MLA_AUTO, LOAD_AUTO }, 2e-3);
    for (int batch = 0; batch <= 1; batch++) {
        check_case("%s, quantized activations, batches of %d", type, batch);
        float *found = run_model(
            check_fixture(model), &f,
            &(struct setup){ NUMERICS_LLAMACPP, false, 2, batch, MLA_AUTO, LOAD_AUTO });
        if (found)
            check_close(found, &f);
        free(found);
    }
    fixture_free(&f);
}

/* ---- the same bits for any number of threads ---- */

static void test_threads(const char *model, const char *tokens, const char *json,
                         const char *logits, bool act_f32)
{
    struct fixture f;
    check_case("same bits with 1, 2 and 4 threads: %s%s", model, act_f32 ? ", F32" : "");
    if (!fixture_load(&f, tokens, json, logits))
        return;
    for (int batch = 0; batch <= 1; batch++) {
        float *one = NULL;
        for (int threads = 1; threads <= 4; threads *= 2) {
            float *found = run_model(
                check_fixture(model), &f,
                &(struct setup){ NUMERICS_OFFICIAL, act_f32, threads, batch, MLA_AUTO, LOAD_AUTO });
            if (!found)
                continue;
            if (one)
                CHECK_MSG(!memcmp(one, found, (size_t)(f.n_tokens * f.n_vocab) * sizeof *one),
                          "%d threads, batch %d: other bits", threads, batch);
            free(one);
            one = found;
        }
        free(one);
    }
    fixture_free(&f);
}

static bool wanted(const char *name, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], name) == 0)
            return true;
    }
    return argc < 2;
}

int main(int argc, char **argv)
{
    if (!check_fixtures()) {
        check_case("architectures");
        check_skip("no fixtures: set TANDEM_FIXTURES to compare with the reference models");
        return check_finish();
    }
    for (size_t i = 0; i < sizeof models / sizeof models[0]; i++)
        if (wanted(models[i], argc, argv))
            test_model(models[i]);
    for (size_t i = 0; i < sizeof quants / sizeof quants[0]; i++)
        if (wanted(quants[i], argc, argv))
            test_quant(quants[i]);
    for (int act_f32 = 0; act_f32 <= 1 && argc < 2; act_f32++) {
        test_threads("quants/models/deepseek2-v3-Q4_K_M.gguf", "quants/models/deepseek2-v3.tokens",
                     "quants/models/deepseek2-v3-Q4_K_M.json",
                     "quants/models/deepseek2-v3-Q4_K_M.logits.f32", act_f32);
        test_threads("models/qwen2.gguf", "models/qwen2.tokens", "models/qwen2.json",
                     "models/qwen2.logits.f32", act_f32);
    }
    return check_finish();
}
