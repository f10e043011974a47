#include "src/engine/handoff.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <time.h>

#include "src/base/mem.h"
#include "src/base/thread.h"
#include "src/base/util.h"

#define LOOK_S 0.02 /* between two looks at a queue that may have failed */

/* Polling a flag: at first without giving the processor away, which bridges what the GPU does between
 * two layers; then giving it away to who wants it; then, when the GPU has much to do, asleep. */
#define SPIN_S 200e-6
#define YIELD_S 5e-3
#define NAP_NS 50000
#define POLLS_PER_LOOK 64 /* at the clock */

struct handoff {
    pthread_t thread;
    pthread_mutex_t lock; /* protects what follows */
    pthread_cond_t changed;
    handoff_work *work;
    void *ctx;
    int n_started, n_done; /* pieces of this step */
    bool late;             /* one took longer than the limit: no more are started */
    bool given_up;         /* the card, for ever: it calls in vain */
    double moved_s;        /* when the counts changed last */
    bool polling;          /* the thread, without the lock */
    bool quit;
    struct gpu_flags *flags; /* of this step; NULL: by calls */
    uint32_t epoch;
    struct handoff *next;  /* of those that a card may call yet */

    int n_queued; /* pieces; changed by the queueing thread alone */
    int n_settled; /* those that it has waited for; its own */
    atomic_bool stop_polling; /* the flag will not come: relaxed, it says nothing about other memory */
    double limit_s;
};

static struct handoff *kept; /* closed, and a card may call them yet */

static struct timespec seconds_from_now(double s)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    int64_t ns = t.tv_nsec + (int64_t)(s * 1e9);
    t.tv_sec += (time_t)(ns / 1000000000);
    t.tv_nsec = (long)(ns % 1000000000);
    return t;
}

/* Under the lock: wait until nothing is being computed. False: it takes longer than the limit. */
static bool await_idle(struct handoff *h)
{
    struct timespec end = seconds_from_now(h->limit_s);
    int result = 0;
    while (h->n_done < h->n_started && result == 0)
        result = pthread_cond_timedwait(&h->changed, &h->lock, &end);
    return h->n_done == h->n_started;
}

/* Under the lock: nothing more is computed in this step, and the queue is not held back for it. */
static void let_go(struct handoff *h)
{
    h->late = true;
    atomic_store_explicit(&h->stop_polling, true, memory_order_relaxed);
    if (h->flags)
        __atomic_store_n(&h->flags->abandoned.word, h->epoch, __ATOMIC_RELEASE);
    pthread_cond_broadcast(&h->changed);
}

/* ---- the thread ---- */

