/* Somebody asks to stop while a GPU and the CPU work at a long step: it ends within a few layers, the
 * timeline is as before, and the next call gives what it would have given. */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "src/gpu_load.h"
#include "tests/fixture_model.h"
#include "tests/gpu_test.h"

#define FEW_LAYERS 4

static uint64_t (*launches)(const char *);
static atomic_int cancel;

/* Sets the flag once the card has launched so many kernels, or when nobody waits for it any more. */
struct watcher {
    uint64_t at, seen;
    atomic_bool ended;
};

static void *watch(void *arg)
{
    struct watcher *w = arg;
    while (launches(NULL) < w->at && !w->ended)
        usleep(200);
    atomic_store(&cancel, 1);
    w->seen = launches(NULL);
    return NULL;
}

static bool prefill(struct session *s, const struct fixture *f, struct error *err)
{
    return session_prefill(s, f->tokens, f->n_tokens, NULL, NULL, err);
}

static void test_stop(const char *name, enum handoff_way way)
{
    char model[160];
    struct fixture f;
    struct error err = { 0 };
    struct engine *e = NULL;
    struct session *s = NULL;
    check_case("%s, hand-off %d", name, way);
    if (!fixture_of_model(&f, name, model))
        return;
    struct engine_options eo = { .n_threads = 1, .act_f32 = true, .gpu = GPU_MUST,
                                 .wishes = cpu_experts(),
                                 .n_batch = (int)f.n_tokens, .handoff = way,
                                 .numerics = NUMERICS_LLAMACPP };
    struct session_options so = { .n_ctx = 2 * f.n_tokens, .cancel = &cancel };
    if (!CHECK_MSG(engine_open(&e, check_fixture(model), &eo, &err) &&
                   session_open(&s, e, &so, &err), "%s", err.text)) {
        engine_close(e);
        return;
    }
    uint64_t before = launches(NULL);
    CHECK_MSG(prefill(s, &f, &err), "%s", err.text);
    uint64_t whole = launches(NULL) - before, layer = whole / engine_model(e)->params.n_layers;
    float *row = f.logits + (f.n_tokens - 1) * f.n_vocab;
    CHECK(largest_difference(session_logits(s), row, f.n_vocab) <= f.tolerance);

    struct watcher w;
    bool through = true; /* before the watcher was given time to see it: once more */
    for (int i = 0; i < 50 && through; i++) {
        pthread_t thread;
        session_truncate(s, 0);
        atomic_store(&cancel, 0);
        w = (struct watcher){ .at = launches(NULL) + 2 * layer };
        CHECK_INT(pthread_create(&thread, NULL, watch, &w), 0);
        through = prefill(s, &f, &err);
        w.ended = true;
        pthread_join(thread, NULL);
    }
    CHECK(!through);
    uint64_t after = launches(NULL) - w.seen;
    CHECK_INT(err.code, ERR_INTERRUPTED);
    CHECK_INT(session_n_past(s), 0);
    CHECK_MSG(after <= FEW_LAYERS * layer, "%d launches after the stop, a layer has %d, a step %d",
              (int)after, (int)layer, (int)whole);

    atomic_store(&cancel, 0);
    error_clear(&err);
    CHECK_MSG(prefill(s, &f, &err), "%s", err.text);
    CHECK(largest_difference(session_logits(s), row, f.n_vocab) <= f.tolerance);
    session_close(s);
    engine_close(e);
    fixture_free(&f);
}

int main(void)
{
    if (!gpu_test_load())
        return check_finish();
    gpu_test_hook("cuda_host_launches", &launches);
    if (!launches || !check_fixtures()) {
        check_skip(launches ? "no fixtures: set TANDEM_FIXTURES for a model to stop"
                            : "a card's launches cannot be counted");
        return check_finish();
    }
    test_stop("deepseek2-lite27", HANDOFF_STOP);
    test_stop("deepseek2-lite27", HANDOFF_CALLBACK);
    test_stop("deepseek2-lite27", HANDOFF_FLAGS);
    test_stop("llama-gqa-linear", HANDOFF_AUTO);
    return check_finish();
}
