/* A GPU that fails or hangs while a session uses it: one line says so, and the session goes on on the CPU from
 * the tokens it holds, with the logits and the choices that a run on the CPU alone has. */
#include <time.h>

#include "src/base/log.h"
#include "src/gpu_load.h"
#include "tests/fixture_model.h"
#include "tests/gpu_test.h"

#define N_PROMPT 17
#define N_TOKENS 24 /* with the answer */

#define PATIENCE_S 0.3       /* with a card that hangs; it costs this much each time */
#define LONG_PATIENCE_S 20.0 /* no machine is so busy that a card that works lets it pass */

static void (*fail_launch)(int64_t), (*fail_alloc)(int64_t), (*lose)(bool), (*hang)(int64_t);
static uint64_t (*bytes)(void), (*waited_in_vain)(void);

static bool act_f32 = true;
static enum handoff_way handoff;
static double patience_s;
static struct placement_rule head_rule; /* the output matrix and its norm with the CPU */
static bool shared_out;                 /* the trunk, by that rule */
static int n_warnings;
static char warning[512];
static bool armed; /* the last accident came to a card that had worked until then */

static void count_warnings(void *ctx, enum log_level level, const char *line)
{
    (void)ctx;
    if (level != LOG_WARNING)
        return;
    n_warnings++;
    snprintf(warning, sizeof warning, "%s", line);
}

static bool open_quietly(struct engine **e, const char *model, enum gpu_use gpu, enum load_mode load,
                         struct error *err)
{
    struct placement_wishes w = *cpu_experts();
    w.rules = &head_rule;
    w.n_rules = shared_out && gpu != GPU_NEVER;
    struct engine_options o = { .n_threads = 1, .act_f32 = act_f32, .n_batch = 7, .gpu = gpu,
                                .wishes = &w,
                                .numerics = NUMERICS_LLAMACPP, .load = load,
                                .handoff = handoff, .gpu_patience_s = patience_s };
    n_warnings = 0;
    armed = false;
    return engine_open(e, check_fixture(model), &o, err);
}

static bool open_model(struct engine **e, const char *model, enum gpu_use gpu, enum load_mode load,
                       struct error *err)
{
    return CHECK_MSG(open_quietly(e, model, gpu, load, err), "%s", err->text);
}

static bool open_timeline(struct session **s, struct engine *e, struct error *err)
{
    return CHECK_MSG(session_open(s, e, &(struct session_options){ .n_ctx = 64 }, err), "%s",
                     err->text);
}

static const enum handoff_way ways[] = { HANDOFF_STOP, HANDOFF_CALLBACK, HANDOFF_FLAGS };

/* One timeline: the prompt and what follows it greedily. */
struct answer {
    int32_t tokens[N_TOKENS];
    float *logits; /* [N_TOKENS - N_PROMPT, n_vocab], of each chosen token */
};

/* Something that is done before token `at` of the answer is computed; 0: before the prompt. */
struct accident {
    int at;
    int64_t launch; /* which launch from there on fails; -1: the card goes at once */
    bool hangs;     /* that launch does not fail, it never ends */
};

static bool run(struct session *s, struct engine *e, const int32_t *prompt, struct answer *a,
                const struct accident *x, struct error *err)
{
    int64_t n_vocab = engine_model(e)->params.n_vocab;
    memcpy(a->tokens, prompt, N_PROMPT * sizeof *prompt);
    a->logits = calloc((size_t)((N_TOKENS - N_PROMPT) * n_vocab), sizeof(float));
    for (int i = 0; i < N_TOKENS - N_PROMPT; i++) {
        armed = armed || (x && x->at == i && engine_gpu(e));
        if (x && x->at == i && x->launch < 0)
            lose(true);
        else if (x && x->at == i)
            (x->hangs ? hang : fail_launch)(x->launch);
        bool ok = i == 0 ? session_prefill(s, a->tokens, N_PROMPT, NULL, NULL, err)
                         : session_decode(s, a->tokens[N_PROMPT + i - 1], err);
        if (!ok)
            return false;
        memcpy(a->logits + i * n_vocab, session_logits(s), (size_t)n_vocab * sizeof(float));
        a->tokens[N_PROMPT + i] = (int32_t)best(session_logits(s), n_vocab);
    }
    return true;
}

