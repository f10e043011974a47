/* Timelines of V4, whose cache keeps rings beside rows: taken back, interrupted and kept in a file at
 * any point, they must go on as if nothing had happened. */
#include <pthread.h>
#include <unistd.h>

#include "cpu/device_cpu.h"
#include "cpu/sparse.h"
#include "src/engine/prefix_file.h"
#include "src/model/arch.h"
#include "src/model/checkpoint.h"
#include "tests/fixture_model.h"
#include "tests/tiny_model.h"

#define N_TOKENS 300
#define N_OTHER 24
#define N_VOCAB 320
#define BATCH 64
#define TOLERANCE 5e-4

static struct engine *engine;
static int32_t text[N_TOKENS], other[N_OTHER];
static float logits_of[N_TOKENS + N_OTHER][N_VOCAB];

static bool keep(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    (void)ctx, (void)err;
    memcpy(logits_of[first], rows, (size_t)n_rows * sizeof logits_of[0]);
    return true;
}

static bool ignore(void *ctx, int64_t first, int n_rows, const float *rows, struct error *err)
{
    (void)ctx, (void)first, (void)n_rows, (void)rows, (void)err;
    return true;
}

static struct session *open_session(const atomic_int *cancel)
{
    struct error err = { 0 };
    struct session *s = NULL;
    CHECK_MSG(session_open(&s, engine, &(struct session_options){ .n_ctx = N_TOKENS + N_OTHER,
                                                                  .cancel = cancel }, &err),
              "%s", err.text);
    return s;
}

static void eval(struct session *s, const int32_t *tokens, int64_t n, int batch, logits_sink *sink)
{
    struct error err = { 0 };
    CHECK_MSG(session_eval(s, tokens, n, batch, sink, NULL, &err), "%s", err.text);
}

/* The first n tokens of the text, then the others, in one go: the others' logits. */
static void undisturbed(int64_t n, float wanted[N_OTHER][N_VOCAB])
{
    struct session *s = open_session(NULL);
    eval(s, text, n, 0, ignore);
    eval(s, other, N_OTHER, 0, keep);
    memcpy(wanted, logits_of[n], N_OTHER * sizeof wanted[0]);
    session_close(s);
}

/* The session holds the first n tokens of the text: go on with the others. */
static void check_goes_on(struct session *s, int64_t n)
{
    static float wanted[N_OTHER][N_VOCAB];
    undisturbed(n, wanted);
    CHECK_INT(session_n_past(s), n);
    eval(s, other, N_OTHER, 5, keep);
    double d = largest_difference(logits_of[n], wanted[0], N_OTHER * N_VOCAB);
    CHECK_MSG(d <= TOLERANCE, "behind %d positions logits differ by %.3g", (int)n, d);
}

/* ---- taken back ---- */

static void test_taken_back(void)
{
    static const int64_t kept[] = { 299, 297, 292, 291, 290, 257, 256, 255, 200, 130, 128, 127, 64, 7,
                                    1, 0 };
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        check_case("%d positions taken back to %d", N_TOKENS, (int)kept[i]);
        struct session *s = open_session(NULL);
        eval(s, text, N_TOKENS, BATCH, ignore);
        session_truncate(s, kept[i]);
        check_goes_on(s, kept[i]);
        session_close(s);
    }
    check_case("taken back again and again, by less than a ring forgives at once");
    struct session *s = open_session(NULL);
    eval(s, text, N_TOKENS, BATCH, ignore);
    for (int64_t n = N_TOKENS - 5; n >= N_TOKENS - 40; n -= 5) {
        session_truncate(s, n);
        eval(s, other, 2, 1, ignore);
        session_truncate(s, n);
    }
    check_goes_on(s, N_TOKENS - 40);
    session_close(s);
}

/* ---- interrupted ---- */

static atomic_int cancel;

static void *cancel_soon(void *ctx)
{
    usleep((useconds_t)*(const int *)ctx);
    cancel = 1;
    return NULL;
}

