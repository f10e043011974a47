#include "src/cli/inspect_scan.h"

#include "src/base/pool.h"
#include "src/cli/signals.h"
#include "src/format/quant.h"

static void work(void *ctx, int64_t begin, int64_t end, int worker)
{
    struct scan *s = ctx;
    (void)begin, (void)end;
    while (!signals_cancelled()) {
        long long item = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
        if (item >= s->n_items)
            break;
        s->item(s, item, worker);
    }
}

bool scan_run(struct scan *s, struct error *err)
{
    struct pool *pool = NULL;
    if (!pool_open(&pool, 0, err))
        return false;
    progress_begin(&s->progress, s->label, NULL);
    pool_run(pool, work, s, pool_threads(pool), 1);
    progress_end(&s->progress);
    pool_close(pool);
    return !signals_cancelled() || fail(err, ERR_INTERRUPTED, "interrupted");
}

bool scan_step(struct scan *s, uint64_t bytes, int worker)
{
    long long done = atomic_fetch_add_explicit(&s->done_bytes, (long long)bytes,
                                               memory_order_relaxed);
    if (worker == 0) /* the calling thread */
        progress_update(&s->progress, (double)done + (double)bytes, (double)s->total_bytes);
    return !signals_cancelled();
}

void scan_decode(const struct tensor *t, uint64_t at, uint64_t n, float *out)
{
    const struct quant_traits *traits = quant_traits(t->type);
    const uint8_t *blocks = t->data;
    uint64_t block = at / (uint64_t)traits->block_elements;
    traits->dequantize(blocks + block * (uint64_t)traits->block_bytes, out, (int64_t)n);
}

uint64_t scan_elements(const struct tensor *t)
{
    return t->ne[0] * tensor_rows(t);
}