/* A working card again, with nothing left in its queues. */
static void mend(void)
{
    struct gpu_info info;
    fail_launch(-1);
    hang(-1);
    lose(false);
    for (int i = 0; i < 6000 && !gpu_load(NULL)->info(0, &info, NULL); i++)
        nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
}

static void check_answer(const struct answer *found, const struct answer *wanted, double tolerance,
                         int64_t n_vocab)
{
    double worst = largest_difference(found->logits, wanted->logits,
                                      (N_TOKENS - N_PROMPT) * n_vocab);
    CHECK_MSG(worst <= tolerance, "largest logit difference %.3g, allowed %.3g", worst, tolerance);
    CHECK(memcmp(found->tokens, wanted->tokens, sizeof found->tokens) == 0);
}

/* False: a busy machine let our short patience pass before the accident. */
static bool had_accident(const char *model, const struct fixture *f, const struct answer *wanted,
                         const struct accident *x, enum load_mode load)
{
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL;
    struct answer found = { .logits = NULL };
    bool short_patience = patience_s > 0 && patience_s < LONG_PATIENCE_S, early = false;
    if (open_model(&e, model, GPU_AUTO, load, &err) && open_timeline(&s, e, &err)) {
        bool ok = run(s, e, f->tokens, &found, x, &err);
        early = short_patience && !armed;
        if (early)
            goto cleanup;
        CHECK(armed);
        if (CHECK_MSG(ok, "%s", err.text))
            check_answer(&found, wanted, f->tolerance, f->n_vocab);
        CHECK(!engine_gpu(e));
        CHECK_INT(session_n_past(s), N_TOKENS - 1);
        CHECK(memcmp(session_tokens(s), wanted->tokens, (N_TOKENS - 1) * sizeof(int32_t)) == 0);
        CHECK_INT(n_warnings, 1);
        CHECK_MSG(strstr(warning, x->hangs ? "GPU: it does not answer" : "GPU: ") &&
                  strstr(warning, "going on on the CPU"), "says %s", warning);
        CHECK(x->hangs || bytes() == 0); /* what a card may write to yet stays */
        CHECK_INT(waited_in_vain(), 0);
    }
cleanup:
    session_close(s);
    engine_close(e);
    mend();
    free(found.logits);
    return !early;
}

static void test_accident(const char *model, const struct fixture *f, const struct answer *wanted,
                          const struct accident *x, enum load_mode load)
{
    double first = patience_s;
    while (!had_accident(model, f, wanted, x, load))
        patience_s *= 4;
    patience_s = first;
}

/* Two timelines of one engine: the second learns of it when its turn comes. */
static void test_two_sessions(const char *model, const struct fixture *f,
                              const struct answer *wanted)
{
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *a = NULL, *b = NULL;
    struct answer found = { .logits = NULL }, other = { .logits = NULL };
    check_case("%s: another session of the engine", model);
    if (open_model(&e, model, GPU_AUTO, LOAD_AUTO, &err) && open_timeline(&a, e, &err) &&
        open_timeline(&b, e, &err)) {
        CHECK_MSG(session_prefill(b, f->tokens, N_PROMPT - 3, NULL, NULL, &err), "%s", err.text);
        CHECK_MSG(run(a, e, f->tokens, &found, &(struct accident){ .at = 3, .launch = 5 }, &err), "%s", err.text);
        CHECK_INT(session_n_past(b), N_PROMPT - 3);
        CHECK_MSG(run(b, e, f->tokens, &other, NULL, &err), "%s", err.text);
        check_answer(&other, wanted, f->tolerance, f->n_vocab);
        CHECK_INT(n_warnings, 1);
        CHECK_INT(bytes(), 0);
    }
    session_close(a);
    session_close(b);
    engine_close(e);
    mend();
    free(found.logits);
    free(other.logits);
}

/* Who asked for the GPU by name is told, and keeps the timeline. */
static void test_must(const char *model, const struct fixture *f)
{
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL;
    struct answer found = { .logits = NULL };
    check_case("%s: a GPU that must be used", model);
    if (open_model(&e, model, GPU_MUST, LOAD_AUTO, &err) && open_timeline(&s, e, &err)) {
        CHECK(!run(s, e, f->tokens, &found, &(struct accident){ .at = 2, .launch = 9 }, &err));
        CHECK_INT(err.code, ERR_DEVICE);
        CHECK_INT(session_n_past(s), N_PROMPT + 1);
        CHECK_INT(n_warnings, 0);
    }
    session_close(s);
    engine_close(e);
    CHECK_INT(bytes(), 0);
    mend();
    free(found.logits);
}

