/* The hand-off by itself, on a stream of the emulation: order, many steps, work that comes too late,
 * and a card that is lost meanwhile. */
#include <stdatomic.h>
#include <time.h>

#include "src/engine/handoff.h"
#include "tests/gpu_test.h"

#define N_JOBS 20
#define N_REPLAYS 1000 /* ten times as many in long tests */
#define PATIENCE_S 0.4 /* with a card that has forgotten us */
#define LIMIT_S 0.2    /* for a piece that is held; others keep it as soon as the machine lets them */
#define TRIES 100

static const struct gpu_library *library;
static const struct gpu_launchers *gpu;
static struct gpu_stream *stream;

static struct gpu_stream *open_stream(double patience_s)
{
    struct error err = { 0 };
    struct gpu_limits l = { .act_f32 = true, .max_tokens = 1, .max_cols = 32, .n_ctx = 8,
                            .head_width = 8, .patience_s = patience_s };
    struct gpu_stream *s = NULL;
    CHECK_MSG(library->stream_open(&s, 0, &l, &err), "%s", err.text);
    return s;
}

/* Each piece adds its number to what the queue brought; the queue doubles the sum behind it. */
struct work {
    float *in, *out;      /* pinned, one float each */
    int n_calls, wrong;
    atomic_bool hold;    /* piece 3 lasts until this is taken away */
    bool random_delays;  /* now and then, of any piece */
    uint32_t epoch;      /* what its numbers carry beside the piece's */
};

static void sleep_ms(int ms)
{
    nanosleep(&(struct timespec){ 0, ms * 1000000l }, NULL);
}

