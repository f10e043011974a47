/* Weaving the copied matrices, see src/format/weave.h: group by group in place, on all workers. */
#include <string.h>

#include "src/base/mem.h"
#include "src/base/pool.h"
#include "src/base/util.h"
#include "src/format/quant.h"
#include "src/format/weave.h"
#include "src/model/arch.h"

struct weave_job {
    const struct weight *w;
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
    for (int64_t g = begin; g < end; g++) {
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

bool model_weave(struct model *m, const bool types[N_TENSOR_TYPES], struct pool *pool,
                 struct error *err)
{
    struct weave_job job = { 0 };
    for (int i = 0; m->copy && i < m->n_tensors; i++)
        if (is_weavable(m, &m->tensors[i], types))
            job.group_bytes = max_of(job.group_bytes,
                                     align_up(WEAVE_ROWS * m->tensors[i].weight->row_bytes, 64));
    if (job.group_bytes == 0)
        return true;
    job.buffer = mem_alloc_aligned((size_t)pool_threads(pool), job.group_bytes, "rows to weave",
                                   err);
    if (!job.buffer)
        return false;
    for (int i = 0; i < m->n_tensors; i++) {
        struct weight *w = m->tensors[i].weight;
        if (!is_weavable(m, &m->tensors[i], types))
            continue;
        job.w = w;
        pool_run(pool, weave_groups, &job, w->n_matrices * w->rows / WEAVE_ROWS, 16);
        w->woven = true;
    }
    mem_free(job.buffer);
    bool ok = true;
    for (int i = 0; ok && i < m->params.n_layers + m->params.n_mtp; i++)
        ok = m->arch->assemble(m, i, err); /* operations hold copies of struct weight */
    return ok;
}
