/* How the workers meet.
 *
 * There are two events, and everything is made of them:
 *   release: the leader (worker 0) bumps `phase`; the others wait for it to change.
 *   arrival: worker w bumps the counter on its own line; the leader waits for each in turn.
 * A job is release, work, arrival; a barrier inside a job is arrival, release. So no cache line is
 * written by two workers, and the counters of an idle pool tell what everybody does.
 *
 * Waiting means spinning for a bounded time, then a futex on the awaited word. Two bounds: the long
 * one bridges the gaps of a step, such as the GPU's part of a layer. Where other programs want the
 * processors too, a partner may be off its core for several milliseconds; spinning on it then only
 * costs us our own share. So a wait that outlasted the long bound is followed by short ones, until
 * one ends between the two.
 *
 * Whoever sleeps has said so in a flag before it looked at the word for the last time, and whoever
 * changes the word looks at the flag afterwards; both in sequentially consistent order, so one of
 * them sees the other.
 *
 * The floating point mode is left alone: flush-to-zero in our own threads but not in the caller's
 * would make results depend on who computes a row. Kernels avoid subnormals where they would arise
 * in numbers (softmax). */
#include "src/base/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "src/base/cpus.h"
#include "src/base/log.h"
#include "src/base/mem.h"
#include "src/base/thread.h"
#include "src/base/util.h"

#define MAX_THREADS 1024
#define LONG_SPIN 500e-6 /* seconds */
#define SHORT_SPIN 50e-6

/* What one worker tells the leader. A line of its own. */
struct seat {
    _Alignas(64) atomic_uint arrived; /* written by the worker only */
    atomic_uint leader_sleeps;        /* written by the leader only */
    pthread_t thread;
    struct pool *pool;
    int worker;
    short cpu; /* to be pinned to */
    long patience; /* polls before sleeping; read and written by the worker only */
};

struct pool {
    _Alignas(64) atomic_uint phase;    /* written by the leader only */
    _Alignas(64) atomic_uint sleepers; /* workers that sleep, or are about to, on phase */
    /* The job. Written by the leader before it bumps phase, read by workers after they saw that. */
    _Alignas(64) pool_job *job;
    void *ctx;
    int64_t n, grain; /* n < 0: a team job */
    bool quit;

    int n_threads;
    unsigned n_arrivals; /* leader: what each seat's counter shows when all have arrived */
    long long_spin, short_spin; /* in polls; 0: nobody spins */
    bool pinned;
    cpu_set_t callers_mask; /* of the thread that opened the pool, while it is pinned */
    struct seat *seats;     /* [n_threads]; of seat 0 only the patience is used */
};

