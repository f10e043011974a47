/* Steps that are recorded once and replayed, with all three ways of handing experts to the CPU: the
 * same bits as steps that are queued one by one, on every architecture, over the borders of what a
 * record is made for, with more kinds of steps than are kept, with part of the trunk on the CPU, and where
 * nothing can be recorded.
 *
 * On the emulation the runs go through the three orders of threads in turn. */
#include <sched.h>

#include "src/base/log.h"
#include "src/gpu_load.h"
#include "tests/fixture_model.h"
#include "tests/gpu_test.h"

#define N_STEPS 5 /* of one token */

static uint64_t (*count_replays)(void);
static void (*set_order)(uint64_t);
static void (*refuse_capture)(bool);

static uint64_t replays(void)
{
    return count_replays ? count_replays() : 0;
}

static void next_order(void)
{
    static uint64_t order;
    if (set_order)
        set_order(order = (order + 1) % 3);
}

static int gpu_layers; /* of the engines; 0: all */
static const struct placement_wishes *wishes; /* NULL: experts with the CPU */

static int n_lines;
static char line[256];

static void keep_line(void *ctx, enum log_level level, const char *text)
{
    (void)ctx;
    if (level == LOG_DETAIL && strstr(text, "one by one")) {
        n_lines++;
        snprintf(line, sizeof line, "%s", text);
    }
}

/* ---- a timeline ---- */

struct timeline {
    struct engine *engine;
    struct session *session;
    const struct fixture *f;
    float *logits; /* [n_rows, n_vocab], malloc'ed */
    int64_t n_rows;
};

static bool open_engine(struct timeline *t, const char *model, const struct fixture *f,
                        enum handoff_way way, bool act_f32)
{
    struct error err = { 0 };
    struct engine_options o = { .n_threads = 1, .act_f32 = act_f32, .gpu = GPU_MUST,
                                .wishes = wishes ? wishes : cpu_experts(),
                                .gpu_layers = gpu_layers, .n_batch = 64, .handoff = way, .numerics = NUMERICS_LLAMACPP };
    *t = (struct timeline){ .f = f };
    next_order();
    return CHECK_MSG(engine_open(&t->engine, check_fixture(model), &o, &err), "%s", err.text);
}

static bool open_session(struct timeline *t, int64_t n_ctx)
{
    struct error err = { 0 };
    return CHECK_MSG(session_open(&t->session, t->engine, &(struct session_options){ .n_ctx = n_ctx },
                                  &err), "%s", err.text);
}

static void close_timeline(struct timeline *t)
{
    session_close(t->session);
    engine_close(t->engine);
    free(t->logits);
}

static bool keep(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    struct timeline *t = ctx;
    size_t n_vocab = (size_t)t->f->n_vocab;
    (void)first, (void)err;
    t->logits = realloc(t->logits, ((size_t)(t->n_rows + n_rows)) * n_vocab * sizeof(float));
    memcpy(t->logits + (size_t)t->n_rows * n_vocab, rows, (size_t)n_rows * n_vocab * sizeof(float));
    t->n_rows += n_rows;
    return true;
}

/* Tokens of the fixture, over and over, n of them in steps of n_batch. */
static void feed(struct timeline *t, int64_t n, int n_batch)
{
    struct error err = { 0 };
    int32_t *tokens = malloc((size_t)n * sizeof *tokens);
    for (int64_t i = 0; i < n; i++)
        tokens[i] = t->f->tokens[(session_n_past(t->session) + i) % t->f->n_tokens];
    CHECK_MSG(session_eval(t->session, tokens, n, n_batch, keep, t, &err), "%s", err.text);
    free(tokens);
}

static bool same(const struct timeline *a, const struct timeline *b)
{
    return a->n_rows == b->n_rows && a->n_rows > 0 &&
           memcmp(a->logits, b->logits,
                  (size_t)(a->n_rows * a->f->n_vocab) * sizeof(float)) == 0;
}

/* ---- the same work in every way ---- */

