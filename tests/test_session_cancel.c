/* A session that is stopped: between batches, in the middle of a step by another thread, anywhere;
 * and that it goes on afterwards as if nothing had been. */
#include <pthread.h>

#include "src/base/util.h"
#include "tests/session_rig.h"

static void test_cancel(void)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    atomic_int cancel = 0;
    check_case("a set flag stops prefill behind the completed batches");
    if (!open_engine(&e, latent_path, true, &err) || !open_session(&s, e, &cancel, &err)) {
        engine_close(e);
        return;
    }
    struct steps st = { .cancel = &cancel };
    CHECK(!session_prefill(s, text, 60, note_step, &st, &err));
    CHECK_INT(err.code, ERR_INTERRUPTED);
    CHECK_INT(session_n_past(s), 16);
    CHECK(!session_decode(s, text[16], &err));
    CHECK_INT(session_n_past(s), 16);

    check_case("an interrupted session goes on as if nothing had been");
    atomic_store(&cancel, 0);
    err = (struct error){ 0 };
    CHECK_MSG(session_prefill(s, text, 60, NULL, NULL, &err), "%s", err.text);
    check_same(s, e, text, 60);

    check_case("progress can stop prefill");
    session_truncate(s, 0);
    st = (struct steps){ .stop_at = 2 };
    CHECK(!session_prefill(s, text, 60, note_step, &st, &err));
    CHECK_INT(err.code, ERR_INTERRUPTED);
    CHECK_INT(session_n_past(s), 32);
    session_close(s);
    engine_close(e);
}

struct alarm_clock {
    atomic_int *cancel;
    double after_s, rang_s; /* rang_s: as check_cpu_s counts */
};

static void *ring(void *ctx)
{
    struct alarm_clock *c = ctx;
    nanosleep(&(struct timespec){ .tv_sec = (time_t)c->after_s,
                                  .tv_nsec = (long)(fmod(c->after_s, 1) * 1e9) }, NULL);
    atomic_store(c->cancel, 1);
    c->rang_s = check_cpu_s();
    return NULL;
}

/* In the middle of a step, whatever it is doing. */
static void test_cancel_soon(void)
{
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    atomic_int cancel = 0;
    check_case("a flag set by another thread stops a running call within 200 ms of work");
    struct engine_options eo = { .n_threads = 1, .act_f32 = true, .isa_given = true, .n_batch = 4096 };
    struct session_options so = { .n_ctx = 4096, .cancel = &cancel };
    int32_t *tokens = calloc(4096, sizeof *tokens);
    if (CHECK(engine_open(&e, latent_path, &eo, &err)) && CHECK(session_open(&s, e, &so, &err))) {
        struct alarm_clock clock = { .cancel = &cancel, .after_s = 0.02 };
        pthread_t thread;
        bool ok = true;
        CHECK_INT(pthread_create(&thread, NULL, ring, &clock), 0);
        while (ok) { /* decode, should one prefill end before the bell */
            session_truncate(s, 0);
            ok = session_prefill(s, tokens, 64, NULL, NULL, &err);
        }
        double stopped = check_cpu_s();
        pthread_join(thread, NULL);
        CHECK_INT(err.code, ERR_INTERRUPTED);
        CHECK_MSG(stopped - clock.rang_s < 0.2, "%.0f ms", (stopped - clock.rang_s) * 1e3);
    }
    free(tokens);
    session_close(s);
    engine_close(e);
}

/* Stopped at some moment, in whatever operation: the session holds whole batches, and the rest of
 * the prompt leads to the bits of a run that nobody disturbed. */
static void stop_at(struct session *s, atomic_int *cancel, double after_s, const int32_t *tokens,
                    int n, int n_batch, const float *wanted)
{
    struct error err = { 0 };
    struct alarm_clock clock = { .cancel = cancel, .after_s = after_s };
    pthread_t thread;
    session_truncate(s, 0);
    CHECK_INT(pthread_create(&thread, NULL, ring, &clock), 0);
    bool ok = session_prefill(s, tokens, n, NULL, NULL, &err);
    pthread_join(thread, NULL);
    CHECK(ok || err.code == ERR_INTERRUPTED);
    int64_t n_past = session_n_past(s);
    CHECK_MSG(n_past % n_batch == 0 && ok == (n_past == n), "%lld tokens are there",
              (long long)n_past);
    CHECK(memcmp(session_tokens(s), tokens, (size_t)n_past * sizeof *tokens) == 0);

    atomic_store(cancel, 0);
    err = (struct error){ 0 };
    CHECK_MSG(session_prefill(s, tokens, n, NULL, NULL, &err), "%s", err.text);
    if (!ok) /* otherwise only the last token was computed again, alone */
        CHECK_MSG(memcmp(session_logits(s), wanted, N_VOCAB * sizeof *wanted) == 0,
                  "other logits after a stop behind %lld tokens", (long long)n_past);
}

static void test_cancel_anywhere(const char *path)
{
    enum { N = 768, BATCH = 192, STOPS = 7 };
    struct engine *e = NULL;
    struct session *s = NULL;
    struct error err = { 0 };
    atomic_int cancel = 0;
    check_case("stopped anywhere in a prefill, a session goes on with the same bits: %s",
               strrchr(path, '/'));
    struct engine_options eo = { .n_threads = 2, .n_batch = BATCH };
    struct session_options so = { .n_ctx = N, .cancel = &cancel };
    if (CHECK(engine_open(&e, path, &eo, &err)) && CHECK(session_open(&s, e, &so, &err))) {
        int32_t tokens[N];
        float wanted[N_VOCAB];
        for (int i = 0; i < N; i++)
            tokens[i] = text[i % N_CTX];
        double start = now_s();
        CHECK_MSG(session_prefill(s, tokens, N, NULL, NULL, &err), "%s", err.text);
        double took = now_s() - start;
        memcpy(wanted, session_logits(s), sizeof wanted);
        for (int i = 0; i < STOPS; i++)
            stop_at(s, &cancel, took * (i + 0.5) / STOPS, tokens, N, BATCH, wanted);
    }
    session_close(s);
    engine_close(e);
}

int main(void)
{
    if (session_rig_open()) {
        test_cancel();
        test_cancel_soon();
        test_cancel_anywhere(latent_path);
        test_cancel_anywhere(grouped_path);
    }
    session_rig_close();
    return check_finish();
}