/* Memory that runs out while a session is opened: the first one of an engine goes to the CPU. */
static void test_allocations(const char *model, const struct fixture *f,
                             const struct answer *wanted)
{
    check_case("%s: any allocation of the first session fails", model);
    for (int n = 0;; n++) {
        struct error err = { 0 };
        struct engine *e = NULL;
        struct session *s = NULL;
        struct answer found = { .logits = NULL };
        if (!open_model(&e, model, GPU_AUTO, LOAD_AUTO, &err))
            break;
        fail_alloc(n);
        open_timeline(&s, e, &err);
        fail_alloc(-1);
        bool whole = engine_gpu(e);
        CHECK_INT(n_warnings, !whole);
        if (!whole)
            CHECK_INT(bytes(), 0);
        if (n == 1 && CHECK_MSG(run(s, e, f->tokens, &found, NULL, &err), "%s", err.text))
            check_answer(&found, wanted, f->tolerance, f->n_vocab);
        session_close(s);
        engine_close(e);
        free(found.logits);
        if (whole || !CHECK(n < 50)) {
            CHECK(n > 4);
            break;
        }
    }
}

/* With part of the trunk on the CPU, whose turn comes behind the GPU's, in every way of handing over. */
static void test_shared_out(const char *model, const struct fixture *f, const struct answer *wanted,
                            bool hangs)
{
    static const struct accident accidents[] = {
        { 0, -1, false }, { 0, 11, false }, { 1, 20, false }, { 4, -1, false }, { 5, 3, false },
        { 5, 20, false }, { 6, 0, false },  { 0, 30, true },  { 5, 4, true },
    };
    shared_out = true;
    for (size_t i = 0; i < sizeof accidents / sizeof accidents[0]; i++) {
        const struct accident *x = &accidents[i];
        if (x->hangs != hangs)
            continue;
        check_case("%s, the output with the CPU: %s before token %d, launch %d", model,
                   x->hangs ? "hangs" : "lost", x->at, (int)x->launch);
        handoff = ways[i % 3];
        patience_s = x->hangs ? PATIENCE_S : 0;
        test_accident(model, f, wanted, x, LOAD_AUTO);
    }
    handoff = HANDOFF_AUTO;
    patience_s = 0;
    shared_out = false;
}

/* A kernel that never ends, in the prompt and in the answer. */
static void test_hang(const char *model, const struct fixture *f, const struct answer *wanted)
{
    static const struct accident accidents[] = { { 0, 0, true },  { 0, 60, true }, { 3, 33, true },
                                                 { 4, 20, true }, { 5, 40, true }, { 6, 3, true } };
    for (size_t i = 0; i < sizeof accidents / sizeof accidents[0]; i++) {
        check_case("%s: hangs before token %d, launch %d", model, accidents[i].at,
                   (int)accidents[i].launch);
        handoff = ways[i % 3];
        patience_s = PATIENCE_S;
        test_accident(model, f, wanted, &accidents[i], LOAD_COPY);
        handoff = HANDOFF_AUTO;
        patience_s = 0;
    }
    check_case("%s: a card that hangs and must be used", model);
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL, *other = NULL;
    struct answer found = { .logits = NULL };
    bool ok = true;
    armed = false;
    for (patience_s = 4 * PATIENCE_S; patience_s < LONG_PATIENCE_S && !armed; patience_s *= 4) {
        free(found.logits);
        session_close(s);
        engine_close(e);
        found.logits = NULL, s = NULL, e = NULL;
        error_clear(&err);
        ok = open_quietly(&e, model, GPU_MUST, LOAD_AUTO, &err) &&
             session_open(&s, e, &(struct session_options){ .n_ctx = 64 }, &err) &&
             run(s, e, f->tokens, &found, &(struct accident){ 2, 9, true }, &err);
    }
    if (CHECK_MSG(armed, "%s", err.text)) {
        CHECK(!ok);
        CHECK_INT(err.code, ERR_DEVICE);
        CHECK_INT(session_n_past(s), N_PROMPT + 1);
        error_clear(&err);
        CHECK(!session_open(&other, e, &(struct session_options){ .n_ctx = 128 }, &err));
    }
    session_close(s);
    engine_close(e);
    CHECK_INT(waited_in_vain(), 0);
    patience_s = 0;
    mend();
    free(found.logits);
}

