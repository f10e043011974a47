/* Weaving the copied matrices, see src/format/weave.h: group by group in place, on all workers. */
#include <string.h>

#include "src/base/mem.h"
#include "src/base/pool.h"
#include "src/base/util.h"
#include "src/format/quant.h"
#include "src/format/weave.h"
#include "src/model/arch.h"

#define SLICE_BYTES ((size_t)64 << 20) /* between calls of progress: some 30 ms on two cores */

struct weave_job {
    const struct weight *w;
    int64_t first;       /* unit of the slice at hand */
    uint8_t *buffer;     /* [workers, group_bytes] */
    size_t group_bytes;  /* of the widest matrix */
};

/* Units: groups of 16 rows, those of one matrix behind those of the other. */
static void weave_groups(void *ctx, int64_t begin, int64_t end, int worker)
{
    const struct weave_job *j = ctx;
    uint8_t *rows = j->buffer + (size_t)worker * j->group_bytes;
    size_t bytes = WEAVE_ROWS * j->w->row_bytes;
    int64_t groups = j->w->rows / WEAVE_ROWS; /* of a matrix */
    for (int64_t g = j->first + begin; g < j->first + end; g++) {
        const void *at = weight_at(j->w, g / groups, g % groups * WEAVE_ROWS);
        uint8_t *group = (uint8_t *)(uintptr_t)at; /* in our own copy */
        memcpy(rows, group, bytes);
        weave_rows(j->w->type, j->w->cols, rows, group);
    }
}

/* Whole groups everywhere: in parts, and in the halves of fused gate and up (which, where they are
 * split into parts as well, stay as they are). */
bool model_weavable(const struct model_tensor *mt, const bool types[N_TENSOR_TYPES])
{
    const struct weight *w = mt->weight;
    bool fused = mt->spec->shape[1] == DIM_EXPERT2;
    return !mt->spec->is_f32 && !mt->spec->by_rows && types[w->type] && weave_known(w->type) &&
           w->cols <= WEAVE_MAX_COLS && w->rows % ((fused ? 2 : 1) * WEAVE_ROWS) == 0 &&
           (w->part_rows == 0 || (!fused && w->part_rows % WEAVE_ROWS == 0));
}

static bool is_weavable(const struct model *m, const struct model_tensor *mt,
                        const bool types[N_TENSOR_TYPES])
{
    const char *copy = m->copy, *data = mt->weight->data;
    return data >= copy && data < copy + m->copy_bytes && !mt->weight->woven &&
           model_weavable(mt, types);
}

static size_t weight_bytes(const struct weight *w)
{
    return (size_t)(w->n_matrices * w->rows) * w->row_bytes;
}

uint64_t model_weave_bytes(const struct model *m, const bool types[N_TENSOR_TYPES])
{
    uint64_t bytes = 0;
    for (int i = 0; i < m->n_tensors; i++)
        if (m->tensors[i].role != ROLE_MTP && model_weavable(&m->tensors[i], types))
            bytes += weight_bytes(m->tensors[i].weight);
    return bytes;
}

/* One weight, slice by slice. */
static bool weave_weight(struct weave_job *j, struct pool *pool, load_progress *progress, void *ctx,
                         uint64_t *done, uint64_t total, struct error *err)
{
    int64_t n = j->w->n_matrices * j->w->rows / WEAVE_ROWS;
    int64_t slice = (int64_t)(SLICE_BYTES / (WEAVE_ROWS * j->w->row_bytes)) + 1;
    for (j->first = 0; j->first < n; j->first += slice) {
        int64_t units = min_of(slice, n - j->first);
        pool_run(pool, weave_groups, j, units, 16);
        *done += (uint64_t)units * WEAVE_ROWS * j->w->row_bytes;
        if (progress && !progress(ctx, min_of(*done, total), total))
            return fail(err, ERR_INTERRUPTED, "loading was interrupted");
    }
    return true;
}

bool model_weave(struct model *m, const bool types[N_TENSOR_TYPES], struct pool *pool,
                 load_progress *progress, void *ctx, struct error *err)
{
    struct weave_job job = { 0 };
    uint64_t done = 0, total = model_weave_bytes(m, types);
    for (int i = 0; m->copy && i < m->n_tensors; i++)
        if (is_weavable(m, &m->tensors[i], types))
            job.group_bytes = max_of(job.group_bytes,
                                     align_up(WEAVE_ROWS * m->tensors[i].weight->row_bytes, 64));
    if (job.group_bytes == 0)
        return true;
    job.buffer = mem_alloc_aligned((size_t)pool_threads(pool), job.group_bytes, "rows to weave",
                                   err);
    bool ok = job.buffer;
    for (int i = 0; ok && i < m->n_tensors; i++) {
        struct weight *w = m->tensors[i].weight;
        if (!is_weavable(m, &m->tensors[i], types))
            continue;
        job.w = w;
        ok = weave_weight(&job, pool, progress, ctx, &done, total, err);
        w->woven = ok; /* else half of it is, and the model is closed */
    }
    mem_free(job.buffer);
    for (int i = 0; ok && i < m->params.n_layers + m->params.n_mtp; i++)
        ok = m->arch->assemble(m, i, err); /* operations hold copies of struct weight */
    return ok;
}
