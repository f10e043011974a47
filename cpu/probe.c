#include "cpu/probe_rig.h"

#include <math.h>
#include <string.h>

#include "src/base/mem.h"
#include "src/base/pages.h"
#include "src/base/util.h"

#define FILL 0x21
#define HUGE_PAGE ((size_t)2 << 20)
#define LEAST_WORKER_BYTES (16 * HUGE_PAGE)
#define LEAST_SLICE ((size_t)16 << 10)
#define N_PASSES 3
#define OUT_FLOATS (PROBE_MAX_TOKENS * 64)
#define MAX_ACT_BYTES (PROBE_COLS * sizeof(float))

/* ---- the rig ---- */

bool probe_cancelled(const struct probe *p)
{
    return p->options.cancel &&
           atomic_load_explicit(p->options.cancel, memory_order_relaxed) != 0;
}

struct fill_job {
    struct probe *p;
    size_t at, bytes; /* within each part */
};

static void fill_part(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct fill_job *j = ctx;
    (void)begin, (void)end;
    memset(j->p->region + (size_t)worker * j->p->worker_bytes + j->at, FILL, j->bytes);
}

/* Every part by its worker. A fresh virtual machine takes its time to hand out pages: behind the
 * limit the probe makes do with what there is. The parts stay where they are. */
static bool fill(struct probe *p, size_t *filled, struct error *err)
{
    double start = now_s();
    for (*filled = 0; *filled < p->worker_bytes; *filled += HUGE_PAGE) {
        struct fill_job job = { p, *filled, HUGE_PAGE };
        double limit = p->options.fill_s;
        if (limit > 0 && *filled >= LEAST_WORKER_BYTES && now_s() - start > limit)
            break;
        if (probe_cancelled(p))
            return fail(err, ERR_INTERRUPTED, "interrupted");
        pool_run_team(p->pool, fill_part, &job);
    }
    return true;
}

static bool open_region(struct probe *p, struct error *err)
{
    size_t n = (size_t)pool_threads(p->pool);
    p->worker_bytes = align_up(max_of(p->options.worker_bytes, LEAST_WORKER_BYTES), HUGE_PAGE);
    p->map_bytes = n * p->worker_bytes + HUGE_PAGE; /* room to begin at a huge page */
    p->map = mem_map(p->map_bytes, "region of the memory probe", err);
    if (!p->map)
        return false;
    p->region = (uint8_t *)align_up((size_t)(uintptr_t)p->map, HUGE_PAGE);
    return true;
}

bool probe_open(struct probe **out, const struct probe_options *o, struct error *err)
{
    *out = NULL;
    struct probe *p = mem_alloc(1, sizeof *p, "memory probe", err);
    if (!p)
        return false;
    p->options = *o;
    kernels_init(&p->kernels, o->isa);
    size_t filled = 0;
    bool ok = pool_open(&p->pool, o->n_threads, err) && open_region(p, err) &&
              fill(p, &filled, err);
    if (ok) {
        p->part_bytes = filled;
        p->act_stride = MAX_ACT_BYTES;
        p->out_stride = OUT_FLOATS;
        p->order = mem_alloc(filled / LEAST_SLICE, sizeof *p->order, "order of the slices", err);
        p->act = mem_alloc_aligned(PROBE_MAX_TOKENS, p->act_stride, "activations", err);
        p->out = mem_alloc_aligned((size_t)pool_threads(p->pool) * p->out_stride, sizeof *p->out,
                                   "products", err);
        ok = p->order && p->act && p->out;
    }
    if (!ok) {
        probe_close(p);
        return false;
    }
    *out = p;
    return true;
}

void probe_close(struct probe *p)
{
    if (!p)
        return;
    pool_close(p->pool);
    mem_unmap(p->map, p->map_bytes);
    mem_free(p->order);
    mem_free(p->act);
    mem_free(p->out);
    mem_free(p);
}

int probe_threads(const struct probe *p)
{
    return pool_threads(p->pool);
}

size_t probe_region_bytes(const struct probe *p)
{
    return (size_t)pool_threads(p->pool) * p->part_bytes;
}

double probe_huge_share(const struct probe *p)
{
    struct pages pages;
    if (!pages_of(p->region, (size_t)pool_threads(p->pool) * p->worker_bytes, &pages))
        return NAN;
    return (double)pages.huge_bytes / (double)pages.resident_bytes;
}

/* ---- measuring ---- */

struct layer_job {
    struct probe *p;
    const struct pass *pass;
    size_t at, n_slices; /* where this layer begins, and how many slices a part has */
};

static void run_layer(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct layer_job *j = ctx;
    const struct pass *pass = j->pass;
    const uint8_t *part = j->p->region + (size_t)worker * j->p->worker_bytes;
    (void)begin, (void)end;
    if (worker >= pass->n_workers)
        return;
    for (int i = 0; i < pass->order.n_slices; i++) {
        size_t slice = (j->at + (size_t)i) % j->n_slices;
        if (pass->shuffled)
            slice = j->p->order[slice];
        pass->fn(j->p, pass->arg, part + slice * pass->order.slice_bytes, pass->order.slice_bytes,
                 worker);
    }
}

/* A fixed permutation: nothing is read again before all the rest was. */
static void shuffle(struct probe *p, size_t n)
{
    uint64_t state = 1;
    if (p->n_ordered == n)
        return;
    for (size_t i = 0; i < n; i++)
        p->order[i] = (uint32_t)i;
    for (size_t i = n - 1; i > 0; i--) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        size_t other = (size_t)((state >> 33) % (i + 1));
        uint32_t swap = p->order[i];
        p->order[i] = p->order[other];
        p->order[other] = swap;
    }
    p->n_ordered = n;
}