static void test_model(const char *name, bool hangs)
{
    char model[160];
    struct fixture f;
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL;
    struct answer wanted = { .logits = NULL };
    check_case("%s: on the CPU alone", name);
    if (!fixture_of_model(&f, name, model))
        return;
    if (open_model(&e, model, GPU_NEVER, LOAD_AUTO, &err) && open_timeline(&s, e, &err))
        CHECK_MSG(run(s, e, f.tokens, &wanted, NULL, &err), "%s", err.text);
    session_close(s);
    engine_close(e);

    static const struct accident accidents[] = {
        { 0, -1, false }, { 0, 0, false },  { 0, 11, false },
        { 0, 200, false }, /* the prompt takes three steps */
        { 1, -1, false }, { 1, 0, false },  { 1, 20, false },
        { 4, 33, false }, { 6, 3, false },  { 5, 40, false }, /* steps that are recorded */
        { 3, -1, false }, { 6, 20, false },
    };
    for (size_t i = 0; !hangs && i < sizeof accidents / sizeof accidents[0]; i++) {
        const struct accident *x = &accidents[i];
        check_case("%s: lost before token %d, launch %d", name, x->at, (int)x->launch);
        handoff = ways[i % 3];
        test_accident(model, &f, &wanted, x, i % 2 ? LOAD_COPY : LOAD_MMAP);
        handoff = HANDOFF_AUTO;
    }
    test_shared_out(model, &f, &wanted, hangs);
    if (hangs) {
        test_hang(model, &f, &wanted);
    } else {
        test_two_sessions(model, &f, &wanted);
        test_must(model, &f);
        test_allocations(model, &f, &wanted);
    }
    free(wanted.logits);
    fixture_free(&f);
}

/* Quantized weights in memory are woven for the CPU's kernels once the card is gone, each once: the
 * bits of a run without a card. */
static void test_quant(const char *type)
{
    char model[160];
    struct fixture f;
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL;
    struct answer wanted = { .logits = NULL };
    check_case("%s: fixture", type);
    if (!fixture_of_quant(&f, type, model))
        return;
    act_f32 = false;
    f.tolerance = 0;
    if (open_model(&e, model, GPU_NEVER, LOAD_COPY, &err) && open_timeline(&s, e, &err))
        CHECK_MSG(run(s, e, f.tokens, &wanted, NULL, &err), "%s", err.text);
    session_close(s);
    engine_close(e);
    check_case("%s: lost before the first token", type);
    test_accident(model, &f, &wanted, &(struct accident){ .launch = 3 }, LOAD_COPY);
    act_f32 = true;
    free(wanted.logits);
    fixture_free(&f);
}

int main(void)
{
    if (!gpu_test_load())
        return check_finish();
    gpu_test_hook("cuda_host_fail_launch", &fail_launch);
    gpu_test_hook("cuda_host_fail_alloc", &fail_alloc);
    gpu_test_hook("cuda_host_lose", &lose);
    gpu_test_hook("cuda_host_bytes", &bytes);
    gpu_test_hook("cuda_host_hang", &hang);
    gpu_test_hook("cuda_host_waited_in_vain", &waited_in_vain);
    if (!fail_launch) {
        check_skip("a card cannot be made to fail");
        return check_finish();
    }
    if (!check_fixtures()) {
        check_skip("no fixtures: set TANDEM_FIXTURES for models to run");
        return check_finish();
    }
    log_set_sink(count_warnings, NULL);
    regcomp(&head_rule.name, "^output", REG_EXTENDED | REG_NOSUB);
    test_model("deepseek2-v3", false);
    test_model("qwen2", false);
    test_quant("Q4_K_M");
    test_model("deepseek2-v3", true); /* last: memory stays with the card */
    test_model("qwen2", true);
    regfree(&head_rule.name);
    return check_finish();
}
