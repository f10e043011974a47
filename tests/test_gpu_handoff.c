/* The hand-off by itself, on a stream of the emulation: order, many steps, work that comes too late,
 * and a card that is lost meanwhile. */
#include <time.h>

#include "src/engine/handoff.h"
#include "tests/gpu_test.h"

#define N_JOBS 20

static const struct gpu_library *library;
static const struct gpu_launchers *gpu;
static struct gpu_stream *stream;

static struct gpu_stream *open_stream(void)
{
    struct error err = { 0 };
    struct gpu_limits l = { .act_f32 = true, .max_tokens = 1, .max_cols = 32, .n_ctx = 8,
                            .head_width = 8 };
    struct gpu_stream *s = NULL;
    CHECK_MSG(library->stream_open(&s, 0, &l, &err), "%s", err.text);
    return s;
}

/* Each piece adds its number to what the queue brought; the queue doubles the sum behind it. */
struct work {
    float *in, *out;      /* pinned, one float each */
    int n_calls, wrong;
    double delay_s; /* of piece 3 */
};

static void compute(void *ctx, int job)
{
    struct work *w = ctx;
    if (job == 3 && w->delay_s > 0)
        nanosleep(&(struct timespec){ (time_t)w->delay_s,
                                      (long)((w->delay_s - (double)(time_t)w->delay_s) * 1e9) },
                  NULL);
    w->wrong += job != w->n_calls++;
    *w->out = *w->in + (float)job;
}

/* Queue a step of N_JOBS pieces on *x in device memory; as a device would. */
static bool run_step(struct handoff *h, struct work *w, float *x, float *result,
                     struct error *err)
{
    struct rows r = { x, 1, 1 };
    w->n_calls = 0;
    gpu->fill(stream, x, 0, sizeof *x);
    handoff_begin(h, compute, w);
    for (int job = 0; job < N_JOBS; job++) {
        gpu->read(stream, w->in, x, sizeof *x);
        handoff_queue_start(h, gpu, stream);
        gpu->fill(stream, x, 0xff, sizeof *x); /* something runs meanwhile */
        handoff_queue_wait(h, gpu, stream);
        gpu->write(stream, x, w->out, sizeof *x);
        gpu->add(stream, r, r, r, 1);
    }
    gpu->read(stream, result, x, sizeof *x);
    bool ok = handoff_finish(h, gpu, stream, err);
    return gpu->finish(stream, err) && ok;
}

static float wanted(void)
{
    float x = 0;
    for (int job = 0; job < N_JOBS; job++)
        x = 2 * (x + (float)job);
    return x;
}

static void test_steps(struct work *w, float *x)
{
    struct error err = { 0 };
    struct handoff *h;
    float result = 0;
    check_case("pieces run in order, once each, step after step");
    CHECK_MSG(handoff_open(&h, 60, &err), "%s", err.text);
    for (int i = 0; i < 200; i++) {
        CHECK_MSG(run_step(h, w, x, &result, &err), "%s", err.text);
        CHECK_INT(w->n_calls, N_JOBS);
        CHECK_INT(w->wrong, 0);
        CHECK(result == wanted());
    }
    handoff_close(h);
}

static void test_late(struct work *w, float *x)
{
    struct error err = { 0 };
    struct handoff *h;
    float result = 0;
    check_case("a piece that takes longer than the limit fails the step");
    CHECK_MSG(handoff_open(&h, 0.05, &err), "%s", err.text);
    w->delay_s = 0.4;
    CHECK(!run_step(h, w, x, &result, &err));
    CHECK_INT(err.code, ERR_RUN);
    CHECK_MSG(strstr(err.text, "within 0.05 seconds"), "says %s", err.text);
    check_case("so does the next step while that piece is running");
    error_clear(&err);
    CHECK(!run_step(h, w, x, &result, &err));
    CHECK_INT(err.code, ERR_RUN);
    check_case("afterwards all is well");
    w->delay_s = 0;
    nanosleep(&(struct timespec){ 0, 600000000 }, NULL);
    error_clear(&err);
    w->wrong = 0;
    CHECK_MSG(run_step(h, w, x, &result, &err), "%s", err.text);
    CHECK_INT(w->n_calls, N_JOBS);
    CHECK(result == wanted());
    handoff_close(h);
}