double probe_measure(struct probe *p, const struct pass *pass, double seconds)
{
    struct pass fitted = *pass;
    size_t slice = pass->order.slice_bytes / 1024 * 1024;
    fitted.order.slice_bytes = min_of(max_of(slice, LEAST_SLICE), p->part_bytes);
    struct layer_job job = { .p = p, .pass = &fitted,
                             .n_slices = p->part_bytes / fitted.order.slice_bytes };
    double best = 0, layer_bytes = (double)fitted.order.slice_bytes * fitted.order.n_slices *
                                   fitted.n_workers;
    if (pass->shuffled)
        shuffle(p, job.n_slices);
    double first = now_s();
    for (int i = 0; i < N_PASSES && !probe_cancelled(p); i++) {
        double start = now_s(), elapsed, bytes = 0;
        if (i > 0 && start - first > 1.5 * seconds) /* a slow kernel: one layer was long enough */
            break;
        do {
            pool_run_team(p->pool, run_layer, &job);
            job.at = (job.at + (size_t)fitted.order.n_slices) % job.n_slices;
            bytes += layer_bytes;
            elapsed = now_s() - start;
        } while (elapsed < seconds / N_PASSES && !probe_cancelled(p));
        best = max_of(best, bytes / elapsed);
    }
    return best;
}

/* ---- readers ---- */

/* Which one is fastest depends on the core: how wide its loads are, how far its prefetchers see,
 * whether they cross pages. */
#define AHEAD 2048
#define PIECE (2 * READ_STEP)

/* The result keeps the compiler honest. */
static void keep(uint64_t value)
{
    __asm__ volatile("" : : "r"(value));
}

static void read_plain(struct probe *p, const void *arg, const uint8_t *at, size_t bytes, int worker)
{
    uint64_t sum[8] = { 0 };
    const uint64_t *words = (const uint64_t *)(const void *)at;
    (void)p, (void)arg, (void)worker;
    for (size_t i = 0; i < bytes / 8; i += 8)
        for (size_t j = 0; j < 8; j++)
            sum[j] += words[i + j];
    for (size_t j = 0; j < 8; j++)
        keep(sum[j]);
}

static void read_wide(struct probe *p, const void *arg, const uint8_t *at, size_t bytes, int worker)
{
    (void)arg, (void)worker;
    keep(p->kernels.read_words(at, bytes));
}

static void read_ahead(struct probe *p, const void *arg, const uint8_t *at, size_t bytes, int worker)
{
    (void)arg, (void)worker;
    for (size_t i = 0; i < bytes; i += PIECE) {
        for (size_t j = 0; j < PIECE; j += 64)
            __builtin_prefetch(at + i + AHEAD + j);
        keep(p->kernels.read_words(at + i, PIECE));
    }
}

static void read_non_temporal(struct probe *p, const void *arg, const uint8_t *at, size_t bytes,
                              int worker)
{
    (void)arg, (void)worker;
    for (size_t i = 0; i < bytes; i += PIECE) {
        for (size_t j = 0; j < PIECE; j += 64)
            __builtin_prefetch(at + i + AHEAD + j, 0, 0);
        keep(p->kernels.read_words(at + i, PIECE));
    }
}

static void read_four_streams(struct probe *p, const void *arg, const uint8_t *at, size_t bytes,
                              int worker)
{
    size_t quarter = bytes / 4 / READ_STEP * READ_STEP;
    (void)arg, (void)worker;
    for (size_t i = 0; i < quarter; i += READ_STEP)
        for (size_t j = 0; j < 4; j++)
            keep(p->kernels.read_words(at + j * quarter + i, READ_STEP));
}

/* The C library searches with the widest loads it has; the region holds no such byte. */
static void read_search(struct probe *p, const void *arg, const uint8_t *at, size_t bytes,
                        int worker)
{
    (void)p, (void)arg, (void)worker;
    keep(memchr(at, 0, bytes) != NULL);
}

static const struct {
    const char *name;
    slice_fn *read;
} readers[] = {
    { "plain C", read_plain },
    { "widest loads", read_wide },
    { "widest loads, prefetching", read_ahead },
    { "widest loads, non-temporal prefetching", read_non_temporal },
    { "widest loads, four streams", read_four_streams },
    { "memchr", read_search },
};

double probe_read(struct probe *p, int n_workers, double seconds, const char **reader)
{
    double best = 0;
    for (size_t i = 0; i < ARRAY_LEN(readers); i++) {
        struct pass pass = { .fn = readers[i].read, .order = { 4 * HUGE_PAGE, 4 },
                             .n_workers = min_of(max_of(n_workers, 1), probe_threads(p)) };
        double rate = probe_measure(p, &pass, seconds / ARRAY_LEN(readers));
        if (rate > best && reader)
            *reader = readers[i].name;
        best = max_of(best, rate);
    }
    return best / 1e9;
}

double probe_stream(struct probe *p, struct probe_order order, double seconds)
{
    struct pass pass = { .fn = read_ahead, .order = order, .n_workers = probe_threads(p),
                         .shuffled = true };
    double best = probe_measure(p, &pass, seconds / 2);
    pass.fn = read_wide;
    double other = probe_measure(p, &pass, seconds / 2);
    return max_of(best, other) / 1e9;
}