static void compute(void *ctx, int job)
{
    struct work *w = ctx;
    while (job == 3 && w->hold)
        sleep_ms(1);
    if (w->random_delays && check_random() % 64 == 0)
        nanosleep(&(struct timespec){ 0, (long)(check_random() % 400) * 1000 }, NULL);
    w->wrong += job != w->n_calls++;
    *w->out = *w->in + (float)job + (float)(w->epoch % 1000);
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
    CHECK_MSG(handoff_open(&h, LIMIT_S, &err), "%s", err.text);
    w->hold = true;
    CHECK(!run_step(h, w, x, &result, &err));
    CHECK_INT(err.code, ERR_RUN);
    CHECK_MSG(strstr(err.text, "within 0.2 seconds"), "says %s", err.text);
    check_case("so does the next step while that piece is running");
    error_clear(&err);
    CHECK(!run_step(h, w, x, &result, &err));
    CHECK_INT(err.code, ERR_RUN);
    check_case("afterwards all is well");
    w->hold = false;
    bool ok = false;
    for (int i = 0; i < TRIES && !ok; i++) { /* that piece ends; a busy machine may be late once more */
        sleep_ms(20);
        error_clear(&err);
        w->wrong = 0;
        ok = run_step(h, w, x, &result, &err);
    }
    CHECK_MSG(ok, "%s", err.text);
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

/* ---- by flags, in a recorded step ---- */

#define N_FLAG_JOBS 4

/* A step in device memory, and a record of N_FLAG_JOBS hand-offs; `without` leaves one publish out. */
struct recorded_step {
    struct gpu_step *host, *state; /* pinned, device */
    struct gpu_flags *flags;
    struct gpu_record *record;
};

static bool record_step(struct recorded_step *r, struct work *w, float *x, int without,
                        double poll_s, struct error *err)
{
    struct rows dst = { x, 1, 1 }, sum = { w->out, 1, 1 };
    struct gpu_parcel parcel = { { { (uint32_t *)(void *)w->in, (uint32_t *)(void *)x, 1 },
                                   { NULL, NULL, 0 }, { NULL, NULL, 0 } } };
    r->host = gpu->host_alloc(stream, sizeof *r->host, "test", err);
    r->flags = gpu->host_alloc(stream, sizeof *r->flags, "test", err);
    r->state = gpu->alloc(stream, sizeof *r->state, "test", err);
    if (!CHECK(r->host && r->flags && r->state))
        return false;
    gpu->record(stream);
    gpu->fill(stream, x, 0, sizeof *x);
    for (int job = 0; job < N_FLAG_JOBS; job++) {
        if (job != without)
            gpu->publish(stream, &parcel, r->flags, r->state, job);
        gpu->fill(stream, x, 0xff, sizeof *x);
        gpu->collect(stream, dst, sum, r->flags, r->state, job, poll_s, 1);
        gpu->add(stream, dst, dst, dst, 1);
    }
    r->record = gpu->recorded(stream, err);
    return CHECK_MSG(r->record, "%s", err->text);
}

static void drop_step(struct recorded_step *r)
{
    gpu->forget(stream, r->record);
    gpu->release(stream, r->state);
    gpu->host_release(stream, r->flags);
    gpu->host_release(stream, r->host);
}

static void start_step(struct recorded_step *r, struct handoff *h, struct work *w, uint32_t epoch,
                       float *x, float *result)
{
    w->n_calls = 0;
    w->epoch = epoch;
    r->host->epoch = epoch;
    gpu->write(stream, r->state, r->host, sizeof *r->host);
    handoff_begin(h, compute, w);
    handoff_expect(h, N_FLAG_JOBS, r->flags, epoch);
    gpu->replay(stream, r->record);
    gpu->read(stream, result, x, sizeof *x);
}

static void test_flags(struct work *w, float *x, float *result)
{
    void (*set_order)(uint64_t);
    struct error err = { 0 };
    struct handoff *h;
    struct recorded_step r;
    int n_wrong = 0;
    gpu_test_hook("cuda_host_order", &set_order);
    check_case("flags: a record is replayed, each step with its own numbers");
    if (!CHECK_MSG(handoff_open(&h, 60, &err), "%s", err.text) ||
        !record_step(&r, w, x, -1, 60, &err))
        return;
    w->random_delays = true;
    uint32_t n_replays = getenv("TANDEM_TEST_LONG") ? 10 * N_REPLAYS : N_REPLAYS;
    for (uint32_t i = 0; i < n_replays; i++) {
        uint32_t epoch = UINT32_MAX / GPU_JOBS - N_REPLAYS / 2 + i; /* tickets wrap around */
        float sum = 0;
        if (set_order)
            set_order(i % 3);
        start_step(&r, h, w, epoch, x, result);
        if (!CHECK_MSG(handoff_finish(h, gpu, stream, &err) && gpu->finish(stream, &err), "%s",
                       err.text))
            break;
        for (int job = 0; job < N_FLAG_JOBS; job++)
            sum = 2 * (sum + (float)job + (float)(epoch % 1000));
        n_wrong += *result != sum || w->n_calls != N_FLAG_JOBS || w->wrong;
    }
    CHECK_INT(n_wrong, 0);
    w->random_delays = false;
    w->epoch = 0;

    check_case("flags: a piece that takes longer than the limit fails the step");
    handoff_close(h);
    handoff_open(&h, LIMIT_S, &err);
    w->hold = true;
    start_step(&r, h, w, 7, x, result);
    CHECK(!handoff_finish(h, gpu, stream, &err));
    CHECK_INT(err.code, ERR_RUN);
    CHECK(gpu->finish(stream, NULL)); /* the card was not held back */
    check_case("flags: so does the next step while that piece is running");
    error_clear(&err);
    start_step(&r, h, w, 8, x, result);
    CHECK(!handoff_finish(h, gpu, stream, &err));
    CHECK_INT(err.code, ERR_RUN);
    CHECK(gpu->finish(stream, NULL));
    check_case("flags: afterwards all is well");
    w->hold = false;
    bool ok = false;
    for (uint32_t i = 0; i < TRIES && !ok; i++) {
        sleep_ms(20);
        error_clear(&err);
        w->wrong = 0;
        start_step(&r, h, w, 9 + i, x, result);
        ok = handoff_finish(h, gpu, stream, &err);
        CHECK(gpu->finish(stream, NULL));
    }
    CHECK_MSG(ok, "%s", err.text);
    CHECK_INT(w->n_calls, N_FLAG_JOBS);
    handoff_close(h);
    w->epoch = 0;

    check_case("flags: a CPU that does not answer holds the card for a while only");
    drop_step(&r);
    if (record_step(&r, w, x, -1, 0.05, &err)) {
        r.host->epoch = 10;
        gpu->write(stream, r.state, r.host, sizeof *r.host);
        gpu->replay(stream, r.record);
        CHECK_MSG(gpu->finish(stream, &err), "%s", err.text);
        CHECK_INT(r.flags->abandoned.word, 10);
        CHECK_INT(r.flags->published.word, gpu_ticket(10u, N_FLAG_JOBS - 1));
    }
    drop_step(&r);
}

/* A kernel that forgets to publish: the CPU waits as long as its patience with the card lasts. The
 * stream of this test is lost with it. */
static void test_missing_publish(struct work *w, float *x, float *result)
{
    struct error err = { 0 };
    struct handoff *h;
    struct recorded_step r;
    check_case("flags: a publish that is missing ends the step");
    if (!CHECK_MSG(handoff_open(&h, 60, &err), "%s", err.text) ||
        !record_step(&r, w, x, 2, 60, &err))
        return;
    start_step(&r, h, w, 11, x, result);
    CHECK(!handoff_finish(h, gpu, stream, &err));
    CHECK(!gpu->finish(stream, &err));
    CHECK_INT(err.code, ERR_DEVICE);
    CHECK_INT(w->n_calls, 2);
    for (int i = 0; i < 6000 && !gpu->is_idle(stream); i++) /* it was told to go on without us */
        sleep_ms(10);
    CHECK(gpu->is_idle(stream));
    handoff_close(h);
    drop_step(&r);
}

/* ---- in a step of a device ---- */

struct slow {
    struct handoff *handoff;
    struct gpu_stream *s;
    atomic_bool hold;
};

static void sleep_on(void *ctx, int job)
{
    const struct slow *p = ctx;
    (void)job;
    while (p->hold)
        sleep_ms(1);
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
    struct slow p = { .hold = true };
    struct gpu_device_options o = { .limits = { .act_f32 = true, .max_tokens = 1, .max_cols = 32,
                                                .n_ctx = 8, .head_width = 8 },
                                    .n_vocab = 1,
                                    .partner = { .ctx = &p, .begin = slow_begin, .end = slow_end,
                                                 .finish = slow_finish } };
    int32_t token = 0;
    struct step step = { .tokens = &token, .n_tokens = 1 };
    struct experts e = { .top_k = 1 };
    struct rows r = { x, 1, 1 };
    check_case("a device's step fails with it, and the next one does not");
    bool ok = handoff_open(&p.handoff, LIMIT_S, &err) && library->device_open(&d, &o, &err);
    if (!CHECK_MSG(ok, "%s", err.text))
        return;
    p.s = library->device_stream(d);
    ok = false;
    for (int i = 0; i < TRIES && !ok; i++) {
        error_clear(&err);
        d->ops->begin(d, &step);
        experts_begin(d, &e, r);
        experts_end(d, r);
        ok = d->ops->end(d, &err);
        CHECK_MSG(!ok || i > 0, "the piece that is held was not waited for");
        CHECK_INT(err.code, ok ? ERR_NONE : ERR_RUN);
        p.hold = false;
        sleep_ms(20);
    }
    CHECK_MSG(ok, "%s", err.text);
    handoff_close(p.handoff);
    d->ops->close(d);
}

int main(void)
{
    struct error err = { 0 };
    struct work w = { .n_calls = 0 };
    if (!(library = gpu_test_load()) || !(stream = open_stream(60)))
        return check_finish();
    gpu = &library->launch;
    w.in = gpu->host_alloc(stream, sizeof *w.in, "test", &err);
    w.out = gpu->host_alloc(stream, sizeof *w.out, "test", &err);
    float *x = gpu->alloc(stream, sizeof *x, "test", &err);
    float *result = gpu->host_alloc(stream, sizeof *result, "test", &err);
    if (CHECK_MSG(w.in && w.out && x && result, "%s", err.text)) {
        test_flags(&w, x, result);
        test_steps(&w, x);
        test_late(&w, x);
        test_device(x);
        test_lost(&w, x);
        library->stream_close(stream);
        if ((stream = open_stream(PATIENCE_S)))
            test_missing_publish(&w, x, result);
    }
    gpu->release(stream, x);
    gpu->host_release(stream, w.in);
    gpu->host_release(stream, w.out);
    gpu->host_release(stream, result);
    library->stream_close(stream);
    return check_finish();
}