static inline void pause_core(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool must_stop(const struct handoff *h)
{
    return atomic_load_explicit(&h->stop_polling, memory_order_relaxed);
}

/* Poll until the GPU has published that piece: what it wrote before is visible then. False: somebody
 * says that it will not. */
static bool await_published(struct handoff *h, const uint32_t *word, uint32_t ticket)
{
    double start = now_s(), waited = 0;
    for (unsigned n = 1; __atomic_load_n(word, __ATOMIC_ACQUIRE) != ticket; n++) {
        if (must_stop(h))
            return false;
        if (waited < SPIN_S)
            pause_core();
        else if (waited < YIELD_S)
            sched_yield();
        else
            nanosleep(&(struct timespec){ 0, NAP_NS }, NULL);
        if (n % POLLS_PER_LOOK == 0 || waited >= SPIN_S)
            waited = now_s() - start;
    }
    return true;
}

/* Under the lock: is the next piece there, or will it be by a flag? */
static bool has_next(const struct handoff *h)
{
    return h->n_done < h->n_started || (h->flags && !must_stop(h) && h->n_done < h->n_queued);
}

/* Under the lock, which is not held meanwhile: compute the next piece. */
static void compute_next(struct handoff *h)
{
    int job = h->n_done;
    struct gpu_flags *flags = h->flags;
    uint32_t ticket = gpu_ticket(h->epoch, job);
    if (flags) {
        h->polling = true;
        pthread_mutex_unlock(&h->lock);
        bool came = await_published(h, &flags->published.word, ticket);
        pthread_mutex_lock(&h->lock);
        h->polling = false;
        if (must_stop(h)) /* somebody waits for that */
            pthread_cond_broadcast(&h->changed);
        if (!came || must_stop(h))
            return;
        h->n_started++;
    }
    h->moved_s = now_s();
    pthread_mutex_unlock(&h->lock);
    h->work(h->ctx, job);
    if (flags)
        __atomic_store_n(&flags->done.word, ticket, __ATOMIC_RELEASE);
    pthread_mutex_lock(&h->lock);
    h->n_done++;
    h->moved_s = now_s();
    /* with flags nobody sleeps for a single piece, unless the step ends before its time */
    if (!flags || h->n_done == h->n_queued || must_stop(h))
        pthread_cond_broadcast(&h->changed);
}

static void *compute(void *arg)
{
    struct handoff *h = arg;
    pthread_mutex_lock(&h->lock);
    while (!h->quit) {
        if (has_next(h))
            compute_next(h);
        else
            pthread_cond_wait(&h->changed, &h->lock);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

bool handoff_open(struct handoff **out, double limit_s, struct error *err)
{
    pthread_condattr_t attr;
    *out = NULL;
    struct handoff *h = mem_alloc(1, sizeof *h, "hand-off", err);
    if (!h)
        return false;
    h->limit_s = limit_s;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->changed, &attr);
    pthread_condattr_destroy(&attr);
    if (!thread_start(&h->thread, NULL, compute, h)) {
        pthread_cond_destroy(&h->changed);
        pthread_mutex_destroy(&h->lock);
        mem_free(h);
        return fail(err, ERR_RUN, "a thread for the hand-off cannot be started");
    }
    *out = h;
    return true;
}

void handoff_take_seat(struct handoff *h)
{
    cpu_set_t mask;
    if (pthread_getaffinity_np(pthread_self(), sizeof mask, &mask) == 0)
        pthread_setaffinity_np(h->thread, sizeof mask, &mask);
}

void handoff_abandon(struct handoff *h)
{
    pthread_mutex_lock(&h->lock);
    h->given_up = true;
    let_go(h);
    pthread_mutex_unlock(&h->lock);
}

void handoff_close(struct handoff *h)
{
    if (!h)
        return;
    pthread_mutex_lock(&h->lock);
    h->quit = true;
    atomic_store_explicit(&h->stop_polling, true, memory_order_relaxed);
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
    pthread_join(h->thread, NULL);
    if (h->given_up) {
        h->next = kept;
        kept = h;
        return;
    }
    pthread_cond_destroy(&h->changed);
    pthread_mutex_destroy(&h->lock);
    mem_free(h);
}

/* ---- on a thread of the driver ---- */

static void start(void *arg)
{
    struct handoff *h = arg;
    pthread_mutex_lock(&h->lock);
    if (!h->late)
        h->n_started++;
    h->moved_s = now_s();
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
}

static void hold_back(void *arg)
{
    struct handoff *h = arg;
    pthread_mutex_lock(&h->lock);
    if (!h->late && !await_idle(h))
        let_go(h);
    pthread_mutex_unlock(&h->lock);
}

/* ---- on the thread that queues ---- */

bool handoff_begin(struct handoff *h, handoff_work *work, void *ctx)
{
    pthread_mutex_lock(&h->lock);
    bool ready = !h->given_up && await_idle(h);
    h->flags = NULL;
    if (ready) {
        h->n_started = h->n_done = 0;
        h->work = work;
        h->ctx = ctx;
    }
    h->late = !ready;
    h->moved_s = now_s();
    h->n_queued = h->n_settled = 0;
    atomic_store_explicit(&h->stop_polling, false, memory_order_relaxed);
    pthread_mutex_unlock(&h->lock);
    return ready;
}

void handoff_expect(struct handoff *h, int n_jobs, struct gpu_flags *flags, uint32_t epoch)
{
    pthread_mutex_lock(&h->lock);
    h->n_queued = n_jobs;
    h->flags = flags;
    h->epoch = epoch;
    atomic_store_explicit(&h->stop_polling, h->late, memory_order_relaxed);
    if (h->late)
        let_go(h);
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->lock);
}

double handoff_poll_s(const struct handoff *h)
{
    return h->limit_s + 10;
}

void handoff_queue_start(struct handoff *h, const struct gpu_launchers *gpu, struct gpu_stream *s)
{
    gpu->call(s, start, h);
    h->n_queued++;
}

void handoff_queue_wait(struct handoff *h, const struct gpu_launchers *gpu, struct gpu_stream *s)
{
    gpu->call(s, hold_back, h);
}

/* Under the lock: wait until *count has come to `wanted`. It does not when a piece is late, when the
 * queue has ended without it, or the card is silent for too long while nothing is computed. */
static void await_count(struct handoff *h, const int *count, int wanted,
                        const struct gpu_launchers *gpu, struct gpu_stream *s)
{
    while (!h->late && *count < wanted) {
        struct timespec soon = seconds_from_now(LOOK_S);
        if (pthread_cond_timedwait(&h->changed, &h->lock, &soon) != ETIMEDOUT)
            continue;
        if (gpu->is_idle(s))
            return;
        bool computing = h->n_done < h->n_started;
        if (computing && h->flags && now_s() > h->moved_s + h->limit_s)
            let_go(h);
        if (!computing && now_s() > gpu->deadline(s, h->moved_s)) {
            gpu->give_up(s);
            h->given_up = true;
            let_go(h);
        }
    }
}

void handoff_keep_pace(struct handoff *h, const struct gpu_launchers *gpu, struct gpu_stream *s)
{
    pthread_mutex_lock(&h->lock);
    await_count(h, &h->n_started, h->n_queued - 1, gpu, s);
    pthread_mutex_unlock(&h->lock);
}

bool handoff_is_settled(const struct handoff *h)
{
    return h->n_settled == h->n_queued;
}

bool handoff_finish(struct handoff *h, const struct gpu_launchers *gpu, struct gpu_stream *s,
                    struct error *err)
{
    pthread_mutex_lock(&h->lock);
    await_count(h, &h->n_done, h->n_queued, gpu, s);
    h->n_settled = h->n_queued;
    atomic_store_explicit(&h->stop_polling, true, memory_order_relaxed);
    while (h->polling)
        pthread_cond_wait(&h->changed, &h->lock);
    if (h->flags && __atomic_load_n(&h->flags->abandoned.word, __ATOMIC_ACQUIRE) == h->epoch)
        h->late = true; /* the GPU did not want to wait any longer */
    if (h->given_up) { /* the stream says so */
        pthread_mutex_unlock(&h->lock);
        return false;
    }
    bool ok = !h->late && await_idle(h);
    pthread_mutex_unlock(&h->lock);
    return ok || fail(err, ERR_RUN, "the CPU did not come back with the experts of a layer within "
                      "%g seconds", h->limit_s);
}
