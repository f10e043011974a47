#include "src/engine/handoff.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "src/base/mem.h"
#include "src/base/util.h"

#define LOOK_S 0.02 /* between two looks at a queue that may have failed */

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
    bool quit;
    struct handoff *next;  /* of those that a card may call yet */

    int n_queued; /* of the queueing thread alone */
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

/* ---- the thread ---- */

static void *compute(void *arg)
{
    struct handoff *h = arg;
    pthread_mutex_lock(&h->lock);
    while (!h->quit) {
        if (h->n_done == h->n_started) {
            pthread_cond_wait(&h->changed, &h->lock);
            continue;
        }
        int job = h->n_done;
        pthread_mutex_unlock(&h->lock);
        h->work(h->ctx, job);
        pthread_mutex_lock(&h->lock);
        h->n_done++;
        h->moved_s = now_s();
        pthread_cond_broadcast(&h->changed);
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

/* Signals such as SIGINT must find a thread of the program, not this one; faults stay here. */
static bool start_thread(struct handoff *h)
{
    sigset_t blocked, before;
    sigfillset(&blocked);
    sigdelset(&blocked, SIGSEGV);
    sigdelset(&blocked, SIGBUS);
    sigdelset(&blocked, SIGFPE);
    sigdelset(&blocked, SIGILL);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    bool ok = pthread_create(&h->thread, NULL, compute, h) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return ok;
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
    if (!start_thread(h)) {
        pthread_cond_destroy(&h->changed);
        pthread_mutex_destroy(&h->lock);
        mem_free(h);
        return fail(err, ERR_RUN, "a thread for the hand-off cannot be started");
    }
    *out = h;
    return true;
}

void handoff_close(struct handoff *h)
{
    if (!h)
        return;
    pthread_mutex_lock(&h->lock);
    h->quit = true;
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
    if (!h->late && !await_idle(h)) {
        h->late = true;
        pthread_cond_broadcast(&h->changed);
    }
    pthread_mutex_unlock(&h->lock);
}

/* ---- on the thread that queues ---- */

bool handoff_begin(struct handoff *h, handoff_work *work, void *ctx)
{
    pthread_mutex_lock(&h->lock);
    bool ready = !h->given_up && await_idle(h);
    if (ready) {
        h->n_started = h->n_done = 0;
        h->work = work;
        h->ctx = ctx;
    }
    h->late = !ready;
    h->moved_s = now_s();
    pthread_mutex_unlock(&h->lock);
    h->n_queued = 0;
    return ready;
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
        if (h->n_done == h->n_started && now_s() > gpu->deadline(s, h->moved_s)) {
            gpu->give_up(s);
            h->given_up = h->late = true;
        }
    }
}

void handoff_keep_pace(struct handoff *h, const struct gpu_launchers *gpu, struct gpu_stream *s)
{
    pthread_mutex_lock(&h->lock);
    await_count(h, &h->n_started, h->n_queued - 1, gpu, s);
    pthread_mutex_unlock(&h->lock);
}

bool handoff_finish(struct handoff *h, const struct gpu_launchers *gpu, struct gpu_stream *s,
                    struct error *err)
{
    pthread_mutex_lock(&h->lock);
    await_count(h, &h->n_done, h->n_queued, gpu, s);
    if (h->given_up) { /* the stream says so */
        pthread_mutex_unlock(&h->lock);
        return false;
    }
    bool ok = !h->late && await_idle(h);
    pthread_mutex_unlock(&h->lock);
    return ok || fail(err, ERR_RUN, "the CPU did not come back with the experts of a layer within "
                      "%g seconds", h->limit_s);
}
