/* The one thread pool.
 *
 * Created once; the calling thread is worker 0 and works along, so a pool of n has n - 1 threads of
 * its own. Work is split statically: the same items go to the same worker in every run, rows are
 * computed whole by one worker, so results never depend on timing.
 *
 * With no more workers than usable CPUs each worker is pinned to one of them, in the order of the
 * NUMA nodes (so equal shares of the same items lie on the same nodes), and waits by spinning
 * for a bounded time, then sleeps on a futex; with more, nobody is pinned and nobody spins. The
 * caller is pinned too until pool_close; threads that it starts meanwhile inherit its one CPU.
 * Inside a job: no locks, no allocation, no logging; a worker writes only its own items.
 * pool_run must not be called from inside a job, nor from two threads at once. */
#ifndef TANDEM_BASE_POOL_H
#define TANDEM_BASE_POOL_H

#include <stdint.h>

#include "src/base/error.h"

struct pool;

/* Items [begin, end) belong to this call; `worker` in 0 .. n_threads-1. */
typedef void pool_job(void *ctx, int64_t begin, int64_t end, int worker);

/* n_threads <= 0: cpu_usable_cores(). When a thread cannot be created the pool gets along with
 * fewer and logs a note. ERR_FIT without memory. */
bool pool_open(struct pool **out, int n_threads, struct error *err);
void pool_close(struct pool *p); /* joins; NULL is fine */
int pool_threads(const struct pool *p);

/* For who has a thread of its own call pool_run, one that shares the caller's processor: the caller of
 * pool_open, who has other things to do, goes to processors that no worker is pinned to, or where there
 * are none, to all it had before. And comes back. */
void pool_leave(struct pool *p);
void pool_enter(struct pool *p);

/* Run `job` over items 0 .. n-1 in contiguous shares whose borders are multiples of `grain`
 * (>= 1); returns when all are done. Everything written before the call is seen by the job,
 * everything the job wrote is seen after it. */
void pool_run(struct pool *p, pool_job *job, void *ctx, int64_t n, int64_t grain);

/* Run `job` once on every worker, with begin = worker and end = n_threads; inside it,
 * pool_barrier makes all workers wait for each other. For operations of several phases. */
void pool_run_team(struct pool *p, pool_job *job, void *ctx);
void pool_barrier(struct pool *p, int worker);

/* The share of worker `worker` of `n_workers` in 0 .. n-1, cut at multiples of grain. */
void pool_share(int64_t n, int64_t grain, int worker, int n_workers, int64_t *begin, int64_t *end);

/* Physical performance cores that this process may use: affinity mask and cgroup quota respected,
 * SMT siblings and efficiency cores left out. At least 1. */
int cpu_usable_cores(void);

#endif