static void test_lost(struct work *w, float *x)
{
    void (*fail_launch)(int64_t), (*lose)(bool);
    struct error err = { 0 };
    struct handoff *h;
    float result = 0;
    gpu_test_hook("cuda_host_fail_launch", &fail_launch);
    gpu_test_hook("cuda_host_lose", &lose);
    if (!fail_launch) /* a card cannot be made to fail */
        return;
    check_case("a card that is lost ends the step");
    CHECK_MSG(handoff_open(&h, 60, &err), "%s", err.text);
    fail_launch(7);
    CHECK(!run_step(h, w, x, &result, &err));
    CHECK_INT(err.code, ERR_DEVICE);
    CHECK(w->n_calls < N_JOBS);
    handoff_close(h);
    lose(false);
    fail_launch(-1);
}

/* ---- in a step of a device ---- */

struct slow {
    struct handoff *handoff;
    struct gpu_stream *s;
    double seconds;
};

static void sleep_on(void *ctx, int job)
{
    const struct slow *p = ctx;
    (void)job;
    nanosleep(&(struct timespec){ 0, (long)(p->seconds * 1e9) }, NULL);
}

static void slow_begin(void *ctx, const struct experts *e, struct rows src, const int32_t *ids,
                       const float *weights, int n_tokens)
{
    struct slow *p = ctx;
    (void)e, (void)src, (void)ids, (void)weights, (void)n_tokens;
    handoff_begin(p->handoff, sleep_on, p);
    handoff_queue_start(p->handoff, gpu, p->s);
}

static void slow_end(void *ctx, struct rows dst, int n_tokens)
{
    struct slow *p = ctx;
    (void)dst, (void)n_tokens;
    handoff_queue_wait(p->handoff, gpu, p->s);
}

static bool slow_finish(void *ctx, struct error *err)
{
    struct slow *p = ctx;
    return handoff_finish(p->handoff, gpu, p->s, err);
}

static void test_device(float *x)
{
    struct error err = { 0 };
    struct device *d;
    struct slow p = { .seconds = 0.3 };
    struct gpu_device_options o = { .limits = { .act_f32 = true, .max_tokens = 1, .max_cols = 32,
                                                .n_ctx = 8, .head_width = 8 },
                                    .n_vocab = 1,
                                    .partner = { &p, NULL, slow_begin, slow_end, slow_finish } };
    int32_t token = 0;
    struct step step = { .tokens = &token, .n_tokens = 1 };
    struct experts e = { .top_k = 1 };
    struct rows r = { x, 1, 1 };
    check_case("a device's step fails with it, and the next one does not");
    bool ok = handoff_open(&p.handoff, 0.04, &err) && library->device_open(&d, &o, &err);
    if (!CHECK_MSG(ok, "%s", err.text))
        return;
    p.s = library->device_stream(d);
    for (int i = 0; i < 2; i++) {
        d->ops->begin(d, &step);
        experts_begin(d, &e, r);
        experts_end(d, r);
        ok = d->ops->end(d, &err);
        CHECK_MSG(ok == (i == 1), "%s", err.text);
        CHECK_INT(err.code, ok ? ERR_NONE : ERR_RUN);
        nanosleep(&(struct timespec){ 0, 400000000 }, NULL);
        p.seconds = 0;
        error_clear(&err);
    }
    handoff_close(p.handoff);
    d->ops->close(d);
}

int main(void)
{
    struct error err = { 0 };
    struct work w = { .n_calls = 0 };
    if (!gpu_test_find())
        return check_finish();
    check_case("GPU library: %s", getenv("TANDEM_GPU"));
    library = gpu_load(&err);
    if (!CHECK_MSG(library, "%s", err.text) || !(stream = open_stream()))
        return check_finish();
    gpu = &library->launch;
    w.in = gpu->host_alloc(stream, sizeof *w.in, "test", &err);
    w.out = gpu->host_alloc(stream, sizeof *w.out, "test", &err);
    float *x = gpu->alloc(stream, sizeof *x, "test", &err);
    if (CHECK_MSG(w.in && w.out && x, "%s", err.text)) {
        test_steps(&w, x);
        test_late(&w, x);
        test_device(x);
        test_lost(&w, x);
    }
    gpu->release(stream, x);
    gpu->host_release(stream, w.in);
    gpu->host_release(stream, w.out);
    library->stream_close(stream);
    return check_finish();
}