static void test_interrupted(void)
{
    check_case("interrupted in the middle of steps");
    for (int us = 0; us < 12000; us += 800) {
        struct error err = { 0 };
        pthread_t thread;
        struct session *s = open_session(&cancel);
        eval(s, text, 100, 0, ignore);
        CHECK_INT(pthread_create(&thread, NULL, cancel_soon, &us), 0);
        for (int64_t n = 100; n < N_TOKENS && !cancel; n = session_n_past(s))
            session_eval(s, text + n, N_TOKENS - n, 50, ignore, NULL, &err);
        pthread_join(thread, NULL);
        cancel = 0;
        CHECK(session_n_past(s) >= 100);
        check_goes_on(s, session_n_past(s));
        session_close(s);
    }
}

/* ---- kept in a file ---- */

static void test_kept(void)
{
    static const int64_t kept[] = { 1, 3, 4, 6, 70, 127, 128, 131, 260, 300 };
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++) {
        struct error err = { 0 };
        struct prefix_file *f = NULL;
        char path[300];
        int64_t n_read = 0;
        check_case("kept in a file behind %d positions", (int)kept[i]);
        snprintf(path, sizeof path, "%s/tests/timeline.%d.cache", build_folder(), (int)getpid());
        unlink(path);
        struct session *s = open_session(NULL);
        eval(s, text, kept[i], 50, ignore);
        CHECK_MSG(prefix_file_open(&f, path, s, &err) && prefix_file_save(f, s, 0, &err), "%s",
                  err.text);
        prefix_file_close(f);
        session_close(s);

        s = open_session(NULL);
        CHECK_MSG(prefix_file_open(&f, path, s, &err) &&
                  prefix_file_restore(f, s, text, kept[i], &n_read, NULL, NULL, &err),
                  "%s", err.text);
        CHECK_INT(n_read, kept[i]);
        if (session_n_past(s) == kept[i])
            check_goes_on(s, kept[i]);
        prefix_file_close(f);
        session_close(s);
        unlink(path);
    }
}

/* ---- checkpoints by themselves ---- */

static void take(struct checkpoints *k, struct kvcache *c, struct device *d, int64_t n)
{
    for (int i = 0; i < c->n_parts; i++) /* what rings hold tells when */
        if (c->parts[i].kind == CACHE_RING)
            memset(c->parts[i].data, (int)n & 255, c->parts[i].row_bytes);
    checkpoints_take(k, c, d, n);
}

static void check_at(struct checkpoints *k, struct kvcache *c, struct device *d, int64_t n_past,
                     int64_t n, int64_t wanted)
{
    const struct model *m = engine_model(engine);
    const struct cache_part *ring = kvcache_part(c, 0, "window");
    CHECK_INT(checkpoints_rewind(k, m->arch, &m->params, c, d, n_past, n), wanted);
    if (wanted > 0 && wanted != n)
        CHECK_INT((unsigned char)ring->data[0], wanted & 255);
}

static void test_checkpoints(void)
{
    check_case("checkpoints: spread over the timeline, and forgotten with it");
    const struct model *m = engine_model(engine);
    struct error err = { 0 };
    struct kvcache c;
    struct checkpoints k;
    struct device *d = NULL;
    struct pool *pool = NULL;
    bool ok = pool_open(&pool, 1, &err) &&
              device_cpu_open(&d, &(struct device_cpu_options){ .pool = pool, .max_tokens = 1,
                                                                .max_cols = 8, .max_rows = 8,
                                                                .n_ctx = 8, .n_heads = 1,
                                                                .head_width = 2 }, &err) &&
              kvcache_open(&c, m->arch, &m->params, TYPE_F16, 1000, d, &err) &&
              checkpoints_open(&k, m->arch, &c, &err);
    if (!CHECK_MSG(ok, "%s", err.text))
        return;
    CHECK(k.bytes * CHECKPOINTS == checkpoints_bytes(m->arch, &m->params, TYPE_F16, 1000));
    check_at(&k, &c, d, 50, 45, 45); /* the rings forgive eight */
    check_at(&k, &c, d, 45, 30, 0);  /* nothing to go back to */
    for (int64_t n = 100; n <= 600; n += 100)
        take(&k, &c, d, n);
    CHECK_INT(k.n, CHECKPOINTS);
    CHECK_INT(k.at[CHECKPOINTS - 1].position, 600);
    for (int i = 1; i < CHECKPOINTS; i++)
        CHECK(k.at[i].position - k.at[i - 1].position <= 300);
    int64_t third = k.at[2].position, second = k.at[1].position;
    check_at(&k, &c, d, 650, third + 9, third);
    CHECK_INT(k.n, 3);
    check_at(&k, &c, d, third, third - 5, third - 5);
    CHECK_INT(k.n, 2);
    check_at(&k, &c, d, third - 5, second + 1, second);
    check_at(&k, &c, d, second, 20, 0);
    CHECK_INT(k.n, 0);
    checkpoints_close(&k);
    kvcache_close(&c, d);
    d->ops->close(d);
    pool_close(pool);
}

