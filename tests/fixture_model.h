/* Fixture models and how close logits must come: what test_archs.c and test_gpu_archs.c share.
 * fixtures/README.md says how the logits were made. */
#ifndef TANDEM_TESTS_FIXTURE_MODEL_H
#define TANDEM_TESTS_FIXTURE_MODEL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "src/engine/engine.h"
#include "tests/check.h"

/* Every architecture, in F32. */
static const char *const fixture_models[] = {
    "llama-gqa-linear", "llama-ropefreqs", "qwen2",          "deepseek-v1",
    "deepseek2-lite",   "deepseek2-lite27", "deepseek2-v2", "deepseek2-v3",
    "deepseek2-v3-yarn", "deepseek32", "deepseek32-yarn", "deepseek4",
};

/* deepseek2-v3-TYPE.gguf: one model, quantized; and one of deepseek4. */
static const char *const fixture_quants[] = { "IQ2_XXS", "IQ4_XS", "Q2_K",  "Q3_K_M",
                                      "Q4_K_M",  "Q5_K_M", "Q6_K", "Q8_0", "MXFP4" };

struct fixture {
    int32_t *tokens;
    int64_t n_tokens, n_vocab;
    float *logits; /* [n_tokens, n_vocab] */
    double tolerance;
    bool has_ties; /* an indexer meets equal scores, which a GPU settles in its own way */
};

static inline double number_behind(const char *json, const char *key)
{
    const char *at = strstr(json, key);
    at = at ? strchr(at, ':') : NULL;
    return at ? strtod(at + 1, NULL) : NAN;
}

static inline void fixture_free(struct fixture *f)
{
    free(f->tokens);
    free(f->logits);
    *f = (struct fixture){ 0 };
}

/* Did tools/device_kit.sh have no room for this file? Its list lies among the fixtures. */
static inline bool fixture_left_out(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/LEFT_OUT", check_fixtures() ? check_fixtures() : ".");
    char *list = check_read_file(path, NULL);
    bool is_listed = list && strstr(list, name);
    free(list);
    return is_listed;
}

/* Tokens are ids in text; `wanted` is the file of logits. */
static inline bool fixture_load(struct fixture *f, const char *tokens, const char *json,
                         const char *wanted)
{
    *f = (struct fixture){ 0 };
    size_t size = 0;
    if (fixture_left_out(wanted)) {
        check_skip("%s was left out of the device kit", wanted);
        return false;
    }
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

/* Wishes of a user who wants routed experts with the CPU, though all would fit on the GPU. */
static inline const struct placement_wishes *cpu_experts(void)
{
    static struct placement_wishes w;
    w = placement_wishes_default();
    w.cpu_moe = PLACE_ALL;
    return &w;
}

struct setup {
    enum numerics numerics;
    bool act_f32;
    int n_threads;
    int n_batch; /* 0: all tokens at once */
    enum mla_form form;
    enum load_mode load;
    enum gpu_use gpu;
};

static enum handoff_way fixture_handoff; /* of the runs, where there is a GPU */

static inline bool keep_rows(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    struct fixture *into = ctx;
    (void)err;
    memcpy(into->logits + first * into->n_vocab, rows,
           (size_t)(n_rows * into->n_vocab) * sizeof(float));
    return true;
}

/* Logits of all positions, malloc'ed; NULL after a failed check. */
static inline float *run_model(const char *path, const struct fixture *f, const struct setup *u)
{
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL;
    struct engine_options eo = {
        .n_threads = u->n_threads, .numerics = u->numerics, .act_f32 = u->act_f32,
        .n_batch = (int)f->n_tokens, .load = u->load, .gpu = u->gpu,
        .handoff = fixture_handoff, .wishes = cpu_experts(),
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

static inline double largest_difference(const float *a, const float *b, int64_t n)
{
    double worst = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= worst)) /* NaN counts as worst */
            worst = d;
    }
    return worst;
}

/* The CPU's logits where the earlier of equals wins, as on every other device; of models whose
 * reference has them in another order. */
static inline float *run_settled(const char *path, const struct fixture *f, const struct setup *u)
{
    struct setup cpu = *u;
    cpu.numerics = NUMERICS_GGUF;
    cpu.gpu = GPU_NEVER;
    return run_model(path, f, &cpu);
}

static inline void check_run(const char *path, const struct fixture *f, const struct setup *u,
                      double tolerance)
{
    float *found = run_model(path, f, u);
    if (!found)
        return;
    const float *wanted = f->logits;
    float *settled = NULL;
    if (u->gpu != GPU_NEVER && f->has_ties)
        wanted = settled = run_settled(path, f, u);
    double worst = wanted ? largest_difference(found, wanted, f->n_tokens * f->n_vocab) : 0;
    CHECK_MSG(worst <= tolerance, "largest logit difference %.3g, allowed %.3g", worst, tolerance);
    free(settled);
    free(found);
}

/* ---- closeness ---- */

static inline int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static inline double median(double *values, int64_t n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return values[n / 2];
}

static inline double cosine(const float *a, const float *b, int64_t n)
{
    double ab = 0, aa = 0, bb = 0;
    for (int64_t i = 0; i < n; i++) {
        ab += (double)a[i] * (double)b[i];
        aa += (double)a[i] * (double)a[i];
        bb += (double)b[i] * (double)b[i];
    }
    return ab / sqrt(aa * bb);
}

static inline int64_t best(const float *row, int64_t n)
{
    int64_t top = 0;
    for (int64_t i = 1; i < n; i++) {
        if (row[i] > row[top])
            top = i;
    }
    return top;
}

/* Bounds for quantized activations: fixtures/README.md. */
static inline void check_close(const float *found, const struct fixture *f)
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

/* The fixture of a reference model, and the path of its file. */
static inline bool fixture_of_model(struct fixture *f, const char *name, char path[160])
{
    char tokens[128], json[128], logits[128];
    snprintf(path, 160, "models/%s.gguf", name);
    snprintf(tokens, sizeof tokens, "models/%s.tokens", name);
    snprintf(json, sizeof json, "models/%s.json", name);
    snprintf(logits, sizeof logits, "models/%s.logits.f32", name);
    if (!fixture_load(f, tokens, json, logits))
        return false;
    f->has_ties = strcmp(name, "deepseek4") == 0 || strncmp(name, "deepseek32", 10) == 0;
    return true;
}

/* The same of a quantized model; the logits are those of its weights in F32. */
static inline bool fixture_of_quant(struct fixture *f, const char *type, char path[160])
{
    const char *arch = strcmp(type, "MXFP4") == 0 ? "deepseek4" : "deepseek2-v3";
    char tokens[128], json[128], logits[128];
    snprintf(path, 160, "quants/models/%s-%s.gguf", arch, type);
    snprintf(tokens, sizeof tokens, "quants/models/%s.tokens", arch);
    snprintf(json, sizeof json, "quants/models/%s-%s.json", arch, type);
    snprintf(logits, sizeof logits, "quants/models/%s-%s.logits_f32w.f32", arch, type);
    return fixture_load(f, tokens, json, logits);
}

#endif