static void futex_wait(atomic_uint *word, unsigned seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake_all(atomic_uint *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Tell the core that this is a spin loop. */
static inline void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Poll until *word differs from `seen`; false when the patience is used up. */
static bool spin_until_changed(atomic_uint *word, unsigned seen, long polls)
{
    for (long i = 0; i < polls; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != seen)
            return true;
        spin_pause();
    }
    return atomic_load_explicit(word, memory_order_acquire) != seen;
}

/* Sleep until *word differs from `seen`; `sleepers` tells whoever changes the word. Learns how long
 * the next wait of `s` may spin. */
static void sleep_until_changed(struct pool *p, struct seat *s, atomic_uint *word, unsigned seen,
                                atomic_uint *sleepers)
{
    double start = now_s();
    atomic_fetch_add(sleepers, 1);
    while (atomic_load(word) == seen)
        futex_wait(word, seen);
    atomic_fetch_sub(sleepers, 1);
    s->patience = now_s() - start < LONG_SPIN ? p->long_spin : p->short_spin;
}

static void release(struct pool *p)
{
    atomic_fetch_add(&p->phase, 1);
    if (atomic_load(&p->sleepers))
        futex_wake_all(&p->phase);
}

static void await_release(struct pool *p, struct seat *s, unsigned seen)
{
    if (!spin_until_changed(&p->phase, seen, s->patience))
        sleep_until_changed(p, s, &p->phase, seen, &p->sleepers);
}

static void arrive(struct seat *s)
{
    atomic_fetch_add(&s->arrived, 1);
    if (atomic_load(&s->leader_sleeps))
        futex_wake_all(&s->arrived);
}

static void await_arrivals(struct pool *p)
{
    p->n_arrivals++;
    for (int w = 1; w < p->n_threads; w++) {
        struct seat *s = &p->seats[w];
        unsigned before = p->n_arrivals - 1;
        if (!spin_until_changed(&s->arrived, before, p->seats[0].patience))
            sleep_until_changed(p, &p->seats[0], &s->arrived, before, &s->leader_sleeps);
    }
}

void pool_share(int64_t n, int64_t grain, int worker, int n_workers, int64_t *begin, int64_t *end)
{
    int64_t pieces = n / grain + (n % grain != 0);
    int64_t each = pieces / n_workers, rest = pieces % n_workers;
    int64_t first = worker * each + min_of(worker, rest);
    int64_t last = first + each + (worker < rest);
    *begin = min_of(first * grain, n);
    *end = min_of(last * grain, n);
}

static void work(const struct pool *p, int worker)
{
    if (p->n < 0) {
        p->job(p->ctx, worker, p->n_threads, worker);
        return;
    }
    int64_t begin, end;
    pool_share(p->n, p->grain, worker, p->n_threads, &begin, &end);
    if (begin < end)
        p->job(p->ctx, begin, end, worker);
}

static void *worker_main(void *arg)
{
    struct seat *s = arg;
    struct pool *p = s->pool;
    unsigned seen = 0;
    for (;;) {
        await_release(p, s, seen);
        if (p->quit)
            return NULL;
        work(p, s->worker);
        /* The phase of this job, or of the last barrier in it: it stays until we arrive. */
        seen = atomic_load_explicit(&p->phase, memory_order_relaxed);
        arrive(s);
    }
}

static void run(struct pool *p, pool_job *job, void *ctx, int64_t n, int64_t grain)
{
    p->job = job;
    p->ctx = ctx;
    p->n = n;
    p->grain = grain;
    if (p->n_threads > 1)
        release(p);
    work(p, 0);
    if (p->n_threads > 1)
        await_arrivals(p);
}

void pool_run(struct pool *p, pool_job *job, void *ctx, int64_t n, int64_t grain)
{
    grain = max_of(grain, 1);
    if (n > grain)
        run(p, job, ctx, n, grain);
    else if (n > 0)
        job(ctx, 0, n, 0); /* one piece: nobody needs waking */
}

void pool_run_team(struct pool *p, pool_job *job, void *ctx)
{
    run(p, job, ctx, -1, 1);
}

void pool_barrier(struct pool *p, int worker)
{
    if (p->n_threads == 1)
        return;
    if (worker == 0) {
        await_arrivals(p);
        release(p);
    } else {
        unsigned seen = atomic_load_explicit(&p->phase, memory_order_relaxed);
        arrive(&p->seats[worker]);
        await_release(p, &p->seats[worker], seen);
    }
}

/* Seconds of one poll: the length of a pause differs tenfold between processors. The best of a few
 * tries, for somebody else may take the core meanwhile. */
static double measure_poll(void)
{
    atomic_uint word = 0;
    double best = 1;
    for (int i = 0; i < 5; i++) {
        double start = now_s();
        spin_until_changed(&word, 0, 500);
        best = min_of(best, (now_s() - start) / 500);
    }
    return max_of(best, 1e-10);
}

static void choose_cpus(struct pool *p, int n_threads, const struct cpus *cpus)
{
    short chosen[CPUS_MAX];
    cpus_choose(cpus, n_threads, chosen);
    for (int w = 0; w < n_threads; w++)
        p->seats[w].cpu = chosen[w];
}

static bool start_thread(struct pool *p, int worker)
{
    struct seat *s = &p->seats[worker];
    s->pool = p;
    s->worker = worker;
    pthread_attr_t attr;
    if (pthread_attr_init(&attr) != 0)
        return false;
    thread_give_room(&attr);
    if (p->pinned) { /* from its first instruction, so that its stack is local as well */
        cpu_set_t mask;
        CPU_ZERO(&mask);
        CPU_SET(s->cpu, &mask);
        pthread_attr_setaffinity_np(&attr, sizeof mask, &mask);
    }
    bool ok = thread_start(&s->thread, &attr, worker_main, s);
    pthread_attr_destroy(&attr);
    return ok;
}

/* Worker 0 is the caller: pin it too, and remember what it was allowed before. A failure only means
 * that it may wander. */
static void pin_caller(struct pool *p)
{
    cpu_set_t mask;
    CPU_ZERO(&mask);
    CPU_SET(p->seats[0].cpu, &mask);
    p->pinned = pthread_getaffinity_np(pthread_self(), sizeof p->callers_mask,
                                       &p->callers_mask) == 0 &&
                pthread_setaffinity_np(pthread_self(), sizeof mask, &mask) == 0;
}

bool pool_open(struct pool **out, int n_threads, struct error *err)
{
    const struct cpus *cpus = cpus_usable();
    if (n_threads <= 0)
        n_threads = cpus->n_cores;
    n_threads = min_of(n_threads, MAX_THREADS);

    *out = NULL;
    struct pool *p = mem_alloc_aligned(1, sizeof *p, "thread pool", err);
    struct seat *seats = p ? mem_alloc_aligned((size_t)n_threads, sizeof *seats, "thread pool", err)
                           : NULL;
    if (!seats) {
        mem_free(p);
        return false;
    }
    memset(p, 0, sizeof *p);
    memset(seats, 0, (size_t)n_threads * sizeof *seats);
    p->seats = seats;
    p->n_threads = 1;
    bool own_cpus = n_threads <= min_of(cpus->n_pinnable, cpus->n_list);
    if (own_cpus) {
        double poll = measure_poll();
        p->long_spin = (long)(LONG_SPIN / poll);
        p->short_spin = (long)(SHORT_SPIN / poll);
    }
    for (int w = 0; w < n_threads; w++)
        seats[w].patience = p->long_spin;
    p->pinned = own_cpus && n_threads > 1;
    if (p->pinned)
        choose_cpus(p, n_threads, cpus);
    while (p->n_threads < n_threads && start_thread(p, p->n_threads))
        p->n_threads++;
    if (p->n_threads < n_threads)
        log_note("only %d of %d threads could be started", p->n_threads, n_threads);
    if (p->pinned)
        pin_caller(p);
    *out = p;
    return true;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    p->quit = true;
    release(p);
    for (int w = 1; w < p->n_threads; w++)
        pthread_join(p->seats[w].thread, NULL);
    if (p->pinned)
        pthread_setaffinity_np(pthread_self(), sizeof p->callers_mask, &p->callers_mask);
    mem_free(p->seats);
    mem_free(p);
}

void pool_leave(struct pool *p)
{
    cpu_set_t mask = p->callers_mask;
    if (!p->pinned)
        return;
    for (int w = 0; w < p->n_threads; w++)
        CPU_CLR(p->seats[w].cpu, &mask);
    const cpu_set_t *to = CPU_COUNT(&mask) > 0 ? &mask : &p->callers_mask;
    pthread_setaffinity_np(pthread_self(), sizeof *to, to);
}

void pool_enter(struct pool *p)
{
    cpu_set_t mask;
    if (!p->pinned)
        return;
    CPU_ZERO(&mask);
    CPU_SET(p->seats[0].cpu, &mask);
    pthread_setaffinity_np(pthread_self(), sizeof mask, &mask);
}

int pool_threads(const struct pool *p)
{
    return p->n_threads;
}