/* ---- hyper-connections ---- */

/* Values of a computation in double precision by another program. */
static void test_gates(void)
{
    check_case("gates of hyper-connections: known values, sums of rows and columns");
    static const float pre[] = { .6657520f, .6660877f, .5142894f, .3477925f };
    static const float post[] = { .4243161f, .8341104f, 1.4422704f, 1.5920249f };
    static const float wanted[] = { .3609470f, .2168840f, .1816574f, .2405106f,
                                    .1543917f, .3982038f, .3401988f, .1072048f,
                                    .0519538f, .1030988f, .3192365f, .5257099f,
                                    .4327065f, .2818124f, .1589064f, .1265738f };
    float mix[24], base[24], scale[] = { 0.7f, 1.3f, 0.9f }, found_pre[4], found_post[4], c[16];
    for (int i = 0; i < 24; i++) {
        mix[i] = sinf((float)(i + 1));
        base[i] = 0.1f * cosf((float)i);
    }
    struct hyper h = { .n_streams = 4, .n_passes = 20, .eps = 1e-6f, .rms_eps = 1e-6f,
                       .scale = { .data = scale, .cols = 3 }, .base = { .data = base, .cols = 24 } };
    hyper_gates(&h, mix, found_pre, found_post, c);
    for (int i = 0; i < 4; i++) {
        float row = 0, column = 0;
        CHECK(fabsf(found_pre[i] - pre[i]) < 1e-6f && fabsf(found_post[i] - post[i]) < 1e-6f);
        for (int k = 0; k < 4; k++) {
            row += c[4 * i + k];
            column += c[4 * k + i];
            CHECK_MSG(fabsf(c[4 * i + k] - wanted[4 * i + k]) < 1e-6f, "C[%d][%d] is %g", i, k,
                      (double)c[4 * i + k]);
        }
        CHECK(fabsf(row - 1) < 1e-5f && fabsf(column - 1) < 1e-5f);
    }
    h.base.cols = 4; /* at the end there is nothing but pre */
    found_post[0] = 7;
    hyper_gates(&h, mix, found_pre, found_post, c);
    CHECK(found_post[0] == 7 && fabsf(found_pre[3] - pre[3]) < 1e-6f);
}

int main(void)
{
    struct error err = { 0 };
    test_gates();
    if (!check_fixtures()) {
        check_case("timelines of V4");
        check_skip("no fixtures: set TANDEM_FIXTURES to the reference models");
        return check_finish();
    }
    for (int i = 0; i < N_TOKENS; i++)
        text[i] = (i * 41 + i * i % 17 + 3) % N_VOCAB;
    for (int i = 0; i < N_OTHER; i++)
        other[i] = (i * 29 + 11) % N_VOCAB;
    check_case("the model");
    struct engine_options o = { .n_threads = 2, .act_f32 = true, .n_batch = N_TOKENS };
    if (!CHECK_MSG(engine_open(&engine, check_fixture("models/deepseek4.gguf"), &o, &err), "%s",
                   err.text))
        return check_finish();
    test_taken_back();
    test_interrupted();
    test_kept();
    test_checkpoints();
    engine_close(engine);
    return check_finish();
}