static void steps(struct timeline *t)
{
    if (!open_session(t, 64))
        return;
    feed(t, N_STEPS, 1);
    feed(t, 6, 2); /* as with a guess */
}

/* Over the border of the first kv_bound, 256, where the fixtures' contexts would not come. */
static void long_context(struct timeline *t)
{
    if (!open_session(t, 600))
        return;
    feed(t, 252, 64);
    feed(t, 8, 1);
    session_truncate(t->session, 255); /* and back */
    feed(t, 3, 1);
}

/* Two caches, steps of 1 to 5 tokens: 10 kinds. */
static void many_kinds(struct timeline *t)
{
    struct session *two[2] = { NULL, NULL };
    for (int i = 0; i < 2; i++) {
        if (!open_session(t, 128))
            return;
        two[i] = t->session;
    }
    for (int round = 0; round < 3; round++) {
        for (int n = 1; n <= 5; n++) {
            for (int i = 0; i < 2; i++) {
                t->session = two[i];
                feed(t, n, n);
            }
        }
    }
    session_close(two[0]);
    t->session = two[1];
    feed(t, 12, 3);
}

typedef void plan(struct timeline *t);

/* least: replays that must have happened where steps are recorded. */
static void compare(const char *model, const struct fixture *f, plan *work, bool act_f32, int least)
{
    struct timeline stop, other;
    uint64_t before = replays();
    if (!open_engine(&stop, model, f, HANDOFF_STOP, act_f32))
        return;
    work(&stop);
    bool dense = engine_model(stop.engine)->params.n_routed == 0;
    if (count_replays && !dense)
        CHECK_INT(replays(), before);
    for (int way = HANDOFF_CALLBACK; way <= HANDOFF_FLAGS; way++) {
        before = replays();
        if (open_engine(&other, model, f, (enum handoff_way)way, act_f32))
            work(&other);
        CHECK_MSG(same(&stop, &other), "way %d: other logits", way);
        if (count_replays)
            CHECK_MSG(replays() >= before + (uint64_t)least, "way %d: %d replays, wanted %d", way,
                      (int)(replays() - before), least);
        close_timeline(&other);
    }
    close_timeline(&stop);
}

static void test_model(const char *name, bool quant)
{
    char model[160];
    struct fixture f;
    check_case("%s: recorded steps", name);
    if (!(quant ? fixture_of_quant(&f, name, model) : fixture_of_model(&f, name, model)))
        return;
    compare(model, &f, steps, !quant, N_STEPS - 2 + 1);
    fixture_free(&f);
}

/* The GPU's layers follow each other, so its part of a step is one record; the CPU's part runs as ever. */
static void test_part(const char *name, int n_layers)
{
    char model[160];
    struct fixture f;
    if (!fixture_of_model(&f, name, model))
        return;
    gpu_layers = n_layers;
    check_case("%s: recorded steps of %d layers", name, n_layers);
    compare(model, &f, steps, true, N_STEPS - 2 + 1);
    gpu_layers = 0;
    fixture_free(&f);
}

/* With a tensor of the CPU between those of the GPU nothing is recorded, and both sides take turns. */
static void test_turns(const char *name, const char *tensors)
{
    char model[160];
    struct fixture f;
    struct placement_rule rule = { .on_gpu = false };
    struct placement_wishes w = *cpu_experts();
    check_case("%s: %s with the CPU, nothing recorded", name, tensors);
    if (!fixture_of_model(&f, name, model))
        return;
    regcomp(&rule.name, tensors, REG_EXTENDED | REG_NOSUB);
    w.rules = &rule;
    w.n_rules = 1;
    wishes = &w;
    uint64_t before = replays();
    compare(model, &f, steps, true, 0);
    CHECK_INT(replays(), before);
    wishes = NULL;
    regfree(&rule.name);
    fixture_free(&f);
}

