#include "src/cli/probe.h"

#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "src/base/mem.h"
#include "src/base/pool.h"
#include "src/base/util.h"
#include "src/cli/signals.h"
#include "src/model/memory.h"

#define MIB (1024.0 * 1024.0)
#define PASS_S 0.06   /* shortest time worth a measurement */
#define N_PASSES 3
#define LINE 64       /* bytes; shares are whole lines */
#define AHEAD 2048    /* bytes between reading and asking, for the loop with prefetch */

/* Reader loops: every byte of [at, at + bytes) once, bytes a multiple of 8 * LINE. The result keeps
 * the compiler honest. Which one is fastest depends on the core's prefetchers. */
typedef uint64_t reader(const uint64_t *at, size_t bytes);

static uint64_t read_one_stream(const uint64_t *at, size_t bytes)
{
    uint64_t sum[16] = { 0 };
    for (size_t i = 0; i < bytes / 8; i += 16)
        for (size_t j = 0; j < 16; j++)
            sum[j] += at[i + j];
    for (size_t j = 1; j < 16; j++)
        sum[0] += sum[j];
    return sum[0];
}

static uint64_t read_with_prefetch(const uint64_t *at, size_t bytes)
{
    uint64_t sum[16] = { 0 };
    for (size_t i = 0; i < bytes / 8; i += 16) {
        __builtin_prefetch((const char *)(at + i) + AHEAD);
        __builtin_prefetch((const char *)(at + i) + AHEAD + LINE);
        for (size_t j = 0; j < 16; j++)
            sum[j] += at[i + j];
    }
    for (size_t j = 1; j < 16; j++)
        sum[0] += sum[j];
    return sum[0];
}

static uint64_t read_four_streams(const uint64_t *at, size_t bytes)
{
    uint64_t sum[8] = { 0 };
    size_t quarter = bytes / 8 / 4 / 8 * 8;
    for (size_t i = 0; i < quarter; i += 8)
        for (size_t j = 0; j < 8; j++)
            sum[j] += at[i + j] + at[quarter + i + j] + at[2 * quarter + i + j] +
                      at[3 * quarter + i + j];
    for (size_t j = 1; j < 8; j++)
        sum[0] += sum[j];
    return sum[0];
}

/* The C library searches with the widest loads it has; the region holds no such byte. */
static uint64_t read_search(const uint64_t *at, size_t bytes)
{
    return memchr(at, 0x5a, bytes) != NULL;
}

static const struct {
    const char *name;
    reader *read;
} loops[] = {
    { "one stream", read_one_stream },
    { "one stream with prefetch", read_with_prefetch },
    { "four streams", read_four_streams },
    { "memchr", read_search },
};

#define BLOCK (8 * LINE * 1024) /* bytes per item of the pool */
#define SLICE 64                /* blocks per thread between two looks at the clock */

struct job {
    uint64_t *region;
    reader *read; /* NULL: fill, so that each page lies near its reader */
    int64_t n_blocks;
    int64_t at, chunk; /* blocks: where the next slice begins, and how long slices are */
    _Atomic uint64_t sink; /* relaxed would do: only there to be written */
};

static void on_share(void *ctx, int64_t begin, int64_t end, int worker)
{
    struct job *j = ctx;
    uint64_t *at = j->region + (j->at + begin) * (BLOCK / 8);
    size_t bytes = (size_t)(end - begin) * BLOCK;
    (void)worker;
    if (!j->read)
        memset(at, 1, bytes);
    else if (bytes)
        j->sink += j->read(at, bytes);
}

/* Best rate of a few passes. Slice follows slice through the whole region, so that nothing is read
 * again before all the rest was. */
static double measure(struct pool *pool, struct job *job, reader *read, int n_passes)
{
    double best = 0;
    job->read = read;
    for (int pass = 0; pass < n_passes && !signals_cancelled(); pass++) {
        double start = now_s(), elapsed;
        int64_t blocks = 0;
        do {
            int64_t n = min_of(job->chunk, job->n_blocks - job->at);
            pool_run(pool, on_share, job, n, 1);
            job->at = job->at + n < job->n_blocks ? job->at + n : 0;
            blocks += n;
            elapsed = now_s() - start;
        } while (elapsed < PASS_S);
        best = max_of(best, (double)blocks * BLOCK / elapsed / 1e9);
    }
    return best;
}

/* So much that no cache holds it: four times the last one (two when quick), at least 256 MiB, at
 * most a quarter of what is free. */
static size_t region_blocks(bool quick)
{
    double cache = (double)max_of(sysconf(_SC_LEVEL3_CACHE_SIZE), 0);
    double bytes = max_of(256 * MIB, (quick ? 2 : 4) * cache);
    bytes = min_of(bytes, (quick ? 1024 : 4096) * MIB);
    return (size_t)(max_of(16 * MIB, min_of(bytes, (double)memory_available() / 4)) / BLOCK);
}

static bool add_point(struct probe *p, struct job *job, int threads, int n_passes,
                      struct error *err)
{
    struct pool *pool = NULL;
    if (!pool_open(&pool, threads, err))
        return false;
    double best = 0;
    for (size_t i = 0; i < ARRAY_LEN(loops); i++) {
        double gb_s = measure(pool, job, loops[i].read, n_passes);
        if (gb_s > best)
            best = gb_s;
        if (gb_s > p->best_gb_s) {
            p->best_gb_s = gb_s;
            p->best_threads = pool_threads(pool);
            p->loop = loops[i].name;
        }
    }
    p->curve[p->n_points++] = (struct probe_point){ pool_threads(pool), best };
    pool_close(pool);
    return !signals_cancelled() || fail(err, ERR_INTERRUPTED, "interrupted");
}

bool probe_run(struct probe *p, int n_threads, bool quick, struct error *err)
{
    struct job job = { .n_blocks = (int64_t)region_blocks(quick) };
    struct pool *pool = NULL;
    size_t bytes = (size_t)job.n_blocks * BLOCK;
    memset(p, 0, sizeof *p);
    p->region_bytes = (double)bytes;
    if (n_threads <= 0)
        n_threads = cpu_usable_cores();
    job.region = mem_alloc_aligned((size_t)job.n_blocks, BLOCK, "region of the memory probe", err);
    if (!job.region || !pool_open(&pool, n_threads, err)) {
        mem_free(job.region);
        return false;
    }
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t start = ((uintptr_t)job.region + page - 1) / page * page;
    madvise((void *)start, ((uintptr_t)job.region + bytes - start) / page * page, MADV_HUGEPAGE);
    pool_run(pool, on_share, &job, job.n_blocks, 1);
    job.chunk = min_of(job.n_blocks, (int64_t)pool_threads(pool) * SLICE);
    pool_close(pool);

    bool ok = true;
    for (int n = quick ? n_threads : 1; ok && p->n_points < PROBE_MAX_POINTS; n *= 2) {
        ok = add_point(p, &job, min_of(n, n_threads), quick ? 1 : N_PASSES, err);
        if (n >= n_threads)
            break;
    }
    for (int i = p->n_points - 1; i >= 0; i--)
        if (p->curve[i].gb_s >= 0.95 * p->best_gb_s)
            p->enough_threads = p->curve[i].threads;
    mem_free(job.region);
    return ok;
}
