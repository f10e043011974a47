#include "src/cli/retype.h"

#include "src/base/mem.h"
#include "src/format/quant.h"
#include "src/model/arch.h"

bool retyped_open(struct retyped *r, const struct model *m, struct error *err)
{
    size_t n = (size_t)m->n_tensors;
    *r = (struct retyped){ .model = *m };
    r->tensors = mem_alloc(n, sizeof *r->tensors, "tensors to compare", err);
    r->model.tensors = mem_alloc(n, sizeof *r->model.tensors, "table to compare", err);
    if (!r->tensors || !r->model.tensors)
        return false;
    for (size_t i = 0; i < n; i++) {
        r->tensors[i] = *m->tensors[i].tensor;
        r->model.tensors[i] = m->tensors[i];
        r->model.tensors[i].tensor = &r->tensors[i];
    }
    return true;
}

void retyped_set(struct retyped *r, int i, enum tensor_type type)
{
    struct tensor *t = &r->tensors[i];
    struct model *m = &r->model;
    uint64_t bytes = quant_row_bytes(type, (int64_t)t->ne[0]) * tensor_rows(t);
    if (m->tensors[i].role != ROLE_MTP)
        m->weight_bytes = m->weight_bytes - t->bytes + bytes;
    t->type = type;
    t->bytes = bytes;
}

void retyped_close(struct retyped *r)
{
    mem_free(r->tensors);
    mem_free(r->model.tensors);
    *r = (struct retyped){ 0 };
}