static void test_borders(const char *name)
{
    char model[160];
    struct fixture f;
    if (!fixture_of_model(&f, name, model))
        return;
    check_case("%s: over the border of a record's context", name);
    compare(model, &f, long_context, true, 2 + 2 + 3);
    fixture_free(&f);
}

static void test_kinds(const char *name)
{
    char model[160];
    struct fixture f;
    check_case("%s: more kinds of steps than are kept", name);
    if (!fixture_of_model(&f, name, model))
        return;
    compare(model, &f, many_kinds, true, 2);
    fixture_free(&f);
}

/* A driver that cannot record: said once, to who asks for details. */
static void test_refused(const char *name)
{
    char model[160];
    struct fixture f;
    struct timeline plain, other;
    check_case("%s: nothing can be recorded", name);
    if (!refuse_capture || !fixture_of_model(&f, name, model))
        return;
    if (open_engine(&plain, model, &f, HANDOFF_STOP, true))
        steps(&plain);
    refuse_capture(true);
    log_set_sink(keep_line, NULL);
    uint64_t before = replays();
    if (open_engine(&other, model, &f, HANDOFF_FLAGS, true))
        steps(&other);
    CHECK(same(&plain, &other));
    CHECK_INT(replays(), before);
    CHECK_INT(n_lines, 1);
    CHECK_MSG(strstr(line, "capture"), "says %s", line);
    log_set_sink(NULL, NULL);
    refuse_capture(false);
    close_timeline(&plain);
    close_timeline(&other);
    fixture_free(&f);
}

/* Where the thread that opened the engine may run: with a thread of its own for the experts it makes
 * room for that, through a change of threads too, and gets back what it had. */
static void test_places(const char *name)
{
    char model[160];
    struct fixture f;
    struct timeline stop, flags;
    struct error err = { 0 };
    cpu_set_t before, pinned, left, after;
    check_case("%s: who runs where", name);
    if (!fixture_of_model(&f, name, model))
        return;
    sched_getaffinity(0, sizeof before, &before);
    if (!open_engine(&stop, model, &f, HANDOFF_STOP, true))
        return;
    CHECK_MSG(engine_retune(stop.engine, 2, 0, &err), "%s", err.text);
    sched_getaffinity(0, sizeof pinned, &pinned);
    close_timeline(&stop);
    if (!open_engine(&flags, model, &f, HANDOFF_FLAGS, true))
        return;
    CHECK_MSG(engine_retune(flags.engine, 2, 0, &err), "%s", err.text);
    sched_getaffinity(0, sizeof left, &left);
    steps(&flags);
    close_timeline(&flags);
    sched_getaffinity(0, sizeof after, &after);
    CHECK(CPU_EQUAL(&before, &after));
    if (CPU_COUNT(&pinned) == 1 && CPU_COUNT(&before) > 1)
        CHECK(!CPU_EQUAL(&left, &pinned));
    fixture_free(&f);
}

int main(void)
{
    if (!gpu_test_load())
        return check_finish();
    if (!check_fixtures()) {
        check_skip("no fixtures: set TANDEM_FIXTURES for models to run");
        return check_finish();
    }
    gpu_test_hook("cuda_host_replays", &count_replays);
    gpu_test_hook("cuda_host_order", &set_order);
    gpu_test_hook("cuda_host_refuse_capture", &refuse_capture);
    for (size_t i = 0; i < sizeof fixture_models / sizeof fixture_models[0]; i++)
        test_model(fixture_models[i], false);
    test_model("Q4_K_M", true);
    test_part("llama-gqa-linear", 1);
    test_part("deepseek2-lite27", 20);
    test_part("deepseek2-v3", 1);
    test_part("deepseek32", 2);
    test_part("deepseek4", 2);
    test_turns("deepseek2-v3", "ffn_.*_shexp");
    test_turns("deepseek4", "blk\\.1\\.(attn_output_a|ffn_gate_inp)");
    test_borders("deepseek2-lite");
    test_kinds("deepseek-v1");
    test_refused("deepseek2-v3");
    test_places("deepseek2-v3");
    return check_finish();
}
